"""OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_langasync.providers.dialects.base import (
    Dialect,
    Event,
    Json,
    event_stream_of,
    pieces,
    pieces_with_logprobs,
    text_of,
)

__all__ = ["RESPONSES", "Responses"]


class Responses(Dialect):
    """``/responses``."""

    endpoint = "/responses"
    usage_flavor = "responses"
    conversation = ("input",)
    preamble = ("instructions",)
    output_limits = ("max_output_tokens",)
    schemas = ("tools", "text")
    stream_parameters = ("stream", "stream_options")
    echoed = frozenset(
        ("input", "instructions", "metadata", "prompt", "prompt_cache_key", "safety_identifier",
         "text", "tools", "user")
    )  # fmt: skip

    def is_answer(self, body: Any) -> bool:
        """Return whether a body names itself a response."""
        return isinstance(body, Mapping) and body.get("object") == "response"

    def failure(self, body: Json) -> Json | None:
        """Return why a response failed although its status is that of a success."""
        if body.get("status") not in ("failed", "cancelled"):
            return super().failure(body)
        error = body.get("error")
        return error if isinstance(error, Mapping) and error else {"code": body["status"]}

    def is_final(self, body: Any) -> bool:
        """Return whether a response is no longer in the making."""
        made = isinstance(body, Mapping) and body.get("status") in ("queued", "in_progress")
        return not made

    def event_stream(self, body: Json, request_body: Json) -> bytes:
        """Return named events with running numbers."""
        return event_stream_of(_responses_events(body))

    def said(self, body: Json) -> str:
        """Return what all items of the output say."""
        return text_of(body.get("output"))


def _responses_events(body: Json) -> Iterator[Event]:
    unknown_yet = ("usage", "completed_at", "error", "incomplete_details")
    begun = {**body, **{key: None for key in unknown_yet if key in body}}
    begun |= {"status": "in_progress", "output": []}
    status = body.get("status")
    last = status if status in {"completed", "incomplete", "failed"} else "completed"

    def events() -> Iterator[Json]:
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        for index, item in enumerate(body.get("output") or ()):
            yield from _output_item(index, item)
        yield {"type": f"response.{last}", "response": body}

    for number, event in enumerate(events()):
        yield event["type"], {**event, "sequence_number": number}


def _output_item(index: int, item: Json) -> Iterator[Json]:
    kind = item.get("type")
    here = {"output_index": index, "item_id": item.get("id") or ""}
    if kind == "message":
        emptied: dict[str, Any] = {"content": []}
        inner = _contents(item, here)
    elif kind == "reasoning":
        emptied = {key: [] for key in ("summary", "content") if item.get(key)}
        inner = _reasoning(item, here)
    elif kind in ARGUMENTS:
        key, event = ARGUMENTS[kind]
        emptied = {key: ""}
        inner = _text(event, item.get(key) or "", here, done=key)
    else:
        emptied = {}
        inner = iter(())
    if emptied and "status" in item:
        emptied["status"] = "in_progress"
    yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **emptied}}
    yield from inner
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


ARGUMENTS = {
    "function_call": ("arguments", "function_call_arguments"),
    "mcp_call": ("arguments", "mcp_call_arguments"),
    "custom_tool_call": ("input", "custom_tool_call_input"),
}
"""Items whose text is streamed: the key that holds it, and the stem of the events' names."""


def _text(stem: str, text: str, here: Json, done: str = "text") -> Iterator[Json]:
    for piece in pieces(text):
        yield {"type": f"response.{stem}.delta", **here, "delta": piece}
    yield {"type": f"response.{stem}.done", **here, done: text}


def _contents(item: Json, here: Json) -> Iterator[Json]:
    """Yield the events of a message's or a reasoning item's content parts."""
    streams: dict[str, Callable[[Json, Json], Iterator[Json]]] = {
        "output_text": _output_text,
        "refusal": lambda part, at: _text("refusal", part.get("refusal") or "", at, "refusal"),
        "reasoning_text": lambda part, at: _text("reasoning_text", part.get("text") or "", at),
    }
    empty: dict[str, Any] = {"text": "", "refusal": "", "annotations": [], "logprobs": []}
    for index, part in enumerate(item.get("content") or ()):
        at = {**here, "content_index": index}
        stream = streams.get(part.get("type", ""))
        start = {**part, **{k: v for k, v in empty.items() if part.get(k)}} if stream else part
        yield {"type": "response.content_part.added", **at, "part": start}
        if stream:
            yield from stream(part, at)
        yield {"type": "response.content_part.done", **at, "part": part}


def _output_text(part: Json, at: Json) -> Iterator[Json]:
    text, logprobs = part.get("text") or "", part.get("logprobs") or []
    for piece, tokens in pieces_with_logprobs(text, logprobs):
        yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": tokens}
    for index, annotation in enumerate(part.get("annotations") or ()):
        place = {**at, "annotation_index": index, "annotation": annotation}
        yield {"type": "response.output_text.annotation.added", **place}
    yield {"type": "response.output_text.done", **at, "text": text, "logprobs": logprobs}


def _reasoning(item: Json, here: Json) -> Iterator[Json]:
    for index, part in enumerate(item.get("summary") or ()):
        at = {**here, "summary_index": index}
        start = {**part, "text": ""}
        yield {"type": "response.reasoning_summary_part.added", **at, "part": start}
        yield from _text("reasoning_summary_text", part.get("text") or "", at)
        yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
    yield from _contents(item, here)


RESPONSES = Responses()

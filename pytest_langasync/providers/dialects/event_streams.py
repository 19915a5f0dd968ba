"""Stored replies as event streams: a batch cannot stream, the code under test may.

``strip_stream`` prepares a streamed request for a batch, and ``event_stream`` replays the stored
reply as the stream its provider would have sent, which the SDKs fold back to the same message.
Text is sent in a few pieces; parts of a type unknown here are sent whole. Pure functions, no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["event_stream", "strip_stream"]

Json = Mapping[str, Any]
Event = tuple[str, Json]
"""The event's name (empty for an unnamed one) and its data."""

MAX_PIECES = 16
MIN_PIECE = 12


def strip_stream(endpoint: str, body: Json) -> dict[str, Any]:
    """Return ``body`` without ``stream`` and what a provider refuses without it; order is kept.

    ``endpoint`` is a path below the base URL, such as ``/chat/completions``.
    """
    gone = {"stream"} if endpoint == "/messages" else {"stream", "stream_options"}
    return {key: value for key, value in body.items() if key not in gone}


def event_stream(endpoint: str, body: Json, request_body: Json) -> bytes:
    """Return the server-sent events that amount to the stored successful reply ``body``.

    ``request_body`` is the request as the SDK made it, with ``stream`` and ``stream_options``.

    Raises:
        ValueError: replies of this endpoint cannot be streamed.
    """
    if endpoint == "/chat/completions":
        events = _chat_events(body, request_body)
    elif endpoint == "/responses":
        events = _responses_events(body)
    elif endpoint == "/messages":
        events = _messages_events(body)
    else:
        raise ValueError(f"no event stream is known for {endpoint!r}")
    done = b"data: [DONE]\n\n" if endpoint == "/chat/completions" else b""
    return b"".join(_encoded(name, data) for name, data in events) + done


def _encoded(name: str, data: Json) -> bytes:
    # Escaped to ASCII, so that no decoder takes U+2028 or U+0085 for the end of a line.
    text = f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{text}" if name else text).encode("ascii")


def _piece_size(length: int) -> int:
    return max(MIN_PIECE, -(-length // MAX_PIECES))


def _pieces(text: str) -> list[str]:
    size = _piece_size(len(text))
    return [text[start : start + size] for start in range(0, len(text), size)]


def _pieces_with_logprobs(text: str, logprobs: Sequence[Json]) -> Iterator[tuple[str, list[Json]]]:
    """Split at the tokens where they spell the text; else all of them go with the first piece."""
    if not logprobs or "".join(entry.get("token", "") for entry in logprobs) != text:
        rest = list(logprobs)
        for piece in _pieces(text) or ([""] if rest else []):
            yield piece, rest
            rest = []
        return
    size = -(-len(logprobs) // MAX_PIECES)
    for start in range(0, len(logprobs), size):
        part = list(logprobs[start : start + size])
        yield "".join(entry["token"] for entry in part), part


# ---- OpenAI chat completions


def _chat_events(body: Json, request_body: Json) -> Iterator[Event]:
    options = request_body.get("stream_options")
    include_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
    repeated = ("id", "created", "model", "service_tier", "system_fingerprint")
    base = {key: body[key] for key in repeated if key in body}
    base["object"] = "chat.completion.chunk"
    # What else the reply says at its top goes with the first chunk only.
    extras = {k: v for k, v in body.items() if k not in {*base, "object", "choices", "usage"}}
    usage = {"usage": None} if include_usage else {}
    for choice in sorted(body.get("choices") or (), key=lambda choice: choice.get("index", 0)):
        for entry in _chat_choice(choice):
            yield "", {**base, **extras, "choices": [entry], **usage}
            extras = {}
    if include_usage or extras:
        usage = {"usage": body.get("usage")} if include_usage else {}
        yield "", {**base, **extras, "choices": [], **usage}


def _chat_choice(choice: Json) -> Iterator[Json]:
    """Yield the entries of ``choices`` that carry one choice, first to last."""
    message: Json = choice.get("message") or {}
    logprobs: Json = choice.get("logprobs") or {}
    known = {"message", "finish_reason"}
    first = {"logprobs": None} | {k: v for k, v in choice.items() if k not in known}
    first |= {"logprobs": None, "finish_reason": None, "delta": _opening(message)}
    yield first
    index = choice.get("index", 0)

    def entry(delta: Json, reason: str | None = None, tokens: Json | None = None) -> Json:
        return {"index": index, "delta": delta, "logprobs": tokens, "finish_reason": reason}

    for channel in ("content", "refusal"):
        text = message.get(channel)
        entries = logprobs.get(channel) or ()
        if not isinstance(text, str):
            text = ""
        for piece, tokens in _pieces_with_logprobs(text, entries):
            spoken = {"content": None, "refusal": None, channel: tokens} if tokens else None
            yield entry({channel: piece} if piece else {}, tokens=spoken)
    for delta in _chat_functions(message):
        yield entry(delta)
    yield entry({}, choice.get("finish_reason"))


def _opening(message: Json) -> Json:
    """Return the first delta: the role, empty texts where there will be some, and all extras."""
    opening: dict[str, Any] = {"role": message.get("role", "assistant")}
    for channel in ("content", "refusal"):
        text = message.get(channel)
        opening[channel] = "" if isinstance(text, str) else text
    handled = {"role", "content", "refusal", "tool_calls", "function_call"}
    return opening | {k: v for k, v in message.items() if k not in handled and v}


def _chat_functions(message: Json) -> Iterator[Json]:
    """Yield the deltas of the function calls; a call of another kind is sent whole."""
    legacy = message.get("function_call")
    if legacy:
        yield {"function_call": {**legacy, "arguments": ""}}
        for piece in _pieces(legacy.get("arguments") or ""):
            yield {"function_call": {"arguments": piece}}
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function")
        if not function:
            yield {"tool_calls": [{"index": index, **call}]}
            continue
        start = {"index": index, **call, "function": {**function, "arguments": ""}}
        yield {"tool_calls": [start]}
        for piece in _pieces(function.get("arguments") or ""):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


# ---- OpenAI responses


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
    for piece in _pieces(text):
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
    for piece, tokens in _pieces_with_logprobs(text, logprobs):
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


# ---- Anthropic messages


def _messages_events(body: Json) -> Iterator[Event]:
    usage: Json = body.get("usage") or {}
    begun = {**body, "content": [], "stop_reason": None, "stop_sequence": None}
    begun |= {key: None for key in ("stop_details", "context_management") if key in body}
    begun["usage"] = {**usage, "output_tokens": min(1, usage.get("output_tokens") or 0)}
    yield _named("message_start", message=begun)
    for index, block in enumerate(body.get("content") or ()):
        start, deltas = _block(block)
        yield _named("content_block_start", index=index, content_block=start)
        for delta in deltas:
            yield _named("content_block_delta", index=index, delta=delta)
        yield _named("content_block_stop", index=index)
    final = {key: body.get(key) for key in ("stop_reason", "stop_sequence")}
    final |= {key: body[key] for key in ("stop_details", "container") if key in body}
    more = {key: body[key] for key in ("context_management",) if key in body}
    yield _named("message_delta", delta=final, usage=usage, **more)
    yield _named("message_stop")


def _named(name: str, **data: Any) -> Event:
    return name, {"type": name, **data}


def _block(block: Json) -> tuple[Json, list[Json]]:
    """Return a content block as it starts, and the deltas that complete it."""
    kind = block.get("type")
    if kind == "text":
        cited = [{"type": "citations_delta", "citation": c} for c in block.get("citations") or ()]
        start = {**block, "text": "", **({"citations": []} if cited else {})}
        return start, [*_deltas("text", block.get("text")), *cited]
    if kind == "thinking":
        signature = block.get("signature")
        signed = [{"type": "signature_delta", "signature": signature}] if signature else []
        start = {**block, "thinking": "", "signature": ""}
        return start, [*_deltas("thinking", block.get("thinking")), *signed]
    if kind in {"tool_use", "server_tool_use", "mcp_tool_use"}:
        # An empty piece opens the input, as the provider's own stream does.
        given = block.get("input")
        pieces = _pieces(json.dumps(given, ensure_ascii=False)) if given else []
        return {**block, "input": {}}, [
            {"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)
        ]
    if kind == "compaction":
        given = {key: block[key] for key in ("content", "encrypted_content") if key in block}
        return {**block, **dict.fromkeys(given)}, [{"type": "compaction_delta", **given}]
    return block, []


def _deltas(key: str, text: str | None) -> list[Json]:
    return [{"type": f"{key}_delta", key: piece} for piece in _pieces(text or "")]

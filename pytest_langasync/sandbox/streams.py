"""Server-sent events: a finished body, cut into the stream that the provider would send."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["events"]

Event = tuple[str, Mapping[str, Any] | str]


def events(endpoint: str, body: Mapping[str, Any], *, usage: bool) -> Iterator[str]:
    """Yield the event stream of a body; ``usage`` asks for OpenAI chat's final usage chunk."""
    if endpoint == "/chat/completions":
        source = _chat(body, usage)
    else:
        source = _response(body) if endpoint == "/responses" else _message(body)
    for name, data in source:
        text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
        yield f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"


def _pieces(text: str) -> list[str]:
    """Cut a text into pieces of a few words."""
    return re.findall(r"(?s).{1,24}", text)


def _chat(body: Mapping[str, Any], usage: bool) -> Iterator[Event]:
    shared = {key: body[key] for key in ("id", "created", "model", "service_tier") if key in body}
    shared |= {"object": "chat.completion.chunk"}
    shared |= {"system_fingerprint": body.get("system_fingerprint")}

    def chunk(choice: Mapping[str, Any], delta: Any, **more: Any) -> Event:
        entry = {"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": None}
        return "", {**shared, "choices": [{**entry, **more}], **({"usage": None} if usage else {})}

    for choice in body["choices"]:
        yield chunk(choice, {"role": "assistant", "content": "", "refusal": None})
        for delta in _chat_deltas(choice["message"]):
            yield chunk(choice, delta)
        if choice.get("logprobs"):
            yield chunk(choice, {}, logprobs=choice["logprobs"])
        yield chunk(choice, {}, finish_reason=choice["finish_reason"])
    if usage:
        yield "", {**shared, "choices": [], "usage": body["usage"]}
    yield "", "[DONE]"


def _chat_deltas(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("content", "refusal"):
        for piece in _pieces(message.get(key) or ""):
            yield {key: piece}
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{**call, "index": index, "function": function}]}
        for piece in _pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _response(body: Mapping[str, Any]) -> Iterator[Event]:
    for number, (name, data) in enumerate(_response_events(body)):
        yield name, {"type": name, "sequence_number": number, **data}


def _response_events(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    begun = {**body, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(body["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        emptied: dict[str, Any] = {"content": []} if item["type"] == "message" else {}
        emptied |= {"arguments": ""} if item["type"] == "function_call" else {}
        added = {**item, **emptied, **({"status": "in_progress"} if "status" in item else {})}
        yield "response.output_item.added", {"output_index": index, "item": added}
        for piece in _pieces(item.get("arguments", "")):
            yield "response.function_call_arguments.delta", {**at, "delta": piece}
        if "arguments" in item:
            done = {**at, "name": item["name"], "arguments": item["arguments"]}
            yield "response.function_call_arguments.done", done
        for number, part in enumerate(item.get("content") or ()):
            yield from _part_events({**at, "content_index": number}, part)
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield f"response.{body['status']}", {"response": body}


def _part_events(
    at: Mapping[str, Any], part: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    key = "refusal" if part["type"] == "refusal" else "text"
    extra: dict[str, Any] = {"logprobs": []} if key == "text" else {}
    event = "response.refusal" if key == "refusal" else "response.output_text"
    empty = {**part, key: "", **extra}
    yield "response.content_part.added", {**at, "part": empty}
    for piece in _pieces(part[key]):
        yield f"{event}.delta", {**at, "delta": piece, **extra}
    done = {"logprobs": part.get("logprobs", [])} if key == "text" else {}
    yield f"{event}.done", {**at, key: part[key], **done}
    yield "response.content_part.done", {**at, "part": part}


def _message(body: Mapping[str, Any]) -> Iterator[Event]:
    begun = copy.deepcopy(dict(body))
    begun |= {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    begun["usage"]["output_tokens"] = 1
    yield "message_start", {"type": "message_start", "message": begun}
    yield "ping", {"type": "ping"}
    for index, block in enumerate(body["content"]):
        at = {"index": index}
        start = {"type": "content_block_start", **at, "content_block": _emptied(block)}
        yield "content_block_start", start
        for delta in _block_deltas(block):
            yield "content_block_delta", {"type": "content_block_delta", **at, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", **at}
    delta = {key: body.get(key) for key in ("stop_reason", "stop_sequence", "stop_details")}
    yield "message_delta", {"type": "message_delta", "delta": delta, "usage": body["usage"]}
    yield "message_stop", {"type": "message_stop"}


def _emptied(block: Mapping[str, Any]) -> dict[str, Any]:
    blank: dict[str, dict[str, Any]] = {
        "text": {"text": ""},
        "thinking": {"thinking": "", "signature": ""},
        "tool_use": {"input": {}},
    }
    return {**block, **blank.get(block["type"], {})}


def _block_deltas(block: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if block["type"] == "text":
        for piece in _pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}
    elif block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "tool_use":
        for piece in _pieces(json.dumps(block["input"])):
            yield {"type": "input_json_delta", "partial_json": piece}

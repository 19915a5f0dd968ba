"""Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_langasync.providers.dialects.base import (
    Dialect,
    Event,
    Json,
    event_stream_of,
    pieces,
    text_of,
)

__all__ = ["MESSAGES", "STATUS_OF_TYPE", "Messages"]

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status that each type of error has in real time."""


class Messages(Dialect):
    """``/messages``. OpenAI's assistants also post to such a path, without a version header."""

    endpoint = "/messages"
    conversation = ("messages",)
    preamble = ("system",)
    output_limits = ("max_tokens",)
    schemas = ("tools", "output_config", "output_format")

    def split(self, path: str, headers: Mapping[str, str]) -> tuple[str, str] | None:
        """Return (path of the base URL, endpoint) of a call that names Anthropic's version."""
        return super().split(path, headers) if "anthropic-version" in headers else None

    def event_stream(self, body: Json, request_body: Json) -> bytes:
        """Return named events; the SDK drops unnamed ones without a word."""
        return event_stream_of(_messages_events(body))

    def said(self, body: Json) -> str:
        """Return what all blocks say."""
        return text_of(body.get("content"))

    def error_body(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> dict[str, Any]:
        """Return Anthropic's error envelope; whoever sends it fills in the request's ID."""
        usual = "api_error" if status >= 500 else "invalid_request_error"
        kind = {number: name for name, number in STATUS_OF_TYPE.items()}.get(status, usual)
        error = {"type": kind, "message": message}
        return {"type": "error", "error": error, "request_id": None}


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
        cut = pieces(json.dumps(given, ensure_ascii=False)) if given else []
        return {**block, "input": {}}, [
            {"type": "input_json_delta", "partial_json": piece} for piece in ("", *cut)
        ]
    if kind == "compaction":
        given = {key: block[key] for key in ("content", "encrypted_content") if key in block}
        return {**block, **dict.fromkeys(given)}, [{"type": "compaction_delta", **given}]
    return block, []


def _deltas(key: str, text: str | None) -> list[Json]:
    return [{"type": f"{key}_delta", key: piece} for piece in pieces(text or "")]


MESSAGES = Messages()

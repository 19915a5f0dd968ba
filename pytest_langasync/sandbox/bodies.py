"""Response bodies of each endpoint, made from replies."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_langasync.models import digest
from pytest_langasync.sandbox import replies
from pytest_langasync.sandbox.questions import Reply, ReplyRequest

__all__ = ["build"]

_REASONING = {"minimal": 16, "low": 64, "medium": 256, "high": 1024, "xhigh": 2048, "max": 2048}


@dataclass(frozen=True)
class _Said:
    """A reply within the request's limits. ``reason``: stop, length, tool_calls or sequence."""

    text: str
    reason: str
    sequence: str | None
    reasoning: int
    spent: int
    """Output tokens, reasoning included."""


def build(request: ReplyRequest, said: Sequence[Reply], *, batch: bool) -> dict[str, Any]:
    """Return the body of a successful response; ``said`` holds one reply for each choice."""
    if request.endpoint == "/embeddings":
        return _embeddings(request)
    ident = digest([request.digest, request.attempt])[:24]
    if request.endpoint == "/chat/completions":
        return _chat(request, said, ident, batch)
    if request.endpoint == "/responses":
        return _response(request, said[0], ident, batch)
    return _message(request, said[0], ident, batch)


def _limit(request: ReplyRequest, reply: Reply) -> _Said:
    """Cut a reply at the stop sequences and at the token limit, reasoning first."""
    text, reason, sequence = reply.text, "tool_calls" if reply.tool_calls else "stop", None
    stop = request.body.get("stop_sequences", request.body.get("stop")) or []
    for mark in [stop] if isinstance(stop, str) else stop:
        if mark in text:
            text, reason, sequence = text[: text.index(mark)], "sequence", mark
    reasoning = _reasoning(request)
    calls = sum(replies.tokens(c.name + json.dumps(c.arguments)) for c in reply.tool_calls)
    if request.max_tokens is not None:
        reasoning = min(reasoning, request.max_tokens // 2)
        room = 4 * max(0, request.max_tokens - reasoning)
        if len(text) > room:
            text, reason, sequence = text[:room], "length", None
    spent = replies.tokens(text or reply.refusal) + calls + reasoning
    return _Said(text, reason, sequence, reasoning, spent)


def _reasoning(request: ReplyRequest) -> int:
    body = request.body
    if request.endpoint == "/messages":
        thinking = body.get("thinking") or {}
        budget = min(thinking.get("budget_tokens", 256), 256)
        return budget if thinking.get("type") in ("enabled", "adaptive") else 0
    effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
    return _REASONING.get(effort or "", 0)


def _logprobs(text: str, alternatives: int) -> list[dict[str, Any]]:
    """Return one entry a word; the word itself is the likeliest, digits are next to digits."""
    entries = []
    for token in re.findall(r"\s*\S+|\s+$", text):
        others = [str(n) for n in (9, 7, 10, 6)] if token.strip().isdigit() else list("?!.,")
        options = [token, *[o for o in others if o != token]][: max(alternatives, 1)]
        top = [_entry(option, -0.1 - 2.5 * rank) for rank, option in enumerate(options)]
        entries.append({**top[0], "top_logprobs": top if alternatives else []})
    return entries


def _entry(token: str, logprob: float) -> dict[str, Any]:
    data = list(token.encode("utf-8", "replace"))
    return {"token": token, "logprob": round(logprob, 3), "bytes": data}


def _chat(request: ReplyRequest, said: Sequence[Reply], ident: str, batch: bool) -> dict[str, Any]:
    limited = [_limit(request, reply) for reply in said]
    prompt = replies.prompt_tokens(request.body)
    spent, reasoning = sum(s.spent for s in limited), sum(s.reasoning for s in limited)
    choices = [
        _choice(request, index, reply, part, ident)
        for index, (reply, part) in enumerate(zip(said, limited, strict=True))
    ]
    return {
        "id": f"chatcmpl-{ident}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": spent,
            "total_tokens": prompt + spent,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_sandbox",
    }


def _choice(
    request: ReplyRequest, index: int, reply: Reply, said: _Said, ident: str
) -> dict[str, Any]:
    text = None if (reply.tool_calls and not said.text) or reply.refusal else said.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text,
        "refusal": reply.refusal or None,
        "annotations": [],
    }
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": f"call_{ident[:20]}{index}{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": _dump(call.arguments)},
            }
            for number, call in enumerate(reply.tool_calls)
        ]
    logprobs = None
    if request.body.get("logprobs"):
        content = _logprobs(said.text, request.body.get("top_logprobs") or 0)
        logprobs = {"content": content, "refusal": None}
    reason = "stop" if said.reason == "sequence" else said.reason
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _response(request: ReplyRequest, reply: Reply, ident: str, batch: bool) -> dict[str, Any]:
    body, said = request.body, _limit(request, reply)
    prompt, now = replies.prompt_tokens(body), int(time.time())
    cut = said.reason == "length"
    return {
        "id": f"resp_{ident}",
        "object": "response",
        "created_at": now,
        "status": "incomplete" if cut else "completed",
        "completed_at": None if cut else now,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": request.model,
        "output": _output(request, reply, said, ident),
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, **(body.get("text") or {})},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": said.spent,
            "output_tokens_details": {"reasoning_tokens": said.reasoning},
            "total_tokens": prompt + said.spent,
        },
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
        "service_tier": "default",
    }


def _output(request: ReplyRequest, reply: Reply, said: _Said, ident: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    status = "incomplete" if said.reason == "length" else "completed"
    if said.reasoning:
        items.append({"type": "reasoning", "id": f"rs_{ident}", "summary": []})
    for number, call in enumerate(reply.tool_calls):
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{ident}{number}",
                "call_id": f"call_{ident[:20]}{number}",
                "name": call.name,
                "arguments": _dump(call.arguments),
                "status": "completed",
            }
        )
    if reply.refusal or said.text or not reply.tool_calls:
        part: dict[str, Any] = {"type": "refusal", "refusal": reply.refusal}
        if not reply.refusal:
            wanted = "message.output_text.logprobs" in (request.body.get("include") or ())
            probable = _logprobs(said.text, request.body.get("top_logprobs") or 0)
            part = {"type": "output_text", "text": said.text, "annotations": []}
            part["logprobs"] = probable if wanted else []
        message = {"type": "message", "id": f"msg_{ident}", "status": status}
        items.append({**message, "role": "assistant", "content": [part]})
    return items


def _message(request: ReplyRequest, reply: Reply, ident: str, batch: bool) -> dict[str, Any]:
    said = _limit(request, reply)
    content: list[dict[str, Any]] = []
    if said.reasoning:
        thought = {"thinking": "The sandbox thinks.", "signature": f"c2FuZGJveA{ident}"}
        content.append({"type": "thinking", **thought})
    if said.text:
        content.append({"type": "text", "text": said.text, "citations": None})
    for number, call in enumerate(reply.tool_calls):
        block = {"type": "tool_use", "id": f"toolu_{ident[:20]}{number}", "name": call.name}
        content.append({**block, "input": dict(call.arguments)})
    reasons = {"length": "max_tokens", "tool_calls": "tool_use", "sequence": "stop_sequence"}
    refused = {"type": "refusal", "category": None, "explanation": reply.refusal}
    return {
        "id": f"msg_{ident}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": "refusal" if reply.refusal else reasons.get(said.reason, "end_turn"),
        "stop_sequence": said.sequence,
        "stop_details": refused if reply.refusal else None,
        "usage": {
            "input_tokens": replies.prompt_tokens(request.body),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": said.spent,
            "output_tokens_details": {"thinking_tokens": said.reasoning},
            "service_tier": "batch" if batch else "standard",
            "inference_geo": "not_available",
        },
    }


def _embeddings(request: ReplyRequest) -> dict[str, Any]:
    body = request.body
    given = body["input"]
    single = isinstance(given, str) or isinstance(given[0], int)
    texts = [
        value if isinstance(value, str) else _dump(value)
        for value in ([given] if single else given)
    ]
    large = "large" in request.model
    size = body.get("dimensions") or (3072 if large else 1536)
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": replies.embedding(text, size, as_base64=as_base64),
        }
        for index, text in enumerate(texts)
    ]
    spent = sum(max(1, replies.tokens(text)) for text in texts)
    usage = {"prompt_tokens": spent, "total_tokens": spent}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

"""OpenAI's chat completions, which most other providers and servers speak, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_langasync.providers.dialects.base import (
    Dialect,
    Event,
    Json,
    event_stream_of,
    join,
    mappings,
    pieces,
    pieces_with_logprobs,
    text_of,
)

__all__ = ["CHAT_COMPLETIONS", "ChatCompletions"]


class ChatCompletions(Dialect):
    """``/chat/completions``."""

    endpoint = "/chat/completions"
    usage_flavor = "chat"
    conversation = ("messages",)
    preamble = ()
    output_limits = ("max_completion_tokens", "max_tokens")
    schemas = ("tools", "functions", "response_format")
    stream_parameters = ("stream", "stream_options")

    def event_stream(self, body: Json, request_body: Json) -> bytes:
        """Return unnamed chunks, and the ``[DONE]`` that ends them; of an error the error alone."""
        if self.failure(body) is not None:
            return event_stream_of([("", body)])
        return event_stream_of(_chat_events(body, request_body), b"data: [DONE]\n\n")

    def said(self, body: Json) -> str:
        """Return what all choices say."""
        return join(text_of(choice.get("message")) for choice in mappings(body.get("choices")))


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
        for piece, tokens in pieces_with_logprobs(text, entries):
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
        for piece in pieces(legacy.get("arguments") or ""):
            yield {"function_call": {"arguments": piece}}
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function")
        if not function:
            yield {"tool_calls": [{"index": index, **call}]}
            continue
        start = {"index": index, **call, "function": {**function, "arguments": ""}}
        yield {"tool_calls": [start]}
        for piece in pieces(function.get("arguments") or ""):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


CHAT_COMPLETIONS = ChatCompletions()

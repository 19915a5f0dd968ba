"""What Anthropic's Messages refuse, in real time and inside a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_langasync.sandbox.errors import ApiError

__all__ = ["VERSIONS", "check_message"]

VERSIONS = ("2023-06-01", "2026-10-21")
_REMOVED = ("temperature", "top_p", "top_k")
"""Gone since the second version."""
_NOT_IN_BATCHES = (
    "cache_hint",
    "context_hint",
    "previous_thread_event_id",
    "speed",
    "store",
    "stream",
    "thread",
)
_KNOWN = frozenset(_REMOVED + _NOT_IN_BATCHES) | {
    "billing_policy",
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "output_config",
    "research_preview_2026_02",
    "service_tier",
    "stop_sequences",
    "system",
    "thinking",
    "tool_choice",
    "tools",
}
"""Other parameters need a header that names their beta."""
_MOST_TOKENS = 128_000
_MOST_TOKENS_IN_BATCHES = 300_000
_LONG_OUTPUT = "output-300k-2026-03-24"
"""The beta that allows the latter."""


def check_message(body: Mapping[str, Any], batch: bool, headers: Mapping[str, str]) -> None:
    """Refuse a body that the endpoint would refuse. Raises ``ApiError``."""
    for name in ("model", "max_tokens", "messages"):
        if body.get(name) is None:
            raise ApiError(400, f"{name}: Field required")
    betas = headers.get("anthropic-beta", "")
    new = headers.get("anthropic-version") == VERSIONS[1]
    extra = {"betas"} if betas else set(body) - _KNOWN
    extra |= set(_REMOVED if new else ())
    for name in body:
        if name in extra:
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
    if batch:
        _check_batched(body)
    _check_limit(body["max_tokens"], batch, betas)
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("user", "assistant"):
            text = "Input should be 'user' or 'assistant'"
            raise ApiError(400, f"messages.{index}.role: {text}")
        if not message.get("content") and index + 1 < len(messages):
            raise ApiError(400, f"messages.{index}: all messages must have non-empty content")
        for problem in _misplaced(message) if new else ():
            raise ApiError(400, f"messages.{index}.content.{problem}")


def _check_batched(body: Mapping[str, Any]) -> None:
    for name in _NOT_IN_BATCHES:
        if body.get(name):
            raise ApiError(400, f"{name}: this parameter is not supported in batches")
    if body.get("research_preview_2026_02") == "active":
        raise ApiError(400, "research_preview_2026_02: not supported in batches")
    policy = body.get("billing_policy")
    if isinstance(policy, Mapping) and policy.get("bill_to") == "user_profile":
        raise ApiError(400, "billing_policy: a batch cannot be billed to a user profile")


def _check_limit(limit: Any, batch: bool, betas: str) -> None:
    least = 1 if batch else 0
    most = _MOST_TOKENS_IN_BATCHES if batch and _LONG_OUTPUT in betas else _MOST_TOKENS
    if not isinstance(limit, int) or limit < least:
        raise ApiError(400, f"max_tokens: Input should be greater than or equal to {least}")
    if limit > most:
        raise ApiError(400, f"max_tokens: {limit} > {most}, the most that any model may be asked")


def _misplaced(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the second version no longer takes inside a message."""
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "document" and message["role"] == "assistant":
            yield f"{index}: 'document' blocks are not permitted in an assistant message"
        if kind == "text" and message["role"] == "user" and block.get("citations"):
            yield f"{index}.citations: Extra inputs are not permitted"

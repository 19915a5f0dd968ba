"""The small calls that programs make besides asking a model: its name, a prompt's length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_langasync.sandbox.checks import check, unknown_model
from pytest_langasync.sandbox.errors import ApiError
from pytest_langasync.sandbox.exchange import Exchange, Wire
from pytest_langasync.sandbox.replies import prompt_tokens

__all__ = ["count_tokens", "get_model", "list_models"]

_OPENAI = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-large", "text-embedding-3-small")
_ANTHROPIC = ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-4-5")


def count_tokens(exchange: Exchange) -> Wire:
    """POST /messages/count_tokens."""
    body = exchange.json()
    check("/messages", {"max_tokens": 1, **body}, batch=False, headers=exchange.headers)
    return Wire({"input_tokens": prompt_tokens(body)})


def list_models(exchange: Exchange) -> Wire:
    """GET /models, in the shape of the provider whose client asks."""
    names = _ANTHROPIC if _of_anthropic(exchange.headers) else _OPENAI
    data = [_model(name, exchange.headers) for name in names]
    if _of_anthropic(exchange.headers):
        ends = {"first_id": names[0], "last_id": names[-1]}
        return Wire({"data": data, "has_more": False, **ends})
    return Wire({"object": "list", "data": data})


def get_model(exchange: Exchange) -> Wire:
    """GET /models/{id}: the sandbox has a model of any name."""
    name = exchange.path["id"]
    if unknown_model(name):
        raise ApiError(404, f"The model '{name}' does not exist", code="model_not_found")
    return Wire(_model(name, exchange.headers))


def _of_anthropic(headers: Mapping[str, str]) -> bool:
    return "anthropic-version" in headers


def _model(name: str, headers: Mapping[str, str]) -> dict[str, Any]:
    if _of_anthropic(headers):
        made = "2026-01-01T00:00:00Z"
        return {"type": "model", "id": name, "display_name": name, "created_at": made}
    return {"id": name, "object": "model", "created": 1767225600, "owned_by": "sandbox"}

"""The real-time endpoints of both providers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from pytest_langasync.providers.dialects import dialect_of
from pytest_langasync.sandbox.errors import ApiError, error_body
from pytest_langasync.sandbox.exchange import Exchange, Wire, visible
from pytest_langasync.sandbox.questions import body_digest

__all__ = ["realtime"]

HAS_FLEX = re.compile(r"gpt-5|o3|o4-mini")
"""Models that OpenAI serves in its flex tier."""
_NEEDED = {"/chat/completions": "choices", "/responses": "output", "/messages": "content"}
"""What an answer must have to be streamed."""


def realtime(provider: str, endpoint: str) -> Callable[[Exchange], Wire]:
    """Return the handler of an endpoint, such as ``/chat/completions``."""

    def handle(exchange: Exchange) -> Wire:
        body = exchange.json()
        flex = body.get("service_tier") == "flex"
        if flex and not HAS_FLEX.match(str(body.get("model"))):
            text = "Invalid service_tier argument: flex is not available for this model."
            error = ApiError(400, text, param="service_tier")
            return Wire(error.body(provider), error.status)
        attempt = exchange.state.attempts([body_digest(body)])[0]
        headers = exchange.headers
        status, answer = exchange.model.answer(
            provider, endpoint, body, attempt=attempt, batch=False, headers=headers
        )
        if flex and status == 200:
            answer = {**answer, "service_tier": "flex"}
        shown = json.dumps(visible(headers))
        text = json.dumps(body)
        entry = (time.time(), provider, endpoint, "", "", attempt, status, text, shown)
        exchange.state.buy([entry])
        if status == 200 and body.get("stream"):
            return _streamed(provider, endpoint, answer, body)
        return Wire(answer, status)

    return handle


def _streamed(
    provider: str, endpoint: str, answer: Mapping[str, Any], body: Mapping[str, Any]
) -> Wire:
    """Cut an answer into events; one that a hook or another server made may be incomplete."""
    try:
        answer[_NEEDED[endpoint]]  # a replay stands its absence; whoever wrote a hook wants to know
        return Wire(stream=[dialect_of(endpoint).event_stream(answer, body)])
    except (AttributeError, KeyError, TypeError) as error:
        text = f"This answer cannot be streamed: {type(error).__name__}: {error}"
        return Wire(error_body(provider, 502, text), 502)

"""The real-time endpoints of both providers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from pytest_langasync.sandbox import streams
from pytest_langasync.sandbox.batches import visible
from pytest_langasync.sandbox.checks import check_version
from pytest_langasync.sandbox.exchange import Exchange, Wire
from pytest_langasync.sandbox.questions import body_digest

__all__ = ["realtime"]


def realtime(provider: str, endpoint: str) -> Callable[[Exchange], Wire]:
    """Return the handler of an endpoint, such as ``/chat/completions``."""

    def handle(exchange: Exchange) -> Wire:
        if provider == "anthropic":
            check_version(exchange.headers)
        body = exchange.json()
        attempt = exchange.state.attempts([body_digest(body)])[0]
        headers = exchange.headers
        status, answer = exchange.model.answer(
            provider, endpoint, body, attempt=attempt, batch=False, headers=headers
        )
        shown = json.dumps(visible(headers))
        text = json.dumps(body)
        entry = (time.time(), provider, endpoint, "", "", attempt, status, text, shown)
        exchange.state.buy([entry])
        if status == 200 and body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return Wire(stream=streams.events(endpoint, answer, usage=usage))
        return Wire(answer, status)

    return handle

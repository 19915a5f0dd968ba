"""What becomes of an intercepted call: from HTTP to a request, from an answer to an HTTP reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pytest_langasync import providers
from pytest_langasync.costs.ledger import Ledger
from pytest_langasync.engine.replay import Attempt, SendNow
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.interception.wire import Decision, Park, Reply, Send, Wire
from pytest_langasync.models import Answer, Credentials, Request, Target, digest
from pytest_langasync.providers.dialects import Dialect
from pytest_langasync.providers.hosts import detour

__all__ = ["CallRouter"]

NOT_ACCOUNT = (
    "accept",
    "connection",
    "content-",
    "cookie",
    "host",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "baggage",
    "transfer-encoding",
    "user-agent",
    "x-stainless-",
)
"""Beginnings of header names that say nothing about whose account a request is charged to."""
BATCHED_QUERY = frozenset({("beta", "true")})
"""Added by Anthropic's SDK to the URLs of its beta calls; the headers say the same."""


@dataclass(frozen=True)
class _Called:
    """Whose model a call is for, in which shape; ``path`` is that of its base URL."""

    provider: providers.Provider
    dialect: Dialect
    path: str
    endpoint: str


@dataclass(frozen=True)
class _Heard:
    """A model call in our own words."""

    request: Request
    streamed: Mapping[str, Any] | None = field(repr=False)
    """The body of a streamed call as it was."""
    why_now: str
    """Why no batch can take it, or an empty string."""


class CallRouter:
    """Decides what becomes of a call (see ``wire.Router``).

    ``local_url`` is the base URL of the embedded sandbox, or empty. With one, nothing leaves the
    machine.
    """

    def __init__(self, concurrency: ConcurrencyTracker, ledger: Ledger) -> None:
        self.concurrency = concurrency
        self.ledger = ledger
        self.local_url = ""
        self._providers = providers.providers()
        self._endpoints = tuple(d.endpoint for one in self._providers for d in one.dialects)

    def concerns(self, method: str, url: str, path: str) -> bool:
        """Return whether this may be a model call, or must not leave (see ``wire.Router``)."""
        call = method == "POST" and path.endswith(self._endpoints)
        return call or bool(detour(self.local_url, url))

    def decide(self, wire: Wire) -> Decision:
        """Decide what becomes of a request (see ``wire.Router``)."""
        caller = self.concurrency.current()
        call = self._translate(wire)
        if call is None or caller is None:
            return self._elsewhere(wire)
        request = call.request
        attempt: Attempt = caller.attempt
        outcome = attempt.ask(
            request,
            caller,
            streamed=call.streamed is not None,
            now=bool(call.why_now),
        )
        if outcome is None:
            return Park(f"{request.model or request.target.endpoint}: waiting for its batch")
        if isinstance(outcome, SendNow):
            if call.why_now:
                self.ledger.passed(urlsplit(request.target.base_url).netloc, call.why_now)
            return self._real_time(outcome, call.streamed)
        return reply_to(request, outcome, call.streamed)

    def _elsewhere(self, wire: Wire) -> Send | None:
        """Send to the sandbox, where there is one, what must not reach a provider."""
        if not self.local_url:
            return None
        called = self._called(wire)
        url = self.local_url + called.endpoint if called else detour(self.local_url, wire.url)
        return Send(lambda came: came, url=url) if url else None

    def _translate(self, wire: Wire) -> _Heard | None:
        called = self._called(wire)
        try:
            body = json.loads(wire.content)
        except ValueError:
            return None
        if called is None or not isinstance(body, dict):
            return None
        provider, url = called.provider, urlsplit(wire.url)
        host = url.netloc.rpartition("@")[2].lower()
        headers = {name.lower(): value for name, value in wire.headers.items()}
        account = {n: v for n, v in headers.items() if not n.startswith(NOT_ACCOUNT)}
        identity = provider.identity_headers(headers)
        query = sorted(set(parse_qsl(url.query, keep_blank_values=True)) - BATCHED_QUERY)
        if query:  # it may hold a key
            identity += (("query", digest(query)),)
        target = Target(
            provider.name,
            f"{url.scheme}://{host}{called.path}",
            called.endpoint,
            identity,
            Credentials(account),
        )
        request = Request(target, called.dialect.strip_stream(body))
        why_now = provider.rejected(request) or ("a batch takes no query string" if query else "")
        streamed = body if body.get("stream") else None
        return _Heard(request, streamed, why_now)

    def _called(self, wire: Wire) -> _Called | None:
        """Return whose model is called, and where; None for anything but a call."""
        path = urlsplit(wire.url).path
        for provider in self._providers if wire.method == "POST" else ():
            for dialect in provider.dialects:
                if found := dialect.split(path, wire.headers):
                    return _Called(provider, dialect, *found)
        return None

    def _real_time(self, order: SendNow, stream_body: Mapping[str, Any] | None) -> Send:
        request = order.call.request

        def record(came: Reply) -> Reply:
            try:
                body = json.loads(came.content)
            except ValueError:
                body = came.content.decode("utf-8", "replace")
            request_id = came.headers.get("x-request-id") or came.headers.get("request-id") or ""
            answer = order.record(came.status, body, request_id)
            return reply_to(request, answer, stream_body) if answer.ok else came

        url = self.local_url + request.target.endpoint if self.local_url else ""
        if stream_body is None:  # as it is: it may have been signed
            return Send(record, url=url)
        content = json.dumps(request.body, ensure_ascii=False, separators=(",", ":"))
        return Send(record, content.encode("utf-8", "surrogatepass"), url)


def reply_to(request: Request, answer: Answer, stream_body: Mapping[str, Any] | None) -> Reply:
    """Return the HTTP reply that the SDK would have received for this answer."""
    headers = {
        "content-type": "application/json",
        "x-should-retry": "false",
        "x-langasync-job": answer.job_id or "realtime",
    }
    if answer.request_id:
        headers["x-request-id"] = headers["request-id"] = answer.request_id
    if stream_body is not None and answer.ok and isinstance(answer.body, dict):
        headers["content-type"] = "text/event-stream; charset=utf-8"
        dialect = providers.dialect_of(request.target)
        events = dialect.event_stream(answer.body, stream_body)
        return Reply(answer.status, headers, events)
    text = json.dumps(answer.body, ensure_ascii=False)
    return Reply(answer.status, headers, text.encode("utf-8", "surrogatepass"))

"""What becomes of an intercepted call: from HTTP to a request, from an answer to an HTTP reply."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pytest_langasync import providers
from pytest_langasync.costs.ledger import Ledger
from pytest_langasync.engine.replay import Attempt, SendNow
from pytest_langasync.interception.clients import Decision, Park, RealTime, Redirect, Reply, Wire
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.models import Answer, Credentials, Request, Target, digest
from pytest_langasync.providers.dialects import event_streams
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
HOP = ("content-encoding", "content-length", "transfer-encoding", "connection")
"""Headers of a reply that are about its transport, not about it."""
BATCHED_QUERY = frozenset({("beta", "true")})
"""Added by Anthropic's SDK to the URLs of its beta calls; the headers say the same."""


@dataclass(frozen=True)
class _Heard:
    """A model call in our own words."""

    request: Request
    streamed: Mapping[str, Any] | None = field(repr=False)
    """The body of a streamed call as it was."""
    why_now: str
    """Why no batch can take it, or an empty string."""


class CallRouter:
    """Decides what becomes of a call (see ``intercept.Desk``).

    ``local_url`` is the base URL of the embedded sandbox, or empty. With one, nothing leaves the
    machine.
    """

    def __init__(self, concurrency: ConcurrencyTracker, ledger: Ledger) -> None:
        self.concurrency = concurrency
        self.ledger = ledger
        self.local_url = ""
        self._providers = providers.providers()
        self._endpoints = tuple(e for provider in self._providers for e in provider.endpoints)

    def concerns(self, method: str, url: str, path: str) -> bool:
        """Return whether this may be a model call, or must not leave (see ``intercept.Desk``)."""
        call = method == "POST" and path.endswith(self._endpoints)
        return call or bool(detour(self.local_url, url))

    def decide(self, wire: Wire) -> Decision:
        """Decide what becomes of a request (see ``intercept.Desk``)."""
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

    def unreached(self, wire: Wire, transport: str) -> Redirect | None:
        """Count a call whose transport nobody can follow (see ``intercept.Desk``)."""
        if self.concurrency.current() is not None and self._called(wire) is not None:
            host = urlsplit(wire.url).netloc
            self.ledger.passed(host, f"where the transport {transport} leads is not known")
        return self._elsewhere(wire)

    def _elsewhere(self, wire: Wire) -> Redirect | None:
        """Send to the sandbox, where there is one, what must not reach a provider."""
        if not self.local_url:
            return None
        called = self._called(wire)
        url = self.local_url + called[1] if called else detour(self.local_url, wire.url)
        return Redirect(url) if url else None

    def _translate(self, wire: Wire) -> _Heard | None:
        called = self._called(wire)
        try:
            body = json.loads(wire.content)
        except ValueError:
            return None
        if called is None or not isinstance(body, dict):
            return None
        provider, endpoint = called
        url = urlsplit(wire.url)
        host = url.netloc.rpartition("@")[2].lower()
        headers = {name.lower(): value for name, value in wire.headers.items()}
        account = {n: v for n, v in headers.items() if not n.startswith(NOT_ACCOUNT)}
        identity = provider.identity_headers(headers)
        query = sorted(set(parse_qsl(url.query, keep_blank_values=True)) - BATCHED_QUERY)
        if query:  # it may hold a key
            identity += (("query", digest(query)),)
        target = Target(
            provider.name,
            f"{url.scheme}://{host}{url.path.removesuffix(endpoint)}",
            endpoint,
            identity,
            Credentials(account | _basic(url)),
        )
        request = Request(target, event_streams.strip_stream(endpoint, body))
        why_now = provider.rejected(request) or ("a batch takes no query string" if query else "")
        streamed = body if body.get("stream") else None
        return _Heard(request, streamed, why_now)

    def _called(self, wire: Wire) -> tuple[providers.Provider, str] | None:
        """Return whose model is called, and at which endpoint; None for anything but a call.

        OpenAI's assistants also post to ``…/messages``; Anthropic's calls name its version.
        """
        for provider in self._providers if wire.method == "POST" else ():
            for endpoint in provider.endpoints:
                named = provider.name != "anthropic" or "anthropic-version" in wire.headers
                if wire.path.endswith(endpoint) and named:
                    return provider, endpoint
        return None

    def _real_time(self, order: SendNow, stream_body: Mapping[str, Any] | None) -> RealTime:
        request = order.call.request

        def record(status: int, headers: Mapping[str, str], content: bytes) -> Reply:
            try:
                body = json.loads(content)
            except ValueError:
                body = content.decode("utf-8", "replace")
            request_id = headers.get("x-request-id") or headers.get("request-id") or ""
            answer = order.record(status, body, request_id)
            if answer.ok:
                return reply_to(request, answer, stream_body)
            kept = {n: v for n, v in headers.items() if not n.lower().startswith(HOP)}
            return Reply(status, kept, content)

        content = json.dumps(request.body, ensure_ascii=False, separators=(",", ":"))
        url = self.local_url + request.target.endpoint if self.local_url else ""
        return RealTime(content.encode("utf-8", "surrogatepass"), record, url)


def _basic(url: SplitResult) -> dict[str, str]:
    """Return the header that an HTTP client makes of the name and password in a URL."""
    if url.username is None and url.password is None:
        return {}
    plain = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return {"authorization": f"Basic {base64.b64encode(plain.encode()).decode()}"}


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
        events = event_streams.event_stream(request.target.endpoint, answer.body, stream_body)
        return Reply(answer.status, headers, events)
    text = json.dumps(answer.body, ensure_ascii=False)
    return Reply(answer.status, headers, text.encode("utf-8", "surrogatepass"))

"""What becomes of an intercepted call: from HTTP to a request, from an answer to an HTTP reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pytest_langasync import providers
from pytest_langasync.costs.ledger import Ledger
from pytest_langasync.engine import payloads
from pytest_langasync.engine.credential_renewal import Access
from pytest_langasync.engine.kept import is_final, pretended_deletion
from pytest_langasync.engine.replay import Attempt, SendNow
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.interception.context import CallContext
from pytest_langasync.interception.wire import Decision, Fail, Park, Reply, Send, Wire
from pytest_langasync.models import Answer, Outgoing, Request, Target, digest, is_success
from pytest_langasync.providers.hosts import PLAYED, detour
from pytest_langasync.providers.model_calls import ModelCalls

__all__ = ["CallRouter"]

ASKING = ("x-amzn-bedrock-",)
"""Beginnings of header names that change the answer of a call which no batch takes."""
KEYS = frozenset({"key", "api_key", "api-key", "apikey", "access_token"})
"""Parameters of a URL that hold a secret, and are no part of what is asked."""


@dataclass(frozen=True)
class _Heard:
    """A model call in our own words."""

    request: Request
    streamed: Mapping[str, Any] | None = field(repr=False)
    """The body of a streamed call as it was."""
    why_now: str
    """Why no batch can take it, or an empty string."""
    may_be_kept: bool = True
    """Whether it may be sent later, by itself: it does not depend on what was done before it."""
    played: bool = True
    """Whether the sandbox, where there is one, has its model."""
    plain_url: str = ""
    """Where the same call goes that is not streamed, where that is elsewhere."""


class CallRouter:
    """Decides what becomes of a call (see ``wire.Router``).

    ``local_url`` is the base URL of the embedded sandbox, or empty. With one, nothing leaves the
    machine.
    """

    def __init__(
        self,
        concurrency: ConcurrencyTracker,
        ledger: Ledger,
        model_calls: ModelCalls,
        access: Access,
    ) -> None:
        self.concurrency = concurrency
        self.ledger = ledger
        self.local_url = ""
        self._model_calls = model_calls
        self._access = access
        every = (dialect for one in providers.providers() for dialect in one.dialects)
        self._ends = tuple(dict.fromkeys(end for dialect in every for end in dialect.ends))

    def concerns(self, method: str, url: str, path: str) -> bool:
        """Return whether this may be a model call, or must not leave (see ``wire.Router``)."""
        if method == "POST" and (path.endswith(self._ends) or self._model_calls.matches(url)):
            return True
        return self._model_calls.keeps(url) or bool(detour(self.local_url, url))

    def decide(self, wire: Wire) -> Decision:
        """Decide what becomes of a request (see ``wire.Router``)."""
        caller = self.concurrency.current()
        call = self._translate(wire) if caller is not None else None
        if call is None and caller is not None and self._model_calls.keeps(wire.url):
            return self._manage(wire, caller)
        if call is None or caller is None:
            return self._elsewhere(wire)
        request = call.request
        attempt: Attempt = caller.attempt
        outcome = attempt.ask(
            request,
            caller,
            streamed=call.streamed is not None,
            now=bool(call.why_now),
            outgoing=_outgoing(wire, call),
        )
        if outcome is None:
            return Park(f"{request.model or request.target.endpoint}: waiting for its batch")
        if isinstance(outcome, Fail):
            return outcome
        if isinstance(outcome, SendNow):
            if call.why_now:
                self.ledger.passed(urlsplit(request.target.base_url).netloc, call.why_now)
            return self._real_time(outcome, call)
        return reply_to(request, outcome, call.streamed)

    def _manage(self, wire: Wire, caller: CallContext) -> Decision:
        """Decide on a call that makes, reads or deletes what is kept at a provider."""
        attempt: Attempt = caller.attempt
        kept = attempt.replay.kept
        segments = urlsplit(wire.url).path.replace(":", "/").split("/")
        makers = [kept.makers[one] for one in segments if one in kept.makers]
        if wire.method == "DELETE":
            others = kept.waiting - {attempt.owner}
            if attempt.parked or (others and any(one != attempt.owner for one in makers)):
                return pretended_deletion(wire.url)
        heard = self._other(wire)
        answer = attempt.answer_of(segments[-1]) if wire.method == "GET" else None
        if answer is not None and is_final(answer.body):  # a batch's cannot be looked up
            return reply_to(heard.request, answer, None)
        if not makers and wire.method != "POST":
            return self._elsewhere(wire)
        to = heard.request.target
        after = (("after", "its deletion"),) if attempt.removed.intersection(segments) else ()
        if wire.method == "DELETE":
            attempt.removed.update(set(segments) & kept.makers.keys())
            after = ()
        target = replace(to, endpoint=f"{wire.method} {to.endpoint}", headers=to.headers + after)
        request = replace(heard.request, target=target, model_in_path=target.endpoint)
        outcome = attempt.keep(request, caller)
        if outcome is None:
            return Park(f"{target.endpoint}: may not be sent")
        if isinstance(outcome, SendNow):
            sent = self._real_time(outcome, replace(heard, request=request))
            return replace(sent, url=detour(self.local_url, wire.url))
        return reply_to(request, outcome, None)

    def _elsewhere(self, wire: Wire) -> Send | None:
        """Send to the sandbox, where there is one, what must not reach a provider."""
        if not self.local_url:
            return None
        called = self._called(wire)
        played = called is not None and self._plays(called)
        url = (
            self.local_url + called.endpoint
            if called and played
            else detour(self.local_url, wire.url)
        )
        return Send(lambda came: came, url=url) if url else None

    def _translate(self, wire: Wire) -> _Heard | None:
        called = self._called(wire)
        try:
            body = json.loads(wire.content)
        except ValueError:
            body = None
        if called is not None and isinstance(body, dict) and self._plays(called):
            return self._batchable(wire, called, body)
        if wire.method == "POST" and self._model_calls.matches(wire.url):
            # The sandbox itself says what it does not serve: no answer of a model.
            return None if detour(self.local_url, wire.url) else self._other(wire)
        return None

    def _other(self, wire: Wire) -> _Heard:
        """Read a call that no batch takes."""
        call = self._model_calls.read(wire.url)
        headers = {name.lower(): value for name, value in wire.headers.items()}
        query = [pair for pair in parse_qsl(urlsplit(wire.url).query) if pair[0] not in KEYS]
        identity = tuple(sorted((n, v) for n, v in headers.items() if n.startswith(ASKING)))
        if query:
            identity += (("query", digest(sorted(query))),)
        body = payloads.request_body(wire.content, headers.get("content-type", ""))
        target = Target(call.provider, call.base_url, call.endpoint, identity)
        request = Request(target, body, model_in_path=call.model or call.endpoint)
        return _Heard(request, None, "no batch takes such calls", may_be_kept=False, played=False)

    def _batchable(self, wire: Wire, called: providers.Called, body: Mapping[str, Any]) -> _Heard:
        provider = called.provider
        self._model_calls.called_at(called.base_url)
        headers = {name.lower(): value for name, value in wire.headers.items()}
        identity = provider.identity_headers(headers)
        url = urlsplit(wire.url)
        asked = set(parse_qsl(url.query, keep_blank_values=True)) - provider.empty_query
        query = sorted(pair for pair in asked if pair[0] not in provider.query_keys)
        if query:  # it may hold a key
            identity += (("query", digest(query)),)
        target = Target(
            provider.name,
            called.base_url,
            called.endpoint,
            identity,
            self._access.remember(wire, called),
        )
        model = called.dialect.model(called.endpoint)
        request = Request(target, called.dialect.strip_stream(body), model)
        rejected = provider.rejected(request)
        return _Heard(
            request,
            called.dialect.streamed(url.path, dict(parse_qsl(url.query)), body),
            rejected or ("a batch takes no query string" if query else ""),
            may_be_kept=not rejected,
            plain_url=_plain_url(called, wire.url),
        )

    def _plays(self, called: providers.Called) -> bool:
        """Whether, where there is a sandbox, it has the batches of this provider."""
        return not self.local_url or called.provider.name in PLAYED

    def _called(self, wire: Wire) -> providers.Called | None:
        """Return whose model is called, and where; None for anything but a call."""
        return providers.recognise(wire.url, wire.headers) if wire.method == "POST" else None

    def _real_time(self, order: SendNow, heard: _Heard) -> Send:
        # As it was heard: the one in the order lacks its secrets.
        request, streamed = heard.request, heard.streamed

        def record(came: Reply) -> Reply:
            body = payloads.answer_body(came)
            request_id = came.headers.get("x-request-id") or came.headers.get("request-id") or ""
            kept = providers.telling_headers(came.headers)
            answer = order.record(came.status, body, request_id, kept)
            if not is_success(answer.status):
                return came
            return reply_to(request, answer, streamed)

        played = self.local_url and heard.played
        url = self.local_url + request.target.endpoint if played else ""
        if streamed is None:  # as it is: it may have been signed
            return Send(record, url=url)
        content = json.dumps(request.body, ensure_ascii=False, separators=(",", ":"))
        return Send(record, content.encode("utf-8", "surrogatepass"), url or heard.plain_url)


def _outgoing(wire: Wire, call: _Heard) -> Outgoing | None:
    """Return how a call can be sent later, without its stream; None where its way is not known."""
    known = call.may_be_kept and call.request.target.credentials.network is not None
    if not known or wire.outgoing is None:
        return None
    url = call.plain_url if call.streamed is not None else ""
    return replace(wire.outgoing, url=url) if url else wire.outgoing


def _plain_url(called: providers.Called, url: str) -> str:
    """Return where a call goes that is not streamed, where the path says which it is."""
    here, plain = urlsplit(url), urlsplit(f"{called.base_url}{called.endpoint}")
    if here.path == plain.path:
        return ""
    query = [pair for pair in parse_qsl(here.query) if pair not in called.provider.empty_query]
    return plain._replace(query=urlencode(query)).geturl()


def reply_to(request: Request, answer: Answer, stream_body: Mapping[str, Any] | None) -> Reply:
    """Return the HTTP reply that the SDK would have received for this answer."""
    headers = {
        **answer.headers,
        "x-should-retry": "false",
        "x-langasync-job": answer.job_id or "realtime",
    }
    if answer.request_id:
        headers["x-request-id"] = headers["request-id"] = answer.request_id
    if stream_body is not None and is_success(answer.status) and isinstance(answer.body, dict):
        headers["content-type"] = "text/event-stream; charset=utf-8"
        dialect = providers.dialect_of(request.target)
        events = dialect.event_stream(answer.body, stream_body)
        return Reply(answer.status, headers, events)
    headers["content-type"], content = payloads.reply_body(answer.body)
    return Reply(answer.status, headers, content)

"""The lanes ``flex`` and ``realtime``: the calls themselves, sent at once and many side by side.

One thread, the dispatcher, does all the waiting: for the limit of each provider, account and model,
for a refused call's next try, for room in the flex tier. Each call under way has a thread of its
own. An answer is on disk before anybody is told of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_langasync.cache.secret_places import with_secrets
from pytest_langasync.interception.wire import Reply
from pytest_langasync.lanes.limiter import Feedback, Limiter, feedback
from pytest_langasync.models import (
    Answer,
    Event,
    Job,
    JobState,
    JobStatus,
    MissingCall,
    Request,
    Target,
    is_success,
)
from pytest_langasync.providers import dialect_of, telling_headers
from pytest_langasync.providers.dialects.base import Outcome as Read

if TYPE_CHECKING:
    from pytest_langasync.lanes import RunContext

__all__ = ["DirectLane", "NoFlexError", "Outcome", "Transmit"]

FLEX_PATIENCE = 900.0
"""Seconds that an answer of the flex tier may take; the providers' own advice."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a call is sent again; each further pause is twice as long."""
TICK = 0.5
"""Seconds between two ticks of the wait."""
LAST_ANSWERS = 5.0
"""Seconds for which what is under way may still be answered when the run ends."""

Transmit = Callable[[MissingCall, bytes, float | None], Reply]
"""Sends a call with this body, waiting for at least so many seconds; raises as its client would."""


class NoFlexError(Exception):
    """The provider has no flex tier for this model: the call is to go by another lane."""


@dataclass(frozen=True)
class Outcome:
    """What became of a call: an answer on disk (all fields empty), or nothing."""

    call: MissingCall
    error: Exception | None = None
    """What the network failed with, which is for the call's test to see; or ``NoFlexError``."""
    fault: BaseException | None = None
    """What went wrong here: the answer could not be stored, say."""
    late: bool = False
    """Whether its lane's time was up before there was room for it."""


@dataclass(slots=True)
class _Sending:
    call: MissingCall
    lane: Literal["flex", "realtime"]
    until: float
    """When the lane's time is up, as a reading of the run's timer."""
    due: float = 0.0
    tries: int = 0
    pauses: int = 0
    started_at: float = 0.0

    @property
    def group(self) -> tuple[Target, str]:
        """What the provider counts together: the account at a host, and the model."""
        to = self.call.target
        return (Target(to.provider, to.base_url, "", (), to.credentials), self.call.model)

    @property
    def tokens(self) -> float:
        return self.call.size / 4


@dataclass
class _Group:
    """The calls to one model on one account, and what is known of its limit."""

    limiter: Limiter
    waiting: list[_Sending] = field(default_factory=list)


@dataclass(frozen=True)
class _Came:
    sending: _Sending
    told: Feedback
    again: bool = False
    """Whether it is to be sent once more."""
    no_room: bool = False
    error: Exception | None = None
    fault: BaseException | None = None


class DirectLane:
    """Sends calls at once. ``send`` and ``wait`` are for the thread that waits; nothing else is.

    ``transmit`` is called in threads of this lane, as is the store.
    """

    def __init__(self, context: RunContext, transmit: Transmit) -> None:
        self._context = context
        self._transmit = transmit
        self._most = context.settings.concurrency
        self._groups: dict[tuple[Target, str], _Group] = {}
        self._inbox: queue.SimpleQueue[list[_Sending] | _Came | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._dispatcher: threading.Thread | None = None
        self._stopped = threading.Event()
        self._open: dict[str, _Sending] = {}
        self._shown: dict[tuple[str, str, str], _Shown] = {}

    @property
    def open(self) -> frozenset[str]:
        """The keys of the calls whose outcome is not known yet."""
        return frozenset(self._open)

    def send(
        self,
        calls: Iterable[MissingCall],
        lane: Literal["flex", "realtime"],
        until: float | None = None,
    ) -> None:
        """Begin to send these; ``until`` is when the lane's time is up, by the run's timer."""
        end = math.inf if until is None else until
        begun = [_Sending(call, lane, end) for call in calls if call.key not in self._open]
        if not begun:
            return
        self._open.update((one.call.key, one) for one in begun)
        groups: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        for one in begun:
            groups[lane, one.call.target.provider, one.call.model] += 1
        for where, count in groups.items():
            self._show(where, count)
        if self._dispatcher is None:
            self._dispatcher = threading.Thread(target=self._dispatch, daemon=True)
            self._dispatcher.start()
        self._inbox.put(begun)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Return the next outcome; None when nothing is under way, or for so many seconds."""
        timer = self._context.timer
        end = math.inf if timeout is None else timer() + timeout
        while self._open:
            self._context.tick()
            left = min(TICK, end - timer())
            if left <= 0:
                return None
            try:
                outcome = self._outcomes.get(timeout=left)
            except queue.Empty:
                continue
            sending = self._open.pop(outcome.call.key)
            self._tell(sending, outcome)
            return outcome
        return None

    def stop(self, patience: float = LAST_ANSWERS) -> None:
        """Send nothing more; give what is under way so many seconds to be answered, and stored."""
        self._stopped.set()
        self._inbox.put(None)
        if self._dispatcher is not None:
            self._dispatcher.join(patience)

    # ---- what is shown: like a job of a batch

    def _show(self, where: tuple[str, str, str], count: int) -> None:
        lane, provider, model = where
        shown = self._shown.get(where)
        if shown is None or shown.left == 0:
            name = f"{lane}-{len(self._shown) + 1}"
            job = Job(name, provider, "", "", model, (), "", self._context.clock(), 0)
            shown = self._shown[where] = _Shown(job)
        shown.add(count)
        self._context.notify(Event("sending", provider, model, count, shown.job, shown.status))

    def _tell(self, sending: _Sending, outcome: Outcome) -> None:
        call = sending.call
        shown = self._shown[sending.lane, call.target.provider, call.model]
        entry = self._context.store.peek(call.key)
        shown.settle(ok=outcome.error is None and bool(entry and entry.ok))
        kind: Literal["collected", "progress"] = "progress" if shown.left else "collected"
        job = shown.job
        self._context.notify(Event(kind, job.provider, job.model, job.requests, job, shown.status))

    # ---- the dispatcher

    def _dispatch(self) -> None:
        under_way = 0
        while not (self._stopped.is_set() and not under_way):
            due = math.inf if self._stopped.is_set() else self._start_due()
            under_way = sum(group.limiter.under_way for group in self._groups.values())
            if self._stopped.is_set() and not under_way:
                return
            try:
                timeout = None if due == math.inf else max(0.0, due - self._context.timer())
                message = self._inbox.get(timeout=timeout)
            except queue.Empty:
                continue
            if isinstance(message, list):
                for sending in message:
                    self._group(sending).waiting.append(sending)
            elif message is not None:
                self._finish(message)

    def _group(self, sending: _Sending) -> _Group:
        group = self._groups.get(sending.group)
        if group is None:
            group = self._groups[sending.group] = _Group(Limiter(self._most))
        return group

    def _start_due(self) -> float:
        """Start what may start now; return when something else may, or infinity."""
        now, next_due = self._context.timer(), math.inf
        for group in self._groups.values():
            waiting, group.waiting = group.waiting, []
            for index, sending in enumerate(waiting):
                if now >= sending.until and sending.started_at:  # each has one try
                    self._outcomes.put(Outcome(sending.call, late=True))
                    continue
                if sending.due > now:
                    next_due = min(next_due, sending.due, sending.until)
                    group.waiting.append(sending)
                    continue
                ready = group.limiter.ready_at(now, sending.tokens)
                if ready is None or ready > now:
                    # Whoever comes later waits behind; each still has its own end.
                    group.waiting += waiting[index:]
                    ends = [one.until for one in waiting[index:]]
                    next_due = min(next_due, *ends, ready if ready is not None else math.inf)
                    break
                sending.started_at = now
                group.limiter.started(now, sending.tokens)
                # A daemon thread: Ctrl-C must not wait for a provider that does not answer.
                threading.Thread(target=self._run, args=(sending,), daemon=True).start()
        return next_due

    def _finish(self, came: _Came) -> None:
        sending, now = came.sending, self._context.timer()
        group = self._group(sending)
        group.limiter.finished(now, sending.started_at, came.told)
        if came.again and not self._stopped.is_set():
            pause = min(FIRST_PAUSE * 2**sending.pauses, LONGEST_PAUSE)
            pause *= 1.0 - 0.1 * random.random()  # so that many calls do not come back in step
            sending.pauses += 1
            sending.tries += not came.no_room
            sending.due = now + max(pause, came.told.retry_after or 0.0)
            group.waiting.insert(0, sending)
        else:
            self._outcomes.put(Outcome(sending.call, came.error, came.fault))

    # ---- one call, in its own thread

    def _run(self, sending: _Sending) -> None:
        try:
            came = self._ask(sending)
        except BaseException as error:  # told to the thread that waits
            came = _Came(sending, Feedback(), fault=error)
        self._inbox.put(came)

    def _ask(self, sending: _Sending) -> _Came:
        call = sending.call
        body = with_secrets(self._context.store.spooled(call.key), call.secrets)
        request = Request(call.target, body, call.model)
        provider = self._context.lookup(call.target.provider)
        flex = sending.lane == "flex"
        sent = provider.in_flex(request) if flex else request.body
        if sent is None:
            return _Came(sending, Feedback(), error=NoFlexError(call.model))
        content = json.dumps(sent, ensure_ascii=False, separators=(",", ":"))
        try:
            reply = self._transmit(
                call, content.encode("utf-8", "surrogatepass"), FLEX_PATIENCE if flex else None
            )
        except Exception as error:
            again = flex or (not _is_time_out(error) and self._tries_left(sending))
            return _Came(sending, Feedback(), again=again, no_room=flex, error=error)
        outcome = dialect_of(call.target).outcome(reply.status, _body(reply))
        if flex and provider.refuses_flex(reply.status, outcome.body):
            return _Came(sending, Feedback(), error=NoFlexError(call.model))
        no_room = flex and provider.has_no_room(reply.status, outcome.body)
        refused = reply.status in (429, 529) and not no_room
        told = feedback(refused, reply.headers, self._context.clock())
        if no_room or (outcome.retryable and self._tries_left(sending)):
            return _Came(sending, told, again=True, no_room=no_room)
        self._store(sending, reply, outcome)
        return _Came(sending, told)

    def _tries_left(self, sending: _Sending) -> bool:
        own = sending.call.options.max_retries
        most = self._context.settings.max_retries if own is None else own
        return sending.tries < most and not self._stopped.is_set()

    def _store(self, sending: _Sending, reply: Reply, outcome: Read) -> None:
        now, call = self._context.clock(), sending.call
        request_id = reply.headers.get("x-request-id") or reply.headers.get("request-id") or ""
        hidden = outcome.failed and is_success(reply.status)
        body = self._context.store.secret_places.take_from_answer(outcome.body, call.secrets)
        answer = Answer(
            call.key, reply.status, body, "", request_id, now, now, failed=hidden,
            headers=telling_headers(reply.headers), lane=sending.lane,
        )  # fmt: skip
        self._context.store.add_direct(call, answer, retryable=outcome.retryable)


@dataclass
class _Shown:
    """How far the calls to a model are, in the shape in which a job of a batch is shown."""

    job: Job
    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def left(self) -> int:
        return self.total - self.completed - self.failed

    @property
    def status(self) -> JobStatus:
        state = JobState.RUNNING if self.left else JobState.ENDED
        return JobStatus(state, "sending", self.total, self.completed, self.failed)

    def add(self, count: int) -> None:
        self.total += count
        self.job = replace(self.job, requests=self.total)

    def settle(self, *, ok: bool) -> None:
        self.completed += ok
        self.failed += not ok


def _body(reply: Reply) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(reply.content)
    return reply.content.decode("utf-8", "replace")


def _is_time_out(error: BaseException) -> bool:
    """Return whether an answer was waited for in vain: to ask again may cost twice."""
    return any(one.__name__.endswith("Timeout") for one in type(error).__mro__)

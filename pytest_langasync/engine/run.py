"""The run: attempts in, batches out. The same engine under pytest and under ``wrap_chain``.

Ties the parts together and decides nothing about tests: a *front* (the pytest session, a chain's
job) opens attempts, hands over what is missing, waits, and opens attempts again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pytest_langasync import providers
from pytest_langasync.cache.secret_places import SecretPlaces
from pytest_langasync.cache.store import Store
from pytest_langasync.config import CLOCK, Settings, suite_of
from pytest_langasync.costs.ledger import Books, Ledger
from pytest_langasync.costs.own_prices import OwnPrices
from pytest_langasync.costs.prices import PriceBook
from pytest_langasync.engine import explanations
from pytest_langasync.engine.budget import Budget
from pytest_langasync.engine.hosts import Hosts
from pytest_langasync.engine.memory import Memory
from pytest_langasync.engine.replay import Attempt, Replay, ReplayRules
from pytest_langasync.engine.request_changes import request_changes
from pytest_langasync.engine.router import CallRouter
from pytest_langasync.engine.unclaimed import enter_unused
from pytest_langasync.exceptions import ConfigurationError, LangasyncError, raise_as_one
from pytest_langasync.interception.clients import Interceptor
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.interception.forks import ForkGuard
from pytest_langasync.interception.tracing import TraceBuffer
from pytest_langasync.interception.transports import Transports
from pytest_langasync.interception.wire import Reply
from pytest_langasync.lanes import RunContext
from pytest_langasync.lanes.batch.batcher import Batcher, Policy
from pytest_langasync.lanes.direct import DirectLane
from pytest_langasync.lanes.refusals import NO_BATCH_API, Refusals
from pytest_langasync.models import AttemptOptions, Call, Event, MissingCall, Refusal, Request
from pytest_langasync.providers import model_calls
from pytest_langasync.providers.model_calls import ModelCalls

__all__ = ["Front", "Run"]


@dataclass(frozen=True)
class Front:
    """What a front tells the run that serves it. Functions are called in the front's own thread."""

    parked_type: type[BaseException]
    """What a parked call raises."""
    notify: Callable[[Event], None]
    tick: Callable[[], None] = lambda: None
    """Called before each pause of a wait."""
    started_at: float | None = None
    """When the run began, in seconds since the epoch; None: now."""
    local_url: str = ""
    """Base URL of a sandbox that runs already."""
    sandbox_reply: Callable[[Any], Any] | None = None
    """Answers in the place of the sandbox that this run starts."""
    suite: str = ""
    """What names it at its providers; empty: the project."""
    option: Callable[[str], str] = lambda name: f"--langasync-{name.replace('_', '-')}"
    """Returns what a person calls a setting, for errors that speak of it."""
    allow: Callable[[str, Request], None] | None = None
    """Where another process keeps the budget: raises ``ConfigurationError`` when a call, given with
    its key, may not be sent in real time."""


class Run:
    """Everything one run needs: it owns the only store, ledger, budget, memory and lanes.

    ``start`` patches, ``close`` undoes. What was closed may be opened again: its ledger stays.
    """

    def __init__(self, settings: Settings, front: Front) -> None:
        self.settings = settings
        self.started_at = CLOCK.now() if front.started_at is None else front.started_at
        self._front = front
        self._notify = front.notify
        self.prices = prices = PriceBook(OwnPrices(settings.prices))
        self.ledger = Ledger(self.started_at, prices)
        self.store = Store(
            settings.cache,
            redacted=None if settings.store_prompts else providers.echoed,
            started_at=self.started_at,
            secret_places=SecretPlaces(settings.secret_places),
        )
        self.hosts = Hosts(front.local_url)
        self.refusals = Refusals(self.store)
        self.context = RunContext(
            self.store,
            settings,
            self.started_at,
            front.suite or suite_of(settings.rootdir),
            front.notify,
            front.tick,
            self.hosts.connect,
            self.refusals,
        )
        self.budget = Budget(self.context, prices, front.option)
        self._allow = front.allow or self.budget.check_now
        self.refused = ""
        """Why nothing more may be sent in this run, once something stands in the way."""
        self._waves = 0
        self._transports = Transports()
        self._without_flex: set[tuple[str, str, str]] = set()
        """Provider, base URL and model of what was refused in the flex tier."""
        self._is_open = False
        self._placeholders: list[str] = []
        self._lacking, self._used = set[str](), set[str]()
        self.concurrency = ConcurrencyTracker(front.parked_type)
        self._router = CallRouter(
            self.concurrency, self.ledger, ModelCalls(settings.model_calls), self.hosts.access
        )
        self._forks = ForkGuard(self._router, self.concurrency, self.ledger.passed, settings.silent)
        self._interceptor = Interceptor(self._forks, self.concurrency, guards=not settings.silent)
        self._attempt: Attempt | None = None
        self._traces = TraceBuffer(self._is_parked)

    # ---- life

    def start(self) -> None:
        """Open the cache, start the sandbox, patch. Raises what ``open`` does."""
        self.open()
        self.patch()

    def open(self, rules: ReplayRules | None = None) -> None:
        """Open the cache, and start the sandbox where asked for.

        Raises:
            CacheError: the cache directory cannot be used.
            ConfigurationError: the sandbox was asked for and is not installed; the job to resume
                has no ID of a known provider.
        """
        settings = self.settings
        self.store.open()
        for job_id in settings.resumed:
            if self.store.job(job_id) is None:
                providers.check_job_id(job_id)
        self.refusals.load()
        self.memory = Memory(self.context)
        self.replay = Replay(self.context, self.memory, rules or ReplayRules(), self._may_send)
        self.batcher = Batcher(self.context, Policy.of(settings, self.started_at))
        self.direct = DirectLane(self.context, self._transmit)
        self._is_open = True
        if settings.sandbox and not self.hosts.local_url:
            self.hosts.start_sandbox(settings, self._front.sandbox_reply)
        self._router.local_url = self.hosts.local_url
        if settings.sandbox or self.replay.silent:
            self._placeholders = providers.set_placeholder_keys()
        if self.replay.silent:
            self._placeholders += model_calls.set_placeholder_keys()

    def patch(self) -> None:
        """Begin to catch the calls of attempts."""
        self.concurrency.install()
        self._interceptor.install()
        self._traces.install()

    def unpatch(self) -> None:
        """Undo every patch."""
        self._traces.uninstall()
        self._interceptor.uninstall()
        self.concurrency.uninstall()

    def close(self) -> None:
        """Undo every patch, stop the sandbox, take back placeholders."""
        self.unpatch()
        while self._placeholders:
            os.environ.pop(self._placeholders.pop(), None)
        if self._is_open:
            self.direct.stop()
            self.batcher.close()
            self._transports.close()
        self._is_open = False
        self.store.close()
        self.hosts.stop()

    # ---- attempts

    def _is_parked(self) -> bool:
        return self._attempt is not None and self._attempt.parked

    @contextlib.contextmanager
    def attempt(
        self,
        owner: str,
        number: int,
        options: AttemptOptions,
        *,
        traced: bool = True,
    ) -> Iterator[Attempt]:
        """Run the body as one attempt of ``owner``: its calls are answered, recorded or sent.

        One at a time, unless ``traced`` is false, which lets traces through as they come.
        """
        attempt = Attempt(self.replay, owner, number, options)
        with self._tracing(attempt) if traced else contextlib.nullcontext():
            try:
                with self.concurrency.attempting(attempt):
                    yield attempt
            finally:
                attempt.closed = True
                self._forks.count()

    @contextlib.contextmanager
    def _tracing(self, attempt: Attempt) -> Iterator[None]:
        """Hold back what an attempt tells tracing libraries until it is known what became of it."""
        self._attempt = attempt
        self._traces.begin(attempt.owner)
        try:
            yield
        finally:
            self._attempt = None
            if attempt.parked or attempt.discarded:
                self._traces.discard()
            else:
                self._traces.commit()

    def park(self, attempt: Attempt) -> None:
        """Keep what a parked attempt asked for in mind until its next one."""
        self.replay.kept.waiting.add(attempt.owner)
        self.memory.parked(attempt.owner, attempt.missing)

    def judge(self, attempt: Attempt) -> None:
        """Enter a finished attempt in the books: what it used has now served its verdict."""
        self.replay.kept.waiting.discard(attempt.owner)
        if not attempt.used:
            self.ledger.unseen(attempt.owner)
        for _, call, answer in attempt.used:
            self.ledger.used(attempt.owner, call, answer)
            self._used.add(answer.key)
            if answer.received_at >= self.started_at and not answer.job_id:
                why = self.refusals.of_request(call.request)
                if why:
                    self.ledger.passed(urlsplit(call.request.target.base_url).netloc, why)
        if attempt.masked:
            self.ledger.masked(attempt.owner, attempt.masked)
        used = ((scope, answer) for scope, _, answer in attempt.used)
        self.memory.judged(attempt.owner, used, masked=attempt.masked > 0)

    def first_time(self, attempt: Attempt, owner: str) -> bool:
        """Whether a test that strayed did so from an earlier run's answers, for the first time.

        Between runs that is an edited prompt: it is bought, and said. Twice in a row it is not.
        """
        if attempt.number > 1 or not self.memory.differs(owner):
            return False
        self.ledger.changed(owner)
        return True

    def give_up(self, attempt: Attempt) -> None:
        """Forget a test that cannot be replayed; the next run starts with it afresh."""
        self.replay.kept.waiting.discard(attempt.owner)
        self.memory.gave_up(attempt.owner, attempt.missing.values())

    def defer(self, owner: str, missing: Iterable[MissingCall]) -> None:
        """Enter a test that is still waiting in the books."""
        self.memory.deferred()
        for pending in missing:
            job = self.store.in_flight(pending.key)
            self.ledger.deferred(owner, pending, job.id if job else None)

    def reason(self, missing: Sequence[MissingCall], why: str) -> str:
        """Say what a test waits for."""
        return explanations.reason(missing, why, self.settings, self.store, self.batcher)

    def settle_books(self) -> None:
        """Enter what the whole run did: what was sent again, and paid answers nobody used."""
        for job_id, why, count in self.batcher.retries:
            self.ledger.retried(job_id, why, count)
        enter_unused(self.ledger, self.store, self._used)

    @property
    def used(self) -> list[str]:
        """The keys of the answers that verdicts of this process used, sorted."""
        return sorted(self._used)

    def absorb(self, books: Books, used: Iterable[str]) -> None:
        """Enter another process's books, and the keys of what it used."""
        self.ledger.merge(books)
        self._used.update(used)

    # ---- waves

    def wave(self, missing_calls: Iterable[MissingCall]) -> None:
        """Submit what is missing, or attach to the jobs where it is already under way.

        Raises:
            ConfigurationError: a key, model or base URL cannot work, or the cost guard refuses.
            ProviderError: a provider could not be reached; what was submitted stays submitted.
        """
        if self.refused:
            raise ConfigurationError(self.refused)
        batchable = [call for call in missing_calls if self.batchable(call)]
        unpaid = [call for call in batchable if not self.paid_for(call)]
        self.tell_request_changes(batchable)
        self.budget.check(unpaid)
        if self._note_purchase(batchable):
            self.batcher.submit(batchable, valid=self._still_counts(batchable))

    def send(
        self,
        calls: Sequence[MissingCall],
        lane: Literal["flex", "realtime"],
        until: float | None = None,
    ) -> None:
        """Begin to send these by themselves; ``until`` is when the lane's time is up, by the run's
        timer.

        Raises:
            ConfigurationError: the cost guard refuses.
            CacheError: the cache cannot be written.
        """
        self.tell_request_changes(calls)
        self.budget.check(calls, lane)
        self._note_purchase(calls)
        self.direct.send(calls, lane, until)

    def _note_purchase(self, calls: Sequence[MissingCall]) -> bool:
        """Write down what is about to be bought, and tell it; return whether there is anything."""
        owners = self.memory.note_purchase(calls)
        if owners:
            self._waves += 1
            tests = f"{owners:,} test{'' if owners == 1 else 's'}"
            where = f"wave {self._waves}, {tests}"
            self._notify(Event("gathered", requests=len(calls), message=where))
        return owners > 0

    def _transmit(self, call: MissingCall, content: bytes, patience: float | None) -> Reply:
        """Send a call the way that its client would have sent it."""
        local, outgoing = self.hosts.local_url, call.outgoing
        assert outgoing is not None
        if local:
            url = local + call.target.endpoint
            return self._transports.send(outgoing, content, None, patience=patience, url=url)
        way = self.hosts.access.live(call.target.credentials)
        return self._transports.send(outgoing, content, way, patience=patience)

    def has_flex(self, call: MissingCall) -> bool:
        """Whether a call may be tried in the flex tier, as far as is known."""
        if (*call.target.host, call.model) in self._without_flex:
            return False
        provider = providers.by_name(call.target.provider)
        request = Request(call.target, self.store.spooled(call.key), call.model)
        return provider.in_flex(request) is not None and self.prices.may_have_tier(
            call.target.provider, call.model, "flex"
        )

    def has_no_flex(self, call: MissingCall) -> None:
        """Note that the provider refused the flex tier for a call's model."""
        self._without_flex.add((*call.target.host, call.model))

    def batches_in_doubt(self, calls: Iterable[MissingCall]) -> bool:
        """Whether some of these are part of a running job, or may be, as far as the cache tells."""
        keys = {call.key for call in calls}
        return any(self.store.in_flight(key) for key in keys) or any(
            keys & self.store.intents.keys(intent.nonce) for intent in self.store.intents
        )

    def lacks_key(self, error: BaseException) -> bool:
        """Whether a test ended because an SDK has no key; then nothing can be sent for it."""
        variable = providers.lacking_key(error)
        if variable:
            self._lacking.add(variable)
            names = " and ".join(sorted(self._lacking))
            self.refused = f"no API key: set {names}. Nothing was sent"
        return bool(variable)

    def _may_send(self, call: Call) -> bool:
        """Whether a call may go out in real time: the cost guard covers these, too."""
        if not self.refused:
            try:
                self._allow(call.key, call.request)
            except ConfigurationError as error:
                self.refused = str(error)
        return not self.refused

    def _still_counts(self, missing_calls: list[MissingCall]) -> Callable[[str], bool]:
        owners = {pending.key: pending.owner for pending in missing_calls}
        return lambda key: self.replay.has(key, owners[key])

    def answered(self, missing_calls: Iterable[MissingCall]) -> bool:
        """Whether an attempt that missed these can go on now."""
        return all(map(self.replay.can_go_on, missing_calls))

    def attach(self, job_id: str, missing_calls: Iterable[MissingCall]) -> None:
        """Attach to a job by its ID, with the key that the missing calls carried.

        Where the cache does not know it, the hosts of the missing calls are asked in turn.

        Raises:
            ConfigurationError: none of them knows it, or no missing call goes to where it is.
        """
        known = self.store.job(job_id)
        targets = {(*p.target.host, p.target.credentials.account): p.target for p in missing_calls}
        may_be = [
            target
            for target in targets.values()
            if (target.host == known.host if known else providers.may_have_job(target, job_id))
        ]
        if not may_be:
            where = f" at {known.base_url}" if known else ""
            raise ConfigurationError(f"{job_id}: no call waits for an answer of a job{where}")
        refusals: list[LangasyncError] = []
        for target in may_be:
            try:
                self.batcher.attach(job_id, target)
            except ConfigurationError as error:
                refusals.append(error)
            else:
                return
        raise_as_one(refusals)

    def paid_for(self, pending: MissingCall) -> bool:
        """Whether a missing call is answered by now, or part of a running job."""
        return (
            self.replay.has(pending.key, pending.owner)
            or self.store.in_flight(pending.key) is not None
        )

    def look_up(self, missing_calls: Iterable[MissingCall]) -> frozenset[str]:
        """Wait for what of these was bought already; return what may have been. As ``wave``."""
        batchable = [pending for pending in missing_calls if self.batchable(pending)]
        return self.batcher.look_up(batchable, valid=self._still_counts(batchable))

    def tell_request_changes(self, missing_calls: Iterable[MissingCall]) -> None:
        """Tell how what is about to be bought differs from what the same tests had stored."""
        for line in request_changes(
            [p for p in missing_calls if not self.paid_for(p)], self.replay
        ):
            self._notify(Event("changed", message=line))

    def batchable(self, pending: MissingCall) -> bool:
        """Whether a batch takes a call, as far as is known; its host is asked once.

        Raises:
            ProviderError: the host could not be asked.
        """
        if self.refusals.of_missing(pending):
            return False
        if self.refusals.all():
            body = self.store.spooled(pending.key)
            if self.refusals.of_request(Request(pending.target, body, pending.model)):
                return False
        if not (has_one := self.hosts.has_batch_api(pending.target)):
            self.refusals.add_host(pending.target, NO_BATCH_API)
        return has_one

    def bought(self, missing_calls: Iterable[MissingCall], refusals: Iterable[Refusal]) -> None:
        """Take note of a wave that another process bought for this one's tests."""
        self.refusals.update(refusals)
        self.memory.note_bought(p for p in missing_calls if not self.refusals.of_missing(p))
        self.store.refresh()

"""The run: attempts in, batches out. The same engine under pytest and under ``wrap_chain``.

Ties the parts together and decides nothing about tests: a *front* (the pytest session, a chain's
job) opens attempts, hands over what is missing, waits, and opens attempts again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync import providers
from pytest_langasync.cache.store import Store
from pytest_langasync.config import Settings, suite_of
from pytest_langasync.costs.ledger import Ledger
from pytest_langasync.costs.prices import PriceBook
from pytest_langasync.engine import explanations
from pytest_langasync.engine.budget import Budget
from pytest_langasync.engine.hosts import Hosts
from pytest_langasync.engine.refresh import JUDGED
from pytest_langasync.engine.replay import Attempt, Replay
from pytest_langasync.engine.request_changes import request_changes
from pytest_langasync.engine.router import CallRouter
from pytest_langasync.engine.unclaimed import enter_unused
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.interception.clients import Interceptor
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.interception.forks import ForkGuard
from pytest_langasync.interception.tracing import TraceBuffer
from pytest_langasync.lanes import RunContext
from pytest_langasync.lanes.batch.batcher import Batcher, Policy
from pytest_langasync.models import AttemptOptions, Call, Event, MissingCall, Request

__all__ = ["Run"]


class Run:
    """Everything one run needs. ``start`` patches, ``close`` undoes; both may be called once."""

    def __init__(
        self,
        settings: Settings,
        *,
        notify: Callable[[Event], None],
        tick: Callable[[], None] = lambda: None,
        parked_type: type[BaseException],
        sandbox_reply: Callable[[Any], Any] | None = None,
        started_at: float | None = None,
        local_url: str = "",
        **replaying: Any,
    ) -> None:
        """``started_at`` is now unless given (since the epoch); ``local_url`` is the base URL of a
        sandbox that runs already; the keywords that are left go to ``Replay``."""
        self.settings = settings
        self.started_at = time.time() if started_at is None else started_at
        self._replaying = replaying
        self.prices = PriceBook()
        self.ledger = Ledger(self.started_at, self.prices)
        self.store = Store(
            settings.cache, redacted=None if settings.store_prompts else providers.echoed
        )
        self.hosts = Hosts(local_url)
        self.context = RunContext(
            self.store,
            settings,
            self.started_at,
            suite_of(settings.rootdir),
            notify,
            tick,
            self.hosts.connect,
        )
        self.batcher = Batcher(self.context, Policy.of(settings, self.started_at))
        self._notify = notify
        self._waves = 0
        self.concurrency = ConcurrencyTracker(parked_type)
        self._reply_hook = sandbox_reply
        self._placeholders: list[str] = []
        self.budget = Budget(self.store, self.prices, settings.max_cost, self.started_at)
        self.allow: Callable[[str, Request], None] = self.budget.check_now
        """Asked before a call goes out in real time; another process may keep the budget."""
        self.refused = ""
        """Why nothing more may be sent in this run, once something stands in the way."""
        self._lacking, self._used, self._fixtures = set[str](), set[str](), set[str]()
        self._deferred = False
        self._changes: dict[str, dict[str, Any] | None] = {}
        self._generated: dict[str, dict[str, Any]] = {}
        self._router = CallRouter(self.concurrency, self.ledger)
        self._forks = ForkGuard(self._router, self.concurrency, self.ledger.passed, settings.silent)
        self._interceptor = Interceptor(self._forks, self.concurrency)
        self._attempt: Attempt | None = None
        self._traces = TraceBuffer(self._is_parked)

    # ---- life

    def start(self) -> None:
        """Open the cache, start the sandbox, patch. Raises what ``open`` does."""
        self.open()
        self.patch()

    def open(self) -> None:
        """Open the cache, and start the sandbox where asked for.

        Raises:
            CacheError: the cache directory cannot be used.
            ConfigurationError: the sandbox was asked for and is not installed; the job to resume
                has no ID of a known provider.
        """
        settings = self.settings
        for job_id in settings.resumed:
            providers.by_job_id(job_id)
        self.store.open()
        self.replay = Replay(
            self.store,
            started_at=self.started_at,
            shared=settings.samples == "shared",
            tokens=settings.match_generated_ids,
            realtime=settings.realtime,
            silent=settings.silent,
            refresh=settings.refresh,
            max_age=settings.max_age,
            may_send=self._may_send,
            **self._replaying,
        )
        if settings.sandbox and not self.hosts.local_url:
            self.hosts.start_sandbox(settings, self._reply_hook)
        self._router.local_url = self.hosts.local_url
        if settings.sandbox or self.replay.silent:
            self._placeholders = providers.set_placeholder_keys()

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
        for variable in self._placeholders:
            os.environ.pop(variable, None)
        self.batcher.close()
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
        for owner in {pending.owner for pending in attempt.missing.values()} | {attempt.owner}:
            self.replay.new_since_last_attempt[owner] = frozenset(
                key for key, pending in attempt.missing.items() if pending.owner == owner
            )

    def judge(self, attempt: Attempt) -> None:
        """Enter a finished attempt in the books: what it used has now served its verdict."""
        changes: dict[str, dict[str, Any] | None] = {}
        for scope, call, answer in attempt.used:
            self.ledger.used(attempt.owner, call, answer)
            self._used.add(answer.key)
            base_url, new = call.request.target.base_url, answer.received_at >= self.started_at
            if base_url in self.replay.realtime_bases and new:
                self.ledger.passed(urlsplit(base_url).netloc, "it has no batch API")
            if not answer.ok:
                changes[scope] = {"errors_spent_at": time.time()}
            if scope != attempt.owner:
                self._fixtures.add(scope)
        if attempt.masked:
            self.ledger.masked(attempt.owner, attempt.masked)
            bought = sorted(answer.key for _, _, answer in attempt.used)
            self._generated[attempt.owner] = {"waiting": bought, JUDGED: True}
        if attempt.owner in self.replay.state:
            changes.setdefault(attempt.owner, None)
        self.replay.bought_keys.pop(attempt.owner, None)
        self.replay.new_since_last_attempt.pop(attempt.owner, None)
        self._changes.update(changes)

    def first_time(self, attempt: Attempt, owner: str) -> bool:
        """Whether a test that strayed did so from an earlier run's answers, for the first time.

        Between runs that is an edited prompt: it is bought, and said. Twice in a row it is not.
        """
        entry = self.replay.state.get(owner, {})
        if attempt.number > 1 or entry.get("differed"):
            return False
        self.replay.state[owner] = {**entry, "differed": True}
        self.replay.bought_keys.pop(owner, None)
        self.ledger.changed(owner)
        return True

    def give_up(self, attempt: Attempt) -> None:
        """Forget a test that cannot be replayed; the next run starts with it afresh."""
        for owner in {attempt.owner, *(p.owner for p in attempt.missing.values())}:
            self.replay.bought_keys.pop(owner, None)
            self.replay.new_since_last_attempt.pop(owner, None)
            self._changes[owner] = None

    def defer(self, owner: str, missing: Iterable[MissingCall]) -> None:
        """Enter a test that is still waiting in the books."""
        self._deferred = True
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

    def books(self) -> dict[str, Any]:
        """Return this process's part of the books as JSON values: what ``absorb`` takes."""
        return {"ledger": self.ledger.as_dict(), "used": sorted(self._used)}

    def absorb(self, books: Mapping[str, Any]) -> None:
        """Enter another process's books here."""
        self.ledger.merge(books["ledger"])
        self._used.update(books["used"])

    # ---- waves

    def wave(self, missing_calls: Iterable[MissingCall]) -> None:
        """Submit what is missing, or attach to the jobs where it is already under way.

        Raises:
            ConfigurationError: a key, model or base URL cannot work, or the cost guard refuses.
            ProviderError: a provider could not be reached; what was submitted stays submitted.
        """
        if self.refused:
            raise ConfigurationError(self.refused)
        batchable = [p for p in missing_calls if self._has_batch_api(p)]
        self.tell_request_changes(batchable)
        self.budget.check([p for p in batchable if not self.paid_for(p)])
        changes = self._note_waiting(batchable)
        if changes:  # written down before it is bought
            self.replay.renewal.begin()
            self.store.update_owner_state(changes)
            self._waves += 1
            tests = f"{len(changes):,} test{'' if len(changes) == 1 else 's'}"
            where = f"wave {self._waves}, {tests}"
            self._notify(Event("gathered", requests=len(batchable), message=where))
            self.batcher.submit(batchable, valid=self._still_counts(batchable))

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
                self.allow(call.key, call.request)
            except ConfigurationError as error:
                self.refused = str(error)
        return not self.refused

    def _still_counts(self, missing_calls: list[MissingCall]) -> Callable[[str], bool]:
        owners = {pending.key: pending.owner for pending in missing_calls}
        return lambda key: self.replay.has(key, owners[key])

    def answered(self, missing_calls: Iterable[MissingCall]) -> bool:
        """Whether an attempt that missed these can go on now."""
        return all(
            p.target.base_url in self.replay.realtime_bases
            or p.owner in self.replay.urgent
            or self.replay.has(p.key, p.owner)
            for p in missing_calls
        )

    def attach(self, job_id: str, missing_calls: Iterable[MissingCall]) -> None:
        """Attach to a job by its ID, with the key that the missing calls carried.

        Raises:
            ConfigurationError: no provider has such IDs, or the provider does not know it, or no
                missing call goes there.
        """
        provider = providers.by_job_id(job_id)
        pending = next((p for p in missing_calls if p.target.provider == provider.name), None)
        if pending is None:
            raise ConfigurationError(f"{job_id}: no call waits for an answer of {provider.name}")
        self.batcher.attach(job_id, pending.target)

    def paid_for(self, pending: MissingCall) -> bool:
        """Whether a missing call is answered by now, or part of a running job."""
        return (
            self.replay.has(pending.key, pending.owner)
            or self.store.in_flight(pending.key) is not None
        )

    def look_up(self, missing_calls: Iterable[MissingCall]) -> frozenset[str]:
        """Wait for what of these was bought already; return what may have been. As ``wave``."""
        batchable = [pending for pending in missing_calls if self._has_batch_api(pending)]
        return self.batcher.look_up(batchable, valid=self._still_counts(batchable))

    def tell_request_changes(self, missing_calls: Iterable[MissingCall]) -> None:
        """Tell how what is about to be bought differs from what the same tests had stored."""
        for line in request_changes(
            [p for p in missing_calls if not self.paid_for(p)], self.replay
        ):
            self._notify(Event("changed", message=line))

    def _has_batch_api(self, pending: MissingCall) -> bool:
        if not (has_one := self.hosts.has_batch_api(pending.target)):
            self.replay.realtime_bases.add(pending.target.base_url)
        return has_one

    # ---- what outlives the run

    def _note_waiting(
        self, missing_calls: Iterable[MissingCall]
    ) -> dict[str, dict[str, Any] | None]:
        """Note what is bought for whom; return what to write down about it."""
        changes: dict[str, dict[str, Any] | None] = {}
        missing_calls, bought_keys = list(missing_calls), self.replay.bought_keys
        for pending in missing_calls:
            bought_keys[pending.owner].add(pending.key)
        for owner in {pending.owner for pending in missing_calls}:
            entry = {**self.replay.state.get(owner, {}), **self.replay.renewal.waiting(owner)}
            entry |= {"waiting": sorted(bought_keys[owner]), JUDGED: False}
            changes[owner] = self.replay.state[owner] = entry
        return changes

    def bought(self, missing_calls: Iterable[MissingCall], realtime_bases: Iterable[str]) -> None:
        """Take note of a wave that another process bought for this one's tests."""
        self.replay.realtime_bases.update(realtime_bases)
        without = self.replay.realtime_bases
        self._note_waiting(p for p in missing_calls if p.target.base_url not in without)
        self.store.refresh()

    def save(self, *, goes_on: bool) -> None:
        """Write down whose errors have served and who is no longer waiting.

        Where the run ``goes_on`` later, judged tests with generated identifiers ask once more.
        """
        judged = self._generated if goes_on else {}
        self._changes |= {o: e for o, e in judged.items() if not self._changes.get(o)}
        if not self._deferred:  # else a fixture may be asked again on behalf of another test
            self._changes = dict.fromkeys(self._fixtures & self.replay.state.keys()) | self._changes
        if self._changes:
            self.store.update_owner_state(self._changes)
            self._changes.clear()

"""The work of a chain's job: passes over its inputs, waves, results. ``job.py`` is its face."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytest_langasync.cache.chain_jobs import JobRecord
from pytest_langasync.chains.invoke import Invoker
from pytest_langasync.chains.runner import JobCounts, Listener, Outcome, Runner
from pytest_langasync.config import CLOCK, Settings
from pytest_langasync.costs.ledger import Summary
from pytest_langasync.exceptions import (
    CacheError,
    ConfigurationError,
    JobCancelledError,
    ProviderError,
)
from pytest_langasync.interception.event_loop import aside
from pytest_langasync.models import AttemptOptions, Event

__all__ = ["Work"]

EMPTY_WAITS = 3
"""How often a finished wait may bring nothing before what is missing counts as lost."""


class Work:
    """Inputs, what became of each, and what is done about those that wait. One thread at a time."""

    def __init__(
        self,
        chain: Invoker,
        inputs: Sequence[Any],
        record: JobRecord,
        settings: Settings,
        listener: Listener,
        config: Any = None,
    ) -> None:
        self.record = record
        self.inputs = list(inputs)
        self.outcomes: dict[int, Outcome] = {}
        self._configs = config if isinstance(config, list) else [config] * len(self.inputs)
        if len(self._configs) != len(self.inputs):
            raise ConfigurationError(
                f"{len(self._configs)} configs were given for {len(self.inputs)} inputs"
            )
        self._settings = settings
        self._notify = listener.notify
        heard = replace(listener, notify=self._event)
        self._runner = Runner(chain, self.inputs, record, settings, heard)
        self._is_open = False
        self._checked = not record.provider_jobs
        """Whether the chain is known to ask for what was bought for it."""
        self._empty = 0
        self._attached = False

    @property
    def done(self) -> int:
        """How many inputs have a result or a final error."""
        return sum(not outcome.parked for outcome in list(self.outcomes.values()))

    @property
    def completed(self) -> bool:
        """Whether all of them have."""
        return self.done == len(self.inputs) or (self.record.completed and not self.outcomes)

    def summary(self) -> Summary:
        """Return what was done and paid so far."""
        return self._runner.run.ledger.summary()

    def start(self) -> None:
        """Run every input for the first time, and send what is missing. ``submit_batch`` calls it.

        Raises:
            NotReproducibleError: the first input asks for something else when it runs again.
            ConfigurationError, ProviderError: as ``get_status``. Nothing was bought.
        """
        urgent = set(self.record.urgent)
        todo = [i for i in range(len(self.inputs)) if i not in self.outcomes]
        self.outcomes |= {i: Outcome(parked=True) for i in todo}
        try:
            self._pass([i for i in todo if i not in urgent], check=not self.record.provider_jobs)
        except BaseException:
            self.outcomes.clear()
            self._close()
            raise
        if self.record.cancelled_at is None:
            self._pass_in_real_time([i for i in todo if i in urgent])
        elif self._is_open:  # what comes back as cancelled is not sent again
            self._runner.run.batcher.cancel_all()
        self._finish_if_done()
        if (
            self.completed
            and not self.summary().total.requests
            and not any(outcome.error for outcome in self.outcomes.values())
        ):
            warnings.warn("the chain called no model: there was nothing to batch", stacklevel=4)

    def attach(self, provider_job: str) -> None:
        """Wait for a provider's job that this cache has never heard of, and go on from there.

        Raises:
            ConfigurationError, ProviderError: it is unknown there, or not this chain's.
        """
        runner = self._open()
        self.outcomes = {i: Outcome(parked=True) for i in range(len(self.inputs))}
        aside(lambda: self._run(runner, list(self.outcomes)))
        missing = [p for o in self.outcomes.values() for p in o.missing]
        runner.run.attach(provider_job, missing)
        self._attached = True

    def recall(self) -> None:
        """Run a completed job of an earlier process on its answers."""
        if self.record.completed and not self.outcomes:
            self.start()

    def advance(self, timeout: float | None) -> None:
        """Wait for answers, for ``timeout`` seconds at most, and go on where some have come."""
        if not self.outcomes:
            self.start()
        if self.completed:
            return
        over = self._open().run.batcher.wait(timeout)
        ready = self._ready()
        if self.record.cancelled_at is not None:
            if over:
                self._end_cancelled(ready)
        elif over or (ready and not self._attached):
            self._attached = False
            try:
                self._pass(ready)
            except ProviderError as error:
                self._notify(Event("trouble", message=f"{error}; trying again"))
                time.sleep(min(timeout or 0.0, self._settings.poll_interval))
            else:
                self._give_up_after(0 if ready else self._empty + 1)
        self._finish_if_done()

    def _end_cancelled(self, ready: Sequence[int]) -> None:
        """Take what was done before the cancellation; nothing more is bought."""
        runner = self._open()
        aside(lambda: self._run(runner, ready))
        gone = JobCancelledError(f"{self.record.id} was cancelled before this input had its answer")
        self.outcomes |= {index: Outcome(error=gone) for index in self._waiting()}

    def _give_up_after(self, empty: int) -> None:
        """End the wait for answers that the provider does not have."""
        self._empty = empty
        if empty >= EMPTY_WAITS:
            lost = ProviderError("the provider returned no answer for this input")
            self.outcomes |= {index: Outcome(error=lost) for index in self._waiting()}

    def _waiting(self) -> list[int]:
        return [index for index, outcome in sorted(self.outcomes.items()) if outcome.parked]

    def _ready(self) -> list[int]:
        answered = self._open().run.answered
        return [index for index in self._waiting() if answered(self.outcomes[index].missing)]

    def _pass(self, indices: Sequence[int], *, check: bool = False) -> None:
        """Run these inputs on the answers that are there, and send all that is missing then."""
        runner = self._open()
        aside(lambda: self._run(runner, indices, check=check))
        if not self._checked:
            self._refuse_changes(runner)
        if self.record.completed:
            gone = CacheError("an answer of this input is not in the cache any more: submit anew")
            self.outcomes |= {index: Outcome(error=gone) for index in self._waiting()}
        self._refuse_real_time(runner)
        missing = {p.key: p for index in self._waiting() for p in self.outcomes[index].missing}
        if self.record.cancelled_at is not None:  # wait for what still runs, and buy nothing
            missing = {key: p for key, p in missing.items() if runner.run.store.in_flight(key)}
        if missing:
            self.record.save(runner.run.store)  # before the purchase: it can be found again
            runner.run.wave(missing.values())

    def _refuse_changes(self, runner: Runner) -> None:
        """Raise where the chain is another one than that which the job was submitted with."""
        self._checked = True
        for index in self._waiting():
            changed = runner.changed(index, self.outcomes[index], self.record.provider_jobs)
            if changed:
                raise ConfigurationError(
                    f"{self.record.id}: the chain asks for something else than when it was "
                    "submitted. Give get_job the same chain, or submit a new job. Nothing was "
                    f"sent. The difference, for input {index}:\n{changed}"
                )

    def _refuse_real_time(self, runner: Runner) -> None:
        """Fail what goes to a host without a batch API; raise where nothing was bought yet."""
        waiting = {index: self.outcomes[index].missing for index in self._waiting()}
        without = runner.run.hosts.without_batch_api(p for ps in waiting.values() for p in ps)
        if not without:
            return
        error = ConfigurationError(
            f"{without[0]} has no batch API: call the chain in real time, as with "
            "HybridBatchProcessor(chain).batch(inputs). Nothing was sent there"
        )
        if not self.record.provider_jobs:
            raise error
        for index, missing_calls in waiting.items():
            if any(p.target.base_url in without for p in missing_calls):
                self.outcomes[index] = Outcome(error=error)

    def _run(self, runner: Runner, indices: Sequence[int], *, check: bool = False) -> None:
        options = AttemptOptions.of(
            priority=self.record.priority, max_retries=self.record.max_retries
        )
        with runner.catching():
            for index in indices:
                value, config = self.inputs[index], self._configs[index]
                outcome = self.outcomes[index] = runner.attempt(index, value, config, options)
                if check and outcome.parked:
                    runner.check(index, value, config, outcome)
                    check = False

    def _pass_in_real_time(self, indices: Sequence[int]) -> None:
        if indices:
            runner = self._open()
            self.outcomes |= aside(lambda: runner.now(indices, self.inputs, self._configs))

    def _open(self) -> Runner:
        if not self._is_open:
            self._runner.open(self.record)
            self._is_open = True
        return self._runner

    def _finish_if_done(self) -> None:
        if self.completed:
            ended = self.record.ended if self.record.completed else self._ended()
            self._close()
            self._note(completed=True, ended=ended)

    def _ended(self) -> str:
        outcomes = self.outcomes.values()
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        if failed and self.record.cancelled_at is not None:
            return "cancelled"
        if len(failed) < len(outcomes):
            return "completed"
        known = map(self._runner.run.store.job, self.record.provider_jobs)
        words = {job.word for job in known if job is not None}
        return "expired" if words == {"expired"} else "failed"

    def _close(self) -> None:
        self._runner.close()
        self._is_open = False

    def _note(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)
        self.record.save(self._runner.run.store)

    def retry(self) -> None:
        """Send the inputs that failed once more."""
        failed = [index for index, outcome in self.outcomes.items() if outcome.error is not None]
        self._close()
        now, renewed = CLOCK.now(), dict(self.record.renewed)
        # Where every answer was good, the chain made nothing of one: only another can help.
        renewed |= {index: now for index in failed if not self.outcomes[index].refused}
        self._checked = True
        self._note(
            retried_at=now,
            completed=False,
            cancelled_at=None,
            renewed=tuple(sorted(renewed.items())),
        )
        for index in failed:
            del self.outcomes[index]
        self.start()

    def cancel(self) -> None:
        """Ask the providers to cancel what still runs, also what another process has sent."""
        if self.completed:
            return
        self._note(cancelled_at=CLOCK.now())
        if not self.outcomes:
            self.start()
        elif self._is_open:
            self._runner.run.batcher.cancel_all()

    def counts(self) -> JobCounts:
        """Return how far it is known to be."""
        requests = answered = 0
        if self._is_open:
            batcher = self._runner.run.batcher
            for job in batcher.running:
                status = batcher.status(job.id)
                requests += job.requests
                answered += status.completed + status.failed if status else 0
        errors = sum(outcome.error is not None for outcome in list(self.outcomes.values()))
        return JobCounts(len(self.inputs), self.done, errors, requests, answered)

    def _event(self, event: Event) -> None:
        known = self.record.provider_jobs
        if event.job is not None and event.job.id not in known:
            self._note(provider_jobs=(*known, event.job.id))
        self._notify(event)

"""The batch job of a chain: one logical job over as many waves and provider jobs as it takes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

from pytest_langasync.config import MarkerOptions, Settings
from pytest_langasync.exceptions import ConfigurationError, JobPendingError, ProviderError
from pytest_langasync.ledger import Ledger, Summary
from pytest_langasync.models import Event
from pytest_langasync.monitor import active_monitors
from pytest_langasync.pricing import PriceBook
from pytest_langasync.records import JobRecord
from pytest_langasync.runner import Outcome, Runner, aside, input_names

__all__ = ["BatchJob", "Status"]

Status = Literal["pending", "in_progress", "completed"]
FIRST_LOOK = 1.0
"""Seconds after which ``get_status`` asks the provider for the first time."""
EMPTY_WAITS = 3
"""How often a finished wait may bring nothing before what is missing counts as lost."""


class BatchJob:
    """Made by ``submit_batch`` and ``get_job``. Safe to use from several threads.

    Work is done in the thread that calls ``wait``, ``get_status`` or ``get_results``: they collect
    answers, run the chain again on them, and send the next wave where one is due. The job outlives
    the process; ``wrap_chain(chain).get_job(job.id)`` goes on with it.
    """

    def __init__(
        self,
        target: Any,
        inputs: Sequence[Any],
        record: JobRecord,
        settings: Settings,
        *,
        config: Any = None,
        return_exceptions: bool = False,
        asynchronous: bool = False,
        sandbox_reply: Callable[[Any], Any] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.record = record
        self._target = target
        self._inputs = list(inputs)
        self._configs = config if isinstance(config, list) else [config] * len(self._inputs)
        if len(self._configs) != len(self._inputs):
            raise ConfigurationError(
                f"{len(self._configs)} configs were given for {len(self._inputs)} inputs"
            )
        self._settings = settings
        self._return_exceptions = return_exceptions
        self._asynchronous = asynchronous
        self._sandbox_reply = sandbox_reply
        self._listeners = [on_event] if on_event else []
        self._outcomes: dict[int, Outcome] = {}
        self._ledger = Ledger(record.created_at, PriceBook())
        self._runner: Runner | None = None
        self._tick: Callable[[], None] = lambda: None
        self._look_at = 0.0
        self._empty = 0
        self._lock = threading.RLock()
        for monitor in active_monitors():
            monitor.record(self)

    # ---- what it is

    @property
    def id(self) -> str:
        """The job's ID, for ``get_job``."""
        return self.record.id

    @property
    def provider_jobs(self) -> tuple[str, ...]:
        """IDs of the provider's batches, in the order in which they were submitted."""
        return self.record.provider_jobs

    @property
    def status(self) -> Status:
        """How far it is known to be: ``pending``, ``in_progress`` (some inputs have a result) or
        ``completed`` (each has a result or a final error). Costs nothing; ``get_status`` asks."""
        done = sum(not outcome.parked for outcome in list(self._outcomes.values()))
        if done == len(self._inputs):
            return "completed"
        return "in_progress" if done else "pending"

    @property
    def errors(self) -> list[Exception | None]:
        """Aligned with the inputs: None, or the exception with which the input finally failed."""
        found = (self._outcomes.get(index) for index in range(len(self._inputs)))
        return [outcome.error if outcome else None for outcome in found]

    @property
    def summary(self) -> Summary:
        """Requests, tokens, list price and price paid (USD) of what was answered so far."""
        with self._lock:
            total = Ledger(self.record.created_at, PriceBook())
            total.merge(self._ledger.as_dict())
            if self._runner is not None:
                total.merge(self._runner.engine.ledger.as_dict())
            return total.summary()

    def __repr__(self) -> str:
        done = sum(not outcome.parked for outcome in list(self._outcomes.values()))
        failed = sum(error is not None for error in self.errors)
        parts = [f"{done:,} of {len(self._inputs):,} inputs done"]
        parts += [f"{failed:,} failed"] if failed else []
        if self.provider_jobs:
            parts.append(f"provider jobs: {', '.join(self.provider_jobs)}")
        elif self.status == "completed":
            total = self.summary.total
            cached = f"{total.cached:,} answers from the cache" if total.cached else ""
            now = f"{total.realtime:,} in real time" if total.realtime else ""
            parts.append(cached or now or "no model was called, so no batch was needed")
        return f"<BatchJob {self.id} {self.status}: {'; '.join(parts)}>"

    # ---- results

    def get_status(self) -> Status:
        """Go on where answers have come, and return ``status``.

        Asks the provider at most as often as the poll interval allows, so a tight loop is no harm.

        Raises:
            ConfigurationError: a key was refused, or a later wave goes to a host that has no batch
                API. What was bought is kept.
            ProviderError: the provider cannot be reached. The job goes on there.
        """
        with self._lock:
            if self.status != "completed" and time.monotonic() >= self._look_at:
                self._advance(0.0)
                age = max(FIRST_LOOK, 0.1 * (time.time() - self.record.created_at))
                pause = 0.02 if self._settings.sandbox else age
                self._look_at = time.monotonic() + min(pause, self._settings.poll_interval)
            return self.status

    def get_results(self, *, return_exceptions: bool | None = None) -> list[Any]:
        """Return the outputs, aligned with the inputs.

        An input that finally failed gives None, or its exception where ``return_exceptions`` is
        true here or in ``submit_batch``.

        Raises:
            JobPendingError: not every input has a result or an error yet.
            ConfigurationError, ProviderError: as ``get_status``.
        """
        with self._lock:
            if self.get_status() != "completed":
                left = sum(outcome.parked for outcome in self._outcomes.values())
                raise JobPendingError(
                    f"{left or len(self._inputs)} of {len(self._inputs)} inputs still wait for "
                    f"their answers: use job.wait(), or ask again later ({self.id})"
                )
            given = self._return_exceptions if return_exceptions is None else return_exceptions
            outcomes = [self._outcomes[index] for index in range(len(self._inputs))]
            return [o.error if given and o.error is not None else o.value for o in outcomes]

    def wait(
        self,
        timeout: float | None = None,
        *,
        progress: bool = False,
        on_event: Callable[[Event], None] | None = None,
        return_exceptions: bool | None = None,
    ) -> list[Any]:
        """Wait until every input has a result or a final error, and return ``get_results()``.

        Args:
            timeout: seconds; None waits for as long as it takes.
            progress: show the jobs on standard error while waiting.
            on_event: called in this thread with each ``pytest_langasync.models.Event``.
            return_exceptions: as in ``get_results``.

        Raises:
            TimeoutError: the time is over. The job goes on at the provider.
            ConfigurationError, ProviderError: as ``get_status``.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock, self._watched(on_event, progress):
            while self.status != "completed":
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self._advance(left)
                if deadline is not None and time.monotonic() >= deadline:
                    break
            if self.status != "completed":
                raise TimeoutError(
                    f"{self.id} is not complete after {timeout:g} s: it goes on at the provider "
                    f"({', '.join(self.provider_jobs)})"
                )
            return self.get_results(return_exceptions=return_exceptions)

    def retry_failed(self, indices: Sequence[int] | None = None) -> BatchJob:
        """Send the inputs that failed once more (or those of them at these places).

        Returns:
            This job, pending again; its other results stay.

        Raises:
            JobPendingError: the job is not completed.
            ConfigurationError, ProviderError: as ``get_status``.
        """
        with self._lock:
            if self.get_status() != "completed":
                raise JobPendingError(f"{self.id} is not completed: wait for it first")
            failed = [i for i, o in sorted(self._outcomes.items()) if o.error is not None]
            chosen = failed if indices is None else [i for i in failed if i in indices]
            self._close()
            self._note(retried_at=time.time(), completed=False)
            for index in chosen:
                del self._outcomes[index]
            self.start()
            return self

    def cancel(self) -> None:
        """Ask the providers to cancel what still runs. What was done by then is kept, and paid."""
        with self._lock:
            if self._runner is not None:
                self._runner.engine.batcher.cancel_all()

    # ---- asynchronous twins

    async def aget_status(self) -> Status:
        """``get_status`` without blocking the event loop."""
        return await asyncio.to_thread(self.get_status)

    async def aget_results(self, *, return_exceptions: bool | None = None) -> list[Any]:
        """``get_results`` without blocking the event loop."""
        return await asyncio.to_thread(self.get_results, return_exceptions=return_exceptions)

    async def aretry_failed(self) -> BatchJob:
        """``retry_failed`` without blocking the event loop."""
        return await asyncio.to_thread(self.retry_failed)

    async def await_results(self, *, return_exceptions: bool | None = None) -> list[Any]:
        """``wait`` without blocking the event loop; ``await job`` does the same."""
        while await self.aget_status() != "completed":
            await asyncio.sleep(max(0.01, self._look_at - time.monotonic()))
        return await self.aget_results(return_exceptions=return_exceptions)

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.await_results().__await__()

    # ---- the work

    def start(self) -> None:
        """Run every input for the first time, and send what is missing. ``submit_batch`` calls it.

        Raises:
            ConfigurationError, ProviderError: as ``get_status``; nothing was bought then.
        """
        with self._lock:
            urgent = set(self.record.urgent)
            todo = [i for i in range(len(self._inputs)) if i not in self._outcomes]
            self._outcomes |= {i: Outcome(parked=True) for i in todo}
            self._pass([i for i in todo if i not in urgent])
            self._pass_in_real_time([i for i in todo if i in urgent])
            self._finish_if_done()

    def attach(self, provider_job: str) -> None:
        """Collect a provider's job that this cache has never heard of, and go on from there.

        Raises:
            ConfigurationError, ProviderError: it is unknown there, or not this chain's.
        """
        with self._lock:
            runner = self._open()
            self._outcomes = {i: Outcome(parked=True) for i in range(len(self._inputs))}
            aside(lambda: self._run(runner, list(self._outcomes)))
            missing = [p for o in self._outcomes.values() for p in o.missing]
            runner.engine.attach(provider_job, missing)
            runner.engine.batcher.wait(None)
            self._pass(self._ready())
            self._finish_if_done()

    def _advance(self, timeout: float | None) -> None:
        if not self._outcomes:
            self.start()
        if self.status == "completed":
            return
        batcher = self._open().engine.batcher
        over = batcher.wait(timeout)
        ready = self._ready()
        self._empty = self._empty + 1 if over and not ready else 0
        if self._empty >= EMPTY_WAITS:
            lost = ProviderError("the provider returned no answer for this input")
            for index in self._waiting():
                self._outcomes[index] = Outcome(error=lost)
        elif over or ready:
            self._pass(ready)
        self._finish_if_done()

    def _waiting(self) -> list[int]:
        return [index for index, outcome in sorted(self._outcomes.items()) if outcome.parked]

    def _ready(self) -> list[int]:
        answered = self._open().engine.answered
        return [index for index in self._waiting() if answered(self._outcomes[index].missing)]

    def _pass(self, indices: Sequence[int]) -> None:
        """Run these inputs on the answers that are there, and send all that is missing then."""
        runner = self._open()
        aside(lambda: self._run(runner, indices))
        missing = {p.key: p for index in self._waiting() for p in self._outcomes[index].missing}
        if not missing:
            return
        without = runner.engine.without_batch_api(missing.values())
        if without:
            raise ConfigurationError(
                f"{without[0]} has no batch API: call the chain in real time, as with "
                "HybridBatchProcessor(chain).batch(inputs). Nothing was sent there"
            )
        self.record.save(runner.engine.store)  # before the purchase, so that it can be found again
        runner.engine.wave(missing.values())
        self._look_at = 0.0

    def _run(self, runner: Runner, indices: Sequence[int]) -> None:
        options = MarkerOptions.parse(
            (), {"priority": self.record.priority, "max_retries": self.record.max_retries}
        )
        with runner.catching():
            for index in indices:
                value, config = self._inputs[index], self._configs[index]
                self._outcomes[index] = runner.attempt(index, value, config, options)

    def _pass_in_real_time(self, indices: Sequence[int]) -> None:
        if indices:
            runner = self._open()
            self._outcomes |= aside(lambda: runner.now(indices, self._inputs, self._configs))

    def _open(self) -> Runner:
        if self._runner is None:
            record = self.record
            self._runner = Runner(
                self._target,
                self._settings,
                since=record.created_at,
                refresh=record.refresh,
                retried_at=record.retried_at,
                names=input_names(self._inputs, record.id),
                owner=record.id,
                notify=self._event,
                tick=lambda: self._tick(),
                sandbox_reply=self._sandbox_reply,
                asynchronous=self._asynchronous,
            )
        return self._runner

    def _finish_if_done(self) -> None:
        if self.status == "completed":
            self._close()
            self._note(completed=True)

    def _close(self) -> None:
        if self._runner is not None:
            self._ledger.merge(self._runner.engine.ledger.as_dict())
            self._runner.close()
            self._runner = None

    def _note(self, **changes: Any) -> None:
        from pytest_langasync.store import Store

        self.record = replace(self.record, **changes)
        self.record.save(Store(self._settings.cache))

    # ---- events

    def _event(self, event: Event) -> None:
        known = self.record.provider_jobs
        if event.job is not None and event.job.id not in known:
            self._note(provider_jobs=(*known, event.job.id))
        for listener in list(self._listeners):
            listener(event)

    @contextmanager
    def _watched(self, on_event: Callable[[Event], None] | None, progress: bool) -> Iterator[None]:
        from pytest_langasync.report.progress import progress_on_stderr

        shown = progress_on_stderr() if progress else None
        before, self._listeners = self._listeners, [*self._listeners]
        self._listeners += [listener for listener in (on_event, shown) if listener is not None]
        self._tick = shown.tick if shown else lambda: None
        try:
            with shown or nullcontext():
                yield
        finally:
            self._listeners, self._tick = before, lambda: None

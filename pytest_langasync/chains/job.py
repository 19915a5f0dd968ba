"""The batch job of a chain: one logical job over as many waves and provider jobs as it takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from pytest_langasync.cache.chain_jobs import JobRecord
from pytest_langasync.chains.finished import FinishedWork
from pytest_langasync.chains.invoke import Invoker
from pytest_langasync.chains.monitor import active_monitors
from pytest_langasync.chains.passes import Work
from pytest_langasync.chains.runner import JobCounts, Listener
from pytest_langasync.config import CLOCK, Settings
from pytest_langasync.costs.ledger import Summary
from pytest_langasync.exceptions import JobPendingError, ProviderError
from pytest_langasync.models import Event

__all__ = ["BatchJob", "Status"]

Status = Literal["pending", "in_progress", "completed", "failed", "cancelled", "expired"]
_ENDS: Mapping[str, Status] = {
    "completed": "completed", "failed": "failed", "cancelled": "cancelled", "expired": "expired",
}  # fmt: skip
FIRST_LOOK = 1.0
"""Seconds after which ``get_status`` asks the provider for the first time."""


class BatchJob:
    """Made by ``submit_batch`` and ``get_job``. Safe to use from several threads.

    Work is done in the thread that calls ``wait``, ``status``, ``get_status`` or ``get_results``:
    they collect answers, run the chain again on them, and send the next wave where one is due. The
    job outlives the process; ``wrap_chain(chain).get_job(job.id)`` goes on with it. A copy is the
    same job; a job that has ended can be pickled.
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
        self._listeners = [on_event] if on_event else []
        self._tick: Callable[[], None] = lambda: None
        listener = Listener(self._event, lambda: self._tick(), sandbox_reply)
        chain = Invoker(target, asynchronous=asynchronous)
        self._work: Work | FinishedWork = Work(chain, inputs, record, settings, listener, config)
        self._return_exceptions = return_exceptions
        self._poll_interval = settings.poll_interval
        self._first_look = 0.02 if settings.sandbox else FIRST_LOOK
        self._look_at = 0.0
        self._status_looks_at = CLOCK.timer() + self._first_look
        self._lock = threading.RLock()
        for monitor in active_monitors():
            monitor.record(self)

    # ---- what it is

    @property
    def id(self) -> str:
        """The job's ID, for ``get_job``."""
        return self._work.record.id

    @property
    def provider_jobs(self) -> tuple[str, ...]:
        """IDs of the provider's batches, in the order in which they were submitted."""
        return self._work.record.provider_jobs

    @property
    def status(self) -> Status:
        """How far it is: ``pending``, ``in_progress`` (something is answered) or ``completed``.

        ``completed`` says that each input has a result or a final error, and one at least a
        result. Where none has: ``failed``, ``expired`` (at the provider), ``cancelled``; the last
        one also where some were done before. ``counts`` tells how many.

        It looks as ``get_status`` does, at most as often as the poll interval allows, so that
        ``while job.status in ("pending", "in_progress"): time.sleep(5)`` ends. While another thread
        looks, and while the provider cannot be reached, it is what is known.

        Raises:
            ConfigurationError: as ``get_status``.
        """
        due = not self._work.completed and CLOCK.timer() >= self._status_looks_at
        if due and self._lock.acquire(blocking=False):
            try:
                self.get_status()
            except ProviderError as error:
                self._event(Event("trouble", message=str(error)))
            finally:
                self._lock.release()
        return self._known()

    def _known(self) -> Status:
        if self._work.completed:
            return _ENDS.get(self._work.record.ended, "completed")
        counts = self._work.counts()
        return "in_progress" if counts.done or counts.answered else "pending"

    @property
    def counts(self) -> JobCounts:
        """How many inputs are done or failed, and how many requests of the provider's running jobs
        are answered, as far as is known."""
        return self._work.counts()

    @property
    def errors(self) -> list[Exception | None]:
        """Aligned with the inputs: None, or the exception with which the input finally failed."""
        with self._lock:
            self._work.recall()
            found = (self._work.outcomes.get(n) for n in range(len(self._work.inputs)))
            return [outcome.error if outcome else None for outcome in found]

    @property
    def summary(self) -> Summary:
        """Requests, tokens, list price and price paid (USD) of what was answered so far."""
        with self._lock:
            self._work.recall()
            return self._work.summary()

    def __repr__(self) -> str:
        work, count = self._work, len(self._work.inputs)
        done = count if work.completed else work.done
        failed = sum(outcome.error is not None for outcome in list(work.outcomes.values()))
        parts = [f"{done:,} of {count:,} inputs done"]
        parts += [f"{failed:,} failed"] if failed else []
        if self.provider_jobs:
            parts.append(f"provider jobs: {', '.join(self.provider_jobs)}")
        elif work.completed and work.outcomes:
            total = work.summary().total
            cached = f"{total.cached:,} answers from the cache" if total.cached else ""
            now = f"{total.realtime:,} in real time" if total.realtime else ""
            parts.append(cached or now or "no model was called, so no batch was needed")
        return f"<BatchJob {self.id} {self._known()}: {'; '.join(parts)}>"

    def __copy__(self) -> BatchJob:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchJob:
        return self

    def __getstate__(self) -> dict[str, Any]:
        if not self._work.completed:
            raise TypeError(
                f"{self.id} has not ended: keep its ID, and get_job(job.id) goes on with it"
            )
        with self._lock:
            self._work.recall()
            work = self._work
            if isinstance(work, Work):
                work = FinishedWork.of(work.record, work.inputs, work.outcomes, work.summary())
        return {"work": work, "return_exceptions": self._return_exceptions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._listeners, self._tick = [], lambda: None
        self._work = state["work"]
        self._return_exceptions = state["return_exceptions"]
        self._poll_interval = self._first_look = self._look_at = self._status_looks_at = 0.0
        self._lock = threading.RLock()

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
            if not self._work.completed and CLOCK.timer() >= self._look_at:
                self._work.advance(0.0)
                pause = max(self._first_look, 0.1 * (CLOCK.now() - self._work.record.created_at))
                self._look_at = CLOCK.timer() + min(pause, self._poll_interval)
            return self._known()

    def get_results(self, *, return_exceptions: bool | None = None) -> list[Any]:
        """Return the outputs, aligned with the inputs.

        An input that finally failed gives None, or its exception where ``return_exceptions`` is
        true here or in ``submit_batch``.

        Raises:
            JobPendingError: not every input has a result or an error yet.
            ConfigurationError, ProviderError: as ``get_status``.
        """
        with self._lock:
            self.get_status()
            if not self._work.completed:
                count = len(self._work.inputs)
                raise JobPendingError(
                    f"{count - self._work.done} of {count} inputs still wait for their answers: "
                    f"use job.wait(), or ask again later ({self.id})"
                )
            self._work.recall()
            given = self._return_exceptions if return_exceptions is None else return_exceptions
            outcomes = [self._work.outcomes[n] for n in range(len(self._work.inputs))]
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
        deadline = None if timeout is None else CLOCK.timer() + timeout
        with self._lock, self._watched(on_event, progress):
            while not self._work.completed:
                left = None if deadline is None else max(0.0, deadline - CLOCK.timer())
                self._work.advance(left)
                if deadline is not None and CLOCK.timer() >= deadline:
                    break
            if not self._work.completed:
                raise TimeoutError(
                    f"{self.id} is not complete after {timeout:g} s: it goes on at the provider "
                    f"({', '.join(self.provider_jobs)})"
                )
            return self.get_results(return_exceptions=return_exceptions)

    def retry_failed(self) -> BatchJob:
        """Send the inputs that failed once more.

        An input whose answers were good and that failed all the same (a parser, a check of the
        chain's own) gets new answers.

        Returns:
            This job, pending again; its other results stay.

        Raises:
            JobPendingError: the job is not completed.
            ConfigurationError, ProviderError: as ``get_status``.
        """
        with self._lock:
            self.get_status()
            if not self._work.completed:
                raise JobPendingError(f"{self.id} is not completed: wait for it first")
            self._work.recall()
            self._work.retry()
            self._look_at = 0.0
            return self

    def cancel(self) -> None:
        """Ask the providers to cancel what still runs, also what another process has sent.

        What was done by then is kept, and paid; nothing more is bought. Goes on with ``wait``:
        inputs without an answer then end with ``JobCancelledError``.

        Raises:
            ConfigurationError, ProviderError: as ``get_status``.
        """
        with self._lock:
            self._work.cancel()

    # ---- asynchronous twins

    async def aget_status(self) -> Status:
        """``get_status`` without blocking the event loop."""
        return await asyncio.to_thread(self.get_status)

    async def aget_results(self, *, return_exceptions: bool | None = None) -> list[Any]:
        """``get_results`` without blocking the event loop."""
        return await asyncio.to_thread(self.get_results, return_exceptions=return_exceptions)

    async def acancel(self) -> None:
        """``cancel`` without blocking the event loop."""
        await asyncio.to_thread(self.cancel)

    async def aretry_failed(self) -> BatchJob:
        """``retry_failed`` without blocking the event loop."""
        return await asyncio.to_thread(self.retry_failed)

    async def await_results(self, *, return_exceptions: bool | None = None) -> list[Any]:
        """``wait`` without blocking the event loop; ``await job`` does the same."""
        await self.aget_status()
        while not self._work.completed:
            await asyncio.sleep(max(0.01, self._look_at - CLOCK.timer()))
            await self.aget_status()
        return await self.aget_results(return_exceptions=return_exceptions)

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.await_results().__await__()

    # ---- how it begins, and what is told

    def start(self) -> None:
        """Run every input up to its first calls, and send these; ``submit_batch`` calls it.

        Raises: what ``submit_batch`` does.
        """
        with self._lock:
            self._work.start()

    def attach(self, provider_job: str) -> None:
        """Wait for a provider's job that the cache does not know; ``get_job`` calls it.

        Raises:
            ConfigurationError, ProviderError: it is unknown there, or not this chain's.
        """
        with self._lock:
            self._work.attach(provider_job)

    def _event(self, event: Event) -> None:
        for listener in list(self._listeners):
            listener(event)

    @contextmanager
    def _watched(self, on_event: Callable[[Event], None] | None, progress: bool) -> Iterator[None]:
        from pytest_langasync.reporting.progress import progress_on_stderr

        shown = progress_on_stderr() if progress else None
        before, self._listeners = self._listeners, [*self._listeners]
        self._listeners += [listener for listener in (on_event, shown) if listener is not None]
        self._tick = shown.tick if shown else lambda: None
        try:
            with shown or nullcontext():
                yield
        finally:
            self._listeners, self._tick = before, lambda: None

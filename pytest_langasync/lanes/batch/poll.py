"""Watching jobs: who is asked when, each in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_langasync.exceptions import JobNotFoundError, ResultsNotReadyError
from pytest_langasync.lanes.batch import Policy, QueuedRequest
from pytest_langasync.models import Job, JobState, JobStatus, ResultRow
from pytest_langasync.providers import Client

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Finished
    from pytest_langasync.lanes import RunContext

POLLS_AT_ONCE = 8
NEWBORN = 120.0
"""Seconds in which a provider may not know a job that it has just created."""
GONE_AFTER = 3
"""How many polls in a row, newborn jobs aside, must find a job or its results gone before that is
believed."""
LAST_ROUND = 600.0
"""Seconds for which the last polls of a run, and the downloads in them, may go on."""


UNREADY_POLLS = 20
"""How many polls of a run may find an ended job whose results cannot be read yet."""
NEVER_READY = 3 * 86400.0
"""Seconds after which such results are believed never to come."""


@dataclass
class Watch:
    """A job that is being waited for, and who waits. Times are those of the run's timer."""

    job: Job
    client: Client
    due: float
    pause: float
    asks: dict[str, QueuedRequest] = field(default_factory=dict)
    status: JobStatus | None = None
    not_before: float = 0.0
    polling: bool = False
    unready: int = 0
    """How many polls found that it has ended, and that its results cannot be read yet."""
    trouble: str = ""
    """What the last polls failed with, as it was told."""


@dataclass(frozen=True)
class Polled:
    """What one poll brought: a status, the account of an ended job, or an error."""

    watch: Watch
    status: JobStatus | None = None
    finished: Finished | None = None
    error: BaseException | None = None


class Poller:
    """Polls the watched jobs concurrently and hands the results to the thread that waits."""

    def __init__(self, context: RunContext, policy: Policy) -> None:
        self.watches: dict[str, Watch] = {}
        self._store = context.store
        self._policy = policy
        self._clock = context.clock
        self._timer = context.timer
        self._sleep = context.sleep
        self._results: queue.SimpleQueue[Polled] = queue.SimpleQueue()

    def reschedule(self, watch: Watch, retry_after: float = 0.0) -> None:
        """Set the next poll: twice as late as the last, not sooner than the provider asks."""
        now = self._timer()
        watch.pause = min(watch.pause * 2, self._policy.poll_interval)
        jitter = 1.0 - 0.1 * random.random()  # so that many runs do not ask in step
        watch.not_before = now + retry_after
        watch.due = now + max(watch.pause * jitter, retry_after)

    def step(self, until: float | None) -> Polled | None:
        """Start the polls that are due; wait for a result, the next poll or ``until``."""
        now = self._timer()
        idle = sorted((w for w in self.watches.values() if not w.polling), key=lambda w: w.due)
        room = POLLS_AT_ONCE - self._polling()
        for watch in [w for w in idle if w.due <= now][:room]:
            self._start(watch)
        times = [watch.due for watch in self.watches.values() if not watch.polling]
        times += [until] if until is not None else []
        delay = max(min(times) - now, 0.001) if times else None
        polling = self._polling()
        if not polling:
            self._sleep(delay or 0.0)
            return None
        try:
            return self._take(None if polling >= POLLS_AT_ONCE else delay)
        except queue.Empty:
            return None

    def last_round(self) -> Iterator[Polled]:
        """Poll each job once more, those excepted whose provider asked for a longer pause."""
        now = self._timer()
        left = [w for w in self.watches.values() if not w.polling and w.not_before <= now]
        end = now + LAST_ROUND
        while left or self._polling():
            while left and self._polling() < POLLS_AT_ONCE:
                self._start(left.pop(0))
            try:
                yield self._take(max(0.0, end - self._timer()))
            except queue.Empty:
                return

    def _polling(self) -> int:
        return sum(watch.polling for watch in self.watches.values())

    def _take(self, timeout: float | None) -> Polled:
        polled = self._results.get(timeout=timeout)
        polled.watch.polling = False
        return polled

    def _start(self, watch: Watch) -> None:
        # A daemon thread: Ctrl-C must not wait for a provider that does not answer.
        watch.polling = True
        threading.Thread(target=self._poll, args=(watch,), daemon=True).start()

    def _poll(self, watch: Watch) -> None:
        try:
            self._results.put(self._ask(watch))
        except BaseException as error:  # raised again in the thread that waits
            self._results.put(Polled(watch, error=error))

    def _ask(self, watch: Watch) -> Polled:
        """Poll once, and download the rows of an ended job, unless another process has."""
        self._store.refresh()
        job = self._store.job(watch.job.id) or watch.job
        if job.state is not JobState.RUNNING:
            return Polled(watch, finished=self._store.outcome(job.id))
        status = watch.client.status(job.id)
        if status.unready and self._clock() - job.created_at < NEVER_READY:
            raise ResultsNotReadyError(
                f"{job.id} has ended ({status.word}, {status.completed} answered), and where its "
                "results are is still to be told"
            )
        if status.state is not JobState.ENDED:
            return Polled(watch, status)
        rows = watch.client.rows(job.id, status)
        if watch.job.not_found + 1 >= GONE_AFTER:
            rows = _those_left(rows)
        finished = self._store.finish(job, rows, word=status.word, reason=status.reason)
        return Polled(watch, status, finished)


def _those_left(rows: Iterator[ResultRow]) -> Iterator[ResultRow]:
    """Yield the rows that can be read, although others are gone."""
    with contextlib.suppress(JobNotFoundError):
        yield from rows

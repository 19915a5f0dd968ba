"""Rounds of buying: what parked tests miss goes out, and the wait for it, within the run's time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_langasync.config import CLOCK, Settings
from pytest_langasync.costs.prices import Estimate
from pytest_langasync.engine.run import Run
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import JobState, MissingCall

__all__ = ["Buyer", "LaneBuyer", "WaveResult"]

CANCELLING = 900.0
"""Seconds to wait for cancelled jobs to end; OpenAI's guide speaks of up to ten minutes."""
CANCELLED = "cancelled when the time was up; the next run buys it again"


@dataclass(frozen=True)
class WaveResult:
    """What a round brought, beside the answers in the store."""

    everybody: bool = False
    """Whether all parked tests may run again, not only those whose calls are answered."""
    over: bool = False
    """Whether this was the last round."""
    why: str = ""
    """What stands in the way, where something does."""
    stopped: bool = False
    """Whether the run was told to stop: what is parked is left alone."""
    urgent: Sequence[str] = ()
    """Owners whose missing calls are to be sent in real time now."""
    cancelled_at: float = 0.0
    """When jobs were cancelled, in seconds since the epoch; 0 where none was."""


class Buyer(Protocol):
    """Where parked tests get their answers: from this process, or through the one that leads."""

    def buy(self, missing: Sequence[MissingCall]) -> WaveResult:
        """Send what is missing and wait for it. Raises what ``Run.wave`` does."""
        ...


class LaneBuyer:
    """Buys for this process; the time to wait begins with the first round.

    ``estimated`` gets what each missing call would cost, where only that was asked for.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        estimated: Callable[[list[tuple[MissingCall, Estimate]]], None],
    ) -> None:
        self._run = run
        self._settings = settings
        self._estimated = estimated
        self._deadline: float | None = None
        self._late = False
        """Whether what ran was cancelled because the time was up."""

    def buy(self, missing: Sequence[MissingCall]) -> WaveResult:
        """Send what is missing, or attach to where it is under way, and wait until the deadline.

        Raises:
            ConfigurationError, ProviderError, CacheError: as ``Run.wave`` does.
        """
        if self._settings.estimate:
            self._run.tell_request_changes(missing)
            self._estimated(list(self._run.budget.estimates(missing)))
            return WaveResult(over=True)
        first = self._deadline is None
        if self._deadline is None:
            self._deadline = CLOCK.timer() + self._settings.timeout
        batcher = self._run.batcher
        if first and self._settings.resume and self._resume(missing):
            done = batcher.wait(self._settings.timeout)
            return WaveResult(everybody=done, over=not done)
        urgent = self._urgent(missing)
        if urgent:
            return WaveResult(urgent=urgent)
        if self._late and self._settings.on_timeout == "cancel":
            return WaveResult(over=True, why=CANCELLED)
        self._run.wave(missing)
        done = batcher.wait(max(0.0, self._deadline - CLOCK.timer()))
        settings = self._settings
        if done or self._late or settings.on_timeout == "defer" or not settings.timeout:
            return WaveResult()
        return self._time_is_up(missing)

    def _urgent(self, missing: Sequence[MissingCall]) -> list[str]:
        """Return who sends in real time: everybody once it is late, and waves of few calls."""
        run, settings = self._run, self._settings
        unpaid = [pending for pending in missing if not run.paid_for(pending)]
        late = self._late and settings.on_timeout == "realtime"
        if not (late or len(unpaid) < settings.realtime_under):
            return []
        if run.refused:
            raise ConfigurationError(run.refused)
        doubtful = run.look_up(unpaid)
        # Whoever has a call that may have been bought waits for it, with all its calls.
        waiting = {p.owner for p in missing if p.key in doubtful or run.store.in_flight(p.key)}
        return sorted({p.owner for p in unpaid if not run.paid_for(p)} - waiting)

    def _time_is_up(self, missing: Sequence[MissingCall]) -> WaveResult:
        """Cancel what runs and read what had come; what is still to come then is not bought."""
        self._late = True
        batcher = self._run.batcher
        batcher.cancel_all()
        batcher.wait(CANCELLING)
        now = CLOCK.now()
        self._run.replay.send_now((), now)
        why = CANCELLED if self._settings.on_timeout == "cancel" else ""
        return WaveResult(urgent=self._urgent(missing), cancelled_at=now, why=why)

    def _resume(self, missing: Sequence[MissingCall]) -> bool:
        """Attach to the jobs that the person named; True when the cache did not know them all."""
        store, new = self._run.store, False
        for job_id in self._settings.resumed or self._last():
            known = store.job(job_id)
            new = new or known is None
            if known is None or known.state is JobState.RUNNING:
                try:
                    self._run.attach(job_id, missing)
                except ConfigurationError as error:
                    raise ConfigurationError(f"--langasync-resume: {error}") from None
        return new

    def _last(self) -> tuple[str]:
        jobs = self._run.store.jobs()
        if not jobs:
            raise ConfigurationError(
                f"--langasync-resume=last: there is no job in {self._settings.cache}; "
                "give the job's ID instead"
            )
        return (jobs[-1].id,)

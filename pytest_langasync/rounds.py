"""Rounds of buying: what parked tests miss goes out, and the wait for it, within the run's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_langasync.config import Settings
from pytest_langasync.engine import Engine
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import JobState, Pending
from pytest_langasync.pricing import Estimate

__all__ = ["Bought", "Market", "Rounds"]


@dataclass(frozen=True)
class Bought:
    """What a round brought, beside the answers in the store."""

    everybody: bool = False
    """Whether all parked tests may run again, not only those whose calls are answered."""
    over: bool = False
    """Whether this was the last round."""
    why: str = ""
    """What stands in the way, where something does."""
    stopped: bool = False
    """Whether the run was told to stop: what is parked is left alone."""


class Market(Protocol):
    """Where parked tests get their answers: from this process, or through the one that leads."""

    def buy(self, missing: Sequence[Pending]) -> Bought:
        """Send what is missing and wait for it. Raises what ``Engine.wave`` does."""
        ...


class Rounds:
    """Buys for this process; the time to wait begins with the first round.

    ``estimated`` gets what each missing call would cost, where only that was asked for.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        estimated: Callable[[list[tuple[Pending, Estimate]]], None],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._estimated = estimated
        self._deadline: float | None = None

    def buy(self, missing: Sequence[Pending]) -> Bought:
        """Send what is missing, or attach to where it is under way, and wait until the deadline.

        Raises:
            ConfigurationError, ProviderError, CacheError: as ``Engine.wave`` does.
        """
        if self._settings.estimate:
            self._estimated(list(self._engine.budget.estimates(missing)))
            return Bought(over=True)
        first = self._deadline is None
        if self._deadline is None:
            self._deadline = time.monotonic() + self._settings.timeout
        batcher = self._engine.batcher
        if first and self._settings.resume and self._resume(missing):
            done = batcher.wait(self._settings.timeout)
            return Bought(everybody=done, over=not done)
        self._engine.wave(missing)
        batcher.wait(max(0.0, self._deadline - time.monotonic()))
        return Bought()

    def _resume(self, missing: Sequence[Pending]) -> bool:
        """Attach to the job that the person named; True when the cache did not know it."""
        job_id, store = self._settings.resume, self._engine.store
        if job_id == "last":
            jobs = store.jobs()
            if not jobs:
                raise ConfigurationError(
                    f"--langasync-resume=last: there is no job in {self._settings.cache}; "
                    "give the job's ID instead"
                )
            job_id = jobs[-1].id
        known = store.job(job_id)
        if known is None or known.state is JobState.RUNNING:
            self._engine.attach(job_id, missing)
        return known is None

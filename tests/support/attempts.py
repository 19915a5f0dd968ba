"""Attempts without pytest, provider and HTTP: code that asks, and what of it was heard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pytest_langasync.interception.concurrency import ConcurrencyTracker


class Parked(BaseException):
    """What parks a caller."""


@dataclass(eq=False)
class Attempt:
    """One run of code in which no call has an answer."""

    tracker: ConcurrencyTracker
    asked: list[str] = field(default_factory=list)
    """The calls that would be bought: those that are not built on one that was parked."""
    parks: int = 0
    cut_short: bool = False
    seconds: float = 0.0

    @property
    def parked(self) -> bool:
        """Whether a call was made."""
        return self.parks > 0

    def _hear(self, text: str) -> None:
        context = self.tracker.current()
        assert context is not None
        self.parks += 1
        if not context.parked:
            self.asked.append(text)
        context.park()

    def ask(self, text: str) -> str:
        """Make a call."""
        self._hear(text)
        raise self.tracker.parked(text)

    async def aask(self, text: str) -> str:
        """Make a call without blocking."""
        self._hear(text)
        await self.tracker.hold()
        raise self.tracker.parked(text)


@contextlib.contextmanager
def tracking() -> Iterator[ConcurrencyTracker]:
    """Follow threads and tasks inside the block."""
    tracker = ConcurrencyTracker(Parked)
    tracker.install()
    try:
        yield tracker
    finally:
        tracker.uninstall()


def run(work: Callable[[Attempt], Any]) -> Attempt:
    """Run work as an attempt, which has to end parked."""
    with tracking() as tracker:
        attempt = Attempt(tracker)
        start = time.monotonic()
        # Frameworks wrap and rename the exception; what counts is what was heard.
        heard = contextlib.suppress(BaseException)
        with tracker.attempting(attempt), heard, tracker.interruptible(attempt):
            work(attempt)
        attempt.seconds = time.monotonic() - start
    assert attempt.parked
    return attempt

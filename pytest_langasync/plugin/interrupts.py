"""Ctrl-C while a run waits: the first ends it in order, and a second one right after it is let be.

Between the first and the end of the process the summary is written, the books are saved and the
jobs that go on are named. A second KeyboardInterrupt in there would show Python's internals and
lose all that.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from pytest_langasync.config import CLOCK

__all__ = ["PatientInterrupts"]

PATIENCE = 3.0
"""Seconds after a Ctrl-C in which another one is let be; one that comes later counts."""


class PatientInterrupts:
    """Takes SIGINT over where Python's own handler has it; any other handler stays."""

    def __init__(self) -> None:
        self._interrupted_at: float | None = None
        self._installed = False

    def install(self) -> None:
        """Begin. Only the main thread of a process can, and gets signals."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
            self._installed = True

    def uninstall(self) -> None:
        """Give the signal back, unless somebody else has taken it meanwhile."""
        if self._installed and signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._installed = False

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        now = CLOCK.timer()
        if self._interrupted_at is None or now - self._interrupted_at > PATIENCE:
            self._interrupted_at = now
            signal.default_int_handler(signum, frame)

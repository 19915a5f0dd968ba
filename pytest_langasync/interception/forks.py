"""Calls of processes that a test forked: no batch can bring their answers back to them.

They go out in real time. A child notes each in a file, for its parent to count and name.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.interception.wire import Decision, Park, Router, Wire

__all__ = ["ForkGuard"]

WHY = "made in a child process, where no batch can answer"


class ForkGuard:
    """Stands before the router where calls are decided; ``passed`` takes a host and a reason.

    Where the run is ``silent``, a child's call is parked: nothing may be sent.
    """

    def __init__(
        self,
        router: Router,
        concurrency: ConcurrencyTracker,
        passed: Callable[[str, str], None],
        silent: bool,
    ) -> None:
        self._router, self._concurrency, self._passed, self._silent = (
            router,
            concurrency,
            passed,
            silent,
        )
        name = f"langasync-{os.getpid()}-{secrets.token_hex(8)}"
        self._notes = Path(tempfile.gettempdir()) / name

    def concerns(self, method: str, url: str, path: str) -> bool:
        """Return whether a request may need a decision (see ``wire.Router``)."""
        return self._router.concerns(method, url, path)

    def decide(self, wire: Wire) -> Decision:
        """Decide what becomes of a call (see ``wire.Router``)."""
        if self._concurrency.forked():
            if self._silent:
                return Park("made in a child process; nothing may be sent")
            with self._notes.open("a", encoding="utf-8") as file:
                file.write(urlsplit(wire.url).netloc.rpartition("@")[2] + "\n")
        return self._router.decide(wire)

    def count(self) -> None:
        """Enter what children have noted by now. Theirs to append, the parent's to take away."""
        try:
            hosts = self._notes.read_text(encoding="utf-8").split()
            self._notes.unlink()
        except FileNotFoundError:
            return
        for host in hosts:
            self._passed(host, WHY)

"""One execution of a test, and what it turns out to be.

* *the real run*: its reports go out, its answers are entered in the books;
* *parked*: a call has no answer yet, and the test runs again;
* *set aside*: it ran to its end, but tests that it may look at had no verdict yet, or had left
  their part behind somewhere else (a module's fixture that was set up anew). It runs again after
  them, if need be with all of its module, in collection order;
* *a shadow*: it was judged before, and runs once more so that a test that was set aside finds what
  it finds in real time.

Only the real run is seen by other plugins. A parked attempt and one that was set aside leave no
trace in plain objects either (``shared_state``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pytest_langasync.engine.replay import Attempt
from pytest_langasync.models import MissingCall
from pytest_langasync.plugin.neighbours import Neighbours, module_of
from pytest_langasync.plugin.shared_state import ModuleState, Snapshot

__all__ = ["Entry", "Execution"]

CONFIRMATIONS = 3
"""How often a test runs with all of its module before its verdict counts in any case."""


@dataclass(eq=False)
class Entry:
    """A test that has no verdict yet, although its turn has come."""

    item: pytest.Item
    attempts: int = 0
    missing: tuple[MissingCall, ...] = ()
    """The calls that it waits for."""
    held: bool = False
    """Whether it waits for the verdicts of other tests, not for answers."""
    with_module: bool = False
    """Whether only a run of its whole module can judge it."""
    follows: bool = False
    """Whether what it asks depends on what other tests left behind."""
    confirmations: int = 0
    shadow: bool = False
    """Whether it was judged before."""


@dataclass
class Execution:
    """What is known so far of the execution of one test. ``attempt`` is None for unmarked ones."""

    entry: Entry
    neighbours: Neighbours
    state: ModuleState | None
    attempt: Attempt | None = None
    waits_for: list[MissingCall] | None = None
    """What an unmarked test has to wait for that shares a parked fixture; None if it does not."""
    set_aside: bool = False
    snapshot: Snapshot = field(default_factory=lambda: Snapshot({}))

    @property
    def item(self) -> pytest.Item:
        """The test."""
        return self.entry.item

    @property
    def parked(self) -> bool:
        """Whether a call of its own, or of a fixture that it uses, has no answer yet."""
        return self.waits_for is not None or (self.attempt is not None and self.attempt.parked)

    @property
    def void(self) -> bool:
        """Whether it cannot be the real run any more."""
        return self.entry.shadow or self.set_aside or self.parked

    def counts(self, report: Callable[[], pytest.TestReport]) -> bool:
        """Decide, once a phase has ended, whether this is the real run so far.

        ``report`` makes pytest's own report of the phase.
        """
        item, neighbours = self.item, self.neighbours
        asked = self.attempt is not None and bool(self.attempt.used)
        if not asked and neighbours.free(item):
            return True
        if neighbours.earlier_waiting(item) and (not asked or neighbours.in_order(item)):
            # What it saw of the others is not what they are, be it green: all([]) is true.
            self._put_aside()
        elif not asked and not neighbours.fixtures_complete(item):
            self._put_aside(with_module=True)
        elif self.entry.with_module and not neighbours.module_complete(item):
            self._put_aside()
        elif self.doubtful and not _clean(report()):
            self._put_aside(with_module=not neighbours.earlier_waiting(item))
        return not self.set_aside

    @property
    def doubtful(self) -> bool:
        """Whether others, of whom something is missing, may have a part in how it ended."""
        item, neighbours = self.item, self.neighbours
        earlier = neighbours.earlier_waiting(item)
        if earlier and neighbours.in_order(item):
            return True
        shares = neighbours.shares_fixture(item)
        if shares and (earlier or not neighbours.fixtures_complete(item)):
            return True
        if self.state is not None and self.state.changed:
            return bool(earlier) or not neighbours.module_complete(item)
        return False

    def _put_aside(self, *, with_module: bool = False) -> None:
        if self.entry.confirmations < CONFIRMATIONS:
            self.set_aside = True
            self.entry.with_module |= with_module
            if self.attempt is not None:
                self.attempt.discarded = True

    def teardown_failed(self, nextitem: pytest.Item | None) -> None:
        """Note that the teardown of a void execution failed.

        That of a module's fixture may be right to fail, and it will not be torn down again: only a
        run of the whole module tells.
        """
        if nextitem is None or module_of(nextitem) != module_of(self.item):
            self.entry.with_module = True

    def strayed(self) -> bool:
        """Set a parked attempt aside that asked for something else than the one before.

        Return False where nobody else can have a part in that.
        """
        if self.doubtful:
            self._put_aside(with_module=True)
            self.entry.follows = self.set_aside
        return self.set_aside

    def undo(self) -> None:
        """Put back what a parked attempt, or one that was set aside, left in plain objects."""
        self.note_changes()
        self.snapshot.restore()

    def note_changes(self) -> None:
        """Remember whether tests of this module change what others of it see."""
        if self.state is not None and not self.state.changed:
            self.state.changed = self.snapshot.changed


def _clean(report: pytest.TestReport) -> bool:
    return report.passed and not hasattr(report, "wasxfail")

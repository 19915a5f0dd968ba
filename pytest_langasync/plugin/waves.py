"""Waves under pytest: parked tests queue up, their calls are sent, they run again or wait on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pytest_langasync.engine.buyer import LaneBuyer
from pytest_langasync.engine.run import Run
from pytest_langasync.exceptions import CacheError, ConfigurationError, ProviderError
from pytest_langasync.models import MissingCall
from pytest_langasync.plugin.execution import Entry
from pytest_langasync.plugin.neighbours import Neighbours, module_of
from pytest_langasync.plugin.report_buffer import report_skipped
from pytest_langasync.plugin.terminal import Reporter
from pytest_langasync.plugin.xdist_link import WorkerLink

__all__ = ["Waves"]


class Waves:
    """The tests of a session that wait, and what is done about it.

    ``worker`` is the line to the process that buys for this one, if there is such a process.
    ``queue`` holds the parked ones, and those that were set aside until others have verdicts.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        reporter: Reporter,
        run: Run,
        worker: WorkerLink | None = None,
    ) -> None:
        self.neighbours = neighbours
        self.reporter = reporter
        self._run = run
        self.settings = run.settings
        self.worker = worker
        self.buyer = worker or LaneBuyer(run, reporter.estimated)
        self.queue: list[Entry] = []
        self._again: dict[pytest.Item, Entry] = {}
        self._judged: dict[pytest.Item, int] = {}
        """The tests that have a verdict, and how often each was executed."""
        self._before_pass: Callable[[Iterable[str]], None] = lambda modules: None

    @property
    def begun(self) -> bool:
        """Whether any test was parked in this run."""
        return bool(self.queue or self._again)

    def entry(self, item: pytest.Item) -> Entry:
        """Return what is known of a test that is about to run."""
        return self._again.get(item) or Entry(item)

    def park(self, entry: Entry, missing: Iterable[MissingCall]) -> None:
        """Let a test wait for the answers that it misses."""
        entry.missing, entry.held = tuple(missing), False
        self._enqueue(entry)
        self.reporter.parked(len(self.queue))

    def hold(self, entry: Entry) -> None:
        """Let a test wait for the verdicts of others."""
        entry.missing, entry.held = (), True
        self._enqueue(entry)

    def _enqueue(self, entry: Entry) -> None:
        self.queue.append(entry)
        self.neighbours.waits(entry.item)
        if self.worker is not None:
            self.worker.parked(entry.item.nodeid)

    def judged(self, entry: Entry) -> None:
        """Note that a test has its verdict."""
        self._judged[entry.item] = entry.attempts

    def judge_all(
        self, session: pytest.Session, before_pass: Callable[[Iterable[str]], None]
    ) -> None:
        """Send, wait and run parked tests again until all is judged; defer what is left.

        ``before_pass`` is called before tests run again, with the modules that begin from scratch.

        Raises:
            pytest.UsageError: a key, model, host or limit stands in the way; nothing is lost.
        """
        if not self.queue:
            return
        self._before_pass = before_pass
        why = ""
        try:
            why = self._run_waves(session)
        except ConfigurationError as error:
            self._defer(str(error))
            raise pytest.UsageError(str(error)) from None
        except (ProviderError, CacheError) as error:
            self.reporter.trouble(str(error))
        except session.Interrupted:
            raise
        except KeyboardInterrupt:
            self._run.direct.stop()
            self.reporter.interrupted(self._run.batcher.running)
            self._defer("interrupted")
            raise
        finally:
            self.reporter.pause()
        self._defer(why)

    def _run_waves(self, session: pytest.Session) -> str:
        """Return what stands in the way of the tests that are left, where something does."""
        if session.config.getoption("setuponly", False):  # --setup-plan sets it, too
            return "--setup-only and --setup-plan send nothing"
        tried = False
        while self.queue:
            if held := self._take_held():
                self._pass(session, held)
                continue
            if self.settings.offline:
                return ""
            missing = self._missing()
            bought = self.buyer.buy(missing)
            if bought.stopped:
                raise session.Interrupted("stopped")
            self._run.replay.send_in_place_now(bought.urgent)
            self._run.replay.cancelled(bought.cancelled_at)
            self._run.replay.failed.update(bought.failed)
            if bought.over:
                return bought.why
            everybody, answered = bought.everybody, self._run.answered
            ready = [e for e in self.queue if not e.held and (everybody or answered(e.missing))]
            # Nobody knows what a test without a call waits for: it runs when others do, and once
            # more when no others are left. By itself it brings nothing forward.
            forward = everybody or any(e.missing for e in ready)
            if not forward and (missing or tried):
                return bought.why
            tried = not forward
            for entry in ready:
                if entry.follows:  # alone, it would ask for something else
                    entry.missing, entry.held = (), True
            going = self._take(entry for entry in ready if not entry.held)
            self._pass(session, [*going, *self._take_held(with_modules=False)])
        return ""

    def _missing(self) -> list[MissingCall]:
        found: dict[str, MissingCall] = {}
        for entry in self.queue:
            for pending in entry.missing:
                found.setdefault(pending.key, pending)
        return list(found.values())

    def _take(self, entries: Iterable[Entry]) -> list[Entry]:
        chosen = {id(entry): entry for entry in entries}
        self.queue = [entry for entry in self.queue if id(entry) not in chosen]
        for entry in chosen.values():
            self.neighbours.goes_on(entry.item)
        return list(chosen.values())

    def _take_held(self, *, with_modules: bool = True) -> list[Entry]:
        """Take those out of the queue whose neighbours have verdicts, or are about to run.

        ``with_modules`` takes those, too, that only a run of their whole module can judge.
        """
        taken: list[Entry] = []
        for entry in self._in_order(entry for entry in self.queue if entry.held):
            waits = self.neighbours.earlier_waiting(entry.item)
            if not waits and (not entry.with_module or (with_modules and self._alone(entry))):
                self.neighbours.goes_on(entry.item)  # those after it need not wait for it
                taken.append(entry)
        return self._take(taken)

    def _alone(self, entry: Entry) -> bool:
        """Whether no test that has to run with this one waits for answers."""
        group = self.neighbours.group(entry.item)
        return not any(other.item in group for other in self.queue if not other.held)

    def _in_order(self, entries: Iterable[Entry]) -> list[Entry]:
        return sorted(entries, key=lambda entry: self.neighbours.order(entry.item))

    def _with_shadows(self, entries: list[Entry]) -> tuple[list[Entry], set[str]]:
        """Add the tests that have to run with those that only their whole module can judge.

        Return all in collection order, and the modules that begin from scratch for it.
        """
        there = {entry.item for entry in entries}
        shadows: dict[pytest.Item, Entry] = {}
        modules: set[str] = set()
        for entry in entries:
            if entry.with_module:
                entry.confirmations += 1
                for item in self.neighbours.group(entry.item):
                    modules.add(module_of(item))
                    if item in self._judged and item not in there:
                        shadows[item] = Entry(item, self._judged[item], shadow=True)
        return self._in_order([*entries, *shadows.values()]), modules

    def _pass(self, session: pytest.Session, entries: list[Entry]) -> None:
        """Run tests again, in a loop like pytest's own."""
        self.reporter.pause()
        entries, modules = self._with_shadows(entries)
        self._before_pass(modules)
        rest = deque(entries)
        try:
            while rest:
                entry = rest.popleft()
                nextitem = rest[0].item if rest else None
                if entry.held and self.neighbours.earlier_waiting(entry.item):
                    self.pass_over(entry, nextitem)
                    self._enqueue(entry)  # one before it was parked again
                    continue
                self._execute(session, entry, nextitem)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
        finally:
            self.queue += [entry for entry in rest if not entry.shadow]

    def _execute(self, session: pytest.Session, entry: Entry, nextitem: pytest.Item | None) -> None:
        self._again[entry.item] = entry
        if self.worker is not None:
            self.worker.running(entry.item.nodeid)
        with self._worker_index(entry.item):
            session.config.hook.pytest_runtest_protocol(item=entry.item, nextitem=nextitem)

    def pass_over(self, entry: Entry, nextitem: pytest.Item | None) -> None:
        """Go on to the next test without running this one, for which others were kept set up.

        Relies on ``SetupState.teardown_exact``: ``test_an_unmarked_test_that_adds_up`` sees it.
        """
        session: Any = entry.item.session
        call = pytest.CallInfo.from_call(
            partial(session._setupstate.teardown_exact, nextitem),
            when="teardown",
            reraise=(KeyboardInterrupt, pytest.exit.Exception),
        )
        if call.excinfo is not None:  # it may be right to fail: only the whole module tells
            entry.with_module = True

    @contextmanager
    def _worker_index(self, item: pytest.Item) -> Iterator[None]:
        """Tell pytest-xdist's worker whose reports come: it insists on those of its current item.

        Relies on its attribute ``item_index``: ``test_one_job_for_the_whole_run`` sees it.
        """
        for plugin in item.config.pluginmanager.get_plugins():
            if hasattr(plugin, "item_index") and hasattr(plugin, "channel"):
                before, plugin.item_index = plugin.item_index, self.neighbours.order(item)
                try:
                    yield
                finally:
                    plugin.item_index = before
                return
        yield

    def _defer(self, why: str = "") -> None:
        """Report every test that is still waiting as deferred."""
        waiting = {self.neighbours.order(entry.item): entry for entry in self.queue}
        reasons = {entry: self._reason(entry, why, waiting) for entry in self.queue}
        for entry in self._in_order(self._take(self.queue)):
            reason = reasons[entry]
            with self._worker_index(entry.item):
                if self.settings.estimate:  # which was to judge nothing
                    report_skipped(entry.item, reason)
                    continue
                self._run.defer(entry.item.nodeid, entry.missing)
                report_skipped(entry.item, reason, langasync_deferred=reason)

    def _reason(self, entry: Entry, why: str, waiting: Mapping[int, Entry]) -> str:
        places = self.neighbours.earlier_waiting(entry.item)
        if not (entry.held and places):
            return self._run.reason(entry.missing, why)
        parked = (waiting[place] for place in sorted(places) if not waiting[place].held)
        first = next(parked, entry)
        tests = "another test" if len(places) == 1 else f"{len(places):,} tests"
        return f"{self._run.reason(first.missing, why)}: {tests} before it, which it may look at"

"""Waves under pytest: parked tests queue up, their calls are sent, they run again or wait on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from _pytest.outcomes import Skipped

from pytest_langasync.config import Settings
from pytest_langasync.engine.buyer import LaneBuyer
from pytest_langasync.engine.run import Run
from pytest_langasync.exceptions import CacheError, ConfigurationError, ProviderError
from pytest_langasync.models import MissingCall
from pytest_langasync.plugin.report_buffer import report_outcome
from pytest_langasync.plugin.terminal import Reporter
from pytest_langasync.plugin.xdist_link import WorkerLink

__all__ = ["Entry", "Waves"]


@dataclass
class Entry:
    """A test that waits for answers."""

    item: pytest.Item
    attempts: int
    missing: tuple[MissingCall, ...] = ()


class Waves:
    """The tests of a session that wait for answers, and what is done about it.

    ``worker`` is the line to the process that buys for this one, if there is such a process.
    ``queue`` holds the parked ones.
    """

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        reporter: Reporter,
        run: Run,
        worker: WorkerLink | None = None,
    ) -> None:
        self.config = config
        self.settings = settings
        self.reporter = reporter
        self._run = run
        self.worker = worker
        self.market = worker or LaneBuyer(run, settings, reporter.estimated)
        self.queue: list[Entry] = []
        self._again: dict[pytest.Item, Entry] = {}
        self._order: dict[pytest.Item, int] = {}
        self._before_pass: Callable[[], None] = lambda: None

    def entry(self, item: pytest.Item) -> Entry:
        """Count one more attempt of a test."""
        entry = self._again.pop(item, None) or Entry(item, 0)
        entry.attempts += 1
        return entry

    def park(self, entry: Entry, missing: Iterable[MissingCall]) -> None:
        """Let a test wait for the answers that it misses."""
        entry.missing = tuple(missing)
        self.queue.append(entry)
        if self.worker is not None:
            self.worker.parked(entry.item.nodeid)

    def run(self, session: pytest.Session, before_pass: Callable[[], None]) -> None:
        """Send, wait and run parked tests again until all is judged; defer what is left.

        ``before_pass`` is called before parked tests run again.

        Raises:
            pytest.UsageError: a key, model, host or limit stands in the way; nothing is lost.
        """
        if not self.queue:
            return
        self._before_pass = before_pass
        self._order = {item: index for index, item in enumerate(session.items)}
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
            self.reporter.interrupted(self._run.batcher.running)
            self._defer("interrupted")
            raise
        finally:
            self.reporter.pause()
        self._defer(why)

    def _run_waves(self, session: pytest.Session) -> str:
        """Return what stands in the way of the tests that are left, where something does."""
        if self.settings.offline:
            return ""
        if self.config.getoption("setuponly", False):  # --setup-plan sets it, too
            return "--setup-only and --setup-plan send nothing"
        tried = False
        while self.queue:
            missing = self._missing()
            bought = self.market.buy(missing)
            if bought.stopped:
                raise session.Interrupted("stopped")
            self._run.replay.send_now(bought.urgent, bought.cancelled_at)
            if bought.over:
                return bought.why
            everybody, answered = bought.everybody, self._run.answered
            ready = [e for e in self.queue if everybody or answered(e.missing)]
            # Nobody knows what a test without a call waits for: it runs when others do, and once
            # more when no others are left. By itself it brings nothing forward.
            forward = everybody or any(e.missing for e in ready)
            if not forward and (missing or tried):
                return bought.why
            tried = not forward
            self._pass(session, self._take(ready))
        return ""

    def _missing(self) -> list[MissingCall]:
        found: dict[str, MissingCall] = {}
        for entry in self.queue:
            for pending in entry.missing:
                found.setdefault(pending.key, pending)
        return list(found.values())

    def _take(self, entries: Iterable[Entry]) -> list[Entry]:
        taken = sorted(entries, key=lambda entry: self._order[entry.item])
        chosen = {id(entry) for entry in taken}
        self.queue = [entry for entry in self.queue if id(entry) not in chosen]
        return taken

    def _pass(self, session: pytest.Session, entries: list[Entry]) -> None:
        """Run parked tests again, in a loop like pytest's own."""
        self.reporter.pause()
        self._before_pass()
        rest = deque(entries)
        try:
            while rest:
                entry = rest.popleft()
                self._again[entry.item] = entry
                if self.worker is not None:
                    self.worker.running(entry.item.nodeid)
                with self._worker_index(session, entry.item):
                    entry.item.config.hook.pytest_runtest_protocol(
                        item=entry.item, nextitem=rest[0].item if rest else None
                    )
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
        finally:
            self.queue += rest

    @contextmanager
    def _worker_index(self, session: pytest.Session, item: pytest.Item) -> Iterator[None]:
        """A pytest-xdist worker insists that a report belongs to its current item."""
        for plugin in self.config.pluginmanager.get_plugins():
            if hasattr(plugin, "item_index") and hasattr(plugin, "channel"):
                before, plugin.item_index = plugin.item_index, self._order[item]
                try:
                    yield
                finally:
                    plugin.item_index = before
                return
        yield

    def _defer(self, why: str = "") -> None:
        """Report every test that is still waiting as deferred."""
        for entry in self._take(self.queue):
            reason = self._run.reason(entry.missing, why)
            self._run.defer(entry.item.nodeid, entry.missing)
            with self._worker_index(entry.item.session, entry.item):
                report_outcome(
                    entry.item,
                    Skipped(reason, _use_item_location=True),
                    langasync_deferred=reason,
                )

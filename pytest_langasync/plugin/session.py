"""The run under pytest: attempts, parked tests, waves, verdicts. Hooks decide, ``engine`` works."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from pytest_langasync.config import Settings
from pytest_langasync.engine import differences
from pytest_langasync.engine.replay import Attempt
from pytest_langasync.engine.run import Front, Run
from pytest_langasync.exceptions import CacheError, ConfigurationError
from pytest_langasync.models import Request
from pytest_langasync.plugin.marker import MarkerOptions
from pytest_langasync.plugin.parked_fixtures import Parked, ParkedFixtures, UnmarkedTest
from pytest_langasync.plugin.report_buffer import ReportBuffer, report_outcome
from pytest_langasync.plugin.terminal import Reporter
from pytest_langasync.plugin.waves import Waves
from pytest_langasync.plugin.xdist_link import WorkerLink
from pytest_langasync.plugin.xdist_messages import Invitation

__all__ = ["OPTIONS_KEY", "Session"]

T = TypeVar("T")
OPTIONS_KEY = pytest.StashKey[MarkerOptions]()
ATTEMPT_KEY = pytest.StashKey[int]()


class Session:
    """The plugin object of an active run, registered only then."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        reporter: Reporter,
        invitation: Invitation | None = None,
    ) -> None:
        self.config = config
        self.settings = settings
        self.reporter = reporter
        front = Front(
            parked_type=Parked,
            notify=reporter.event,
            tick=reporter.tick,
            started_at=reporter.started_at,
            local_url=invitation.sandbox if invitation else "",
            sandbox_reply=lambda request: config.hook.pytest_langasync_sandbox_reply(
                request=request
            ),
            allow=self._allow if invitation else None,
        )
        self.run = Run(settings, front)
        reporter.follow(self.run)
        self.worker: WorkerLink | None = None
        if invitation:
            self.worker = WorkerLink(
                invitation,
                self.run.store,
                bought=self.run.bought,
                failed=lambda: self._pytest_session.testsfailed,
                refused=lambda: self.run.refused,
            )
        self.attempt: Attempt | None = None
        self._unmarked: UnmarkedTest | None = None
        self._parked_fixtures = ParkedFixtures()
        self.waves = Waves(config, settings, reporter, self.run, self.worker)

    def _allow(self, key: str, request: Request) -> None:
        """Ask the process that keeps the budget. Raises ``ConfigurationError``."""
        assert self.worker is not None
        self.worker.allow(key, request)

    # ---- the session

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        try:
            self.run.start()
        except (ConfigurationError, CacheError) as error:
            raise pytest.UsageError(str(error)) from None
        self.buffer = ReportBuffer(session)
        self._pytest_session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """A module that makes its client without a key when it is imported: one line says it."""
        report = yield
        error = getattr(getattr(report, "call", None), "excinfo", None)
        if report.failed and error is not None and self.run.lacks_key(error.value):
            report.longrepr = self.run.refused
        return report

    def pytest_collection_modifyitems(self) -> None:
        if self.run.refused:
            raise pytest.UsageError(self.run.refused)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.worker is None:
            self.reporter.finish()
            return
        stopped = bool(session.shouldfail or session.shouldstop)
        self.worker.leave(self.reporter.books(), stopped=stopped)

    def pytest_unconfigure(self) -> None:
        self.run.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        try:
            result = yield
            if session.shouldfail or session.shouldstop:  # a worker of xdist's does not raise
                raise session.Interrupted("stopped")
            self.waves.run(session, before_pass=self._parked_fixtures.clear)
            return result
        except (session.Failed, KeyboardInterrupt, pytest.exit.Exception) as stop:
            self.reporter.stopped(len(self.waves.queue))  # Interrupted is a KeyboardInterrupt
            if self.worker is not None and not isinstance(stop, pytest.exit.Exception):
                return True  # to raise here would look like Ctrl-C in the worker
            raise
        finally:
            try:
                self.run.memory.save(goes_on=True)
            except CacheError as error:
                self.reporter.trouble(str(error))

    # ---- one attempt

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        options = item.stash.get(OPTIONS_KEY, None)
        if options is None:
            return (yield from self._run_unmarked(item))
        entry = self.waves.entry(item)
        item.stash[ATTEMPT_KEY] = entry.attempts
        self.buffer.hold(item)
        try:
            with self._attempting(item, entry.attempts, options) as attempt:
                result = yield
        except BaseException:
            self.buffer.release()
            raise
        if not attempt.parked:
            self.run.judge(attempt)
            self.buffer.release()
            return result
        self.buffer.discard()
        if not self._fail_if_not_reproducible(item, attempt):
            self.run.park(attempt)
            self.waves.park(entry, attempt.missing.values())
            self.reporter.parked(len(self.waves.queue))
        return result

    @contextmanager
    def _attempting(
        self, item: pytest.Item, number: int, options: MarkerOptions
    ) -> Iterator[Attempt]:
        repeat = getattr(getattr(item, "callspec", None), "params", {}).get("langasync_repeat", 0)
        sample = f"repeat {repeat}" if repeat else ""
        with self.run.attempt(item.nodeid, number, options.attempt(sample)) as attempt:
            self.attempt = attempt
            try:
                yield attempt
            finally:
                self.attempt = None

    def _run_unmarked(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run an unmarked test; one that shares a parked fixture has to wait with the others."""
        if not self._parked_fixtures:
            return (yield)
        self._unmarked = unmarked = UnmarkedTest()
        self.buffer.hold(item)
        try:
            result = yield
        except BaseException:
            self.buffer.release()
            raise
        finally:
            self._unmarked = None
        if unmarked.missing is None:
            self.buffer.release()
        else:
            self.buffer.discard()
            self.waves.park(self.waves.entry(item), unmarked.missing)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, T, T]:
        if self.attempt is not None:
            self.attempt.restart()
        return (yield from self._phase(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, T, T]:
        return (yield from self._phase(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, T, T]:
        return (yield from self._phase(item, gently=True))

    def _phase(self, item: pytest.Item, *, gently: bool = False) -> Generator[None, T, T]:
        """Turn a park into a cheap outcome: a failure report with its traceback costs a second."""
        try:
            with self.run.concurrency.interruptible(self.attempt, gently=gently):
                result = yield
        except KeyboardInterrupt:
            raise
        except BaseException as exception:
            if self._is_parked(item, exception):
                raise Parked("parked") from None
            raise
        if self._is_parked(item, None):
            raise Parked("parked")
        return result

    def _is_parked(self, item: pytest.Item, exception: BaseException | None) -> bool:
        if self.attempt is None:
            unmarked = self._unmarked
            if unmarked is not None and unmarked.missing is None:
                unmarked.missing = self._parked_fixtures.reached(item, exception)
            return unmarked is not None and unmarked.missing is not None
        if not self.attempt.parked:
            missing = self._parked_fixtures.reached(item, exception)
            if missing is None and exception is not None and self.run.lacks_key(exception):
                missing = []
            if missing is not None:
                self.attempt.wait_for(missing)
        return self.attempt.parked

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, T, T]:
        function = pyfuncitem.obj
        if self.attempt is None or not inspect.iscoroutinefunction(function):
            return (yield)
        pyfuncitem.obj = self.run.concurrency.bind(function)
        try:
            return (yield)
        finally:
            pyfuncitem.obj = function

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: Any
    ) -> Generator[None, T, T]:
        if self.attempt is None:
            return (yield)
        concurrency = self.run.concurrency
        return (
            yield from self._parked_fixtures.set_up(fixturedef, request, self.attempt, concurrency)
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and self.attempt is not None and not self.attempt.parked:
            calls = [(call, answer) for _, call, answer in self.attempt.used]
            if calls:
                report.sections.append(("langasync calls", self.reporter.failure_section(calls)))
        return report

    # ---- what a test may ask

    def attempt_number(self, item: pytest.Item) -> int:
        """Return which execution of a test this is, from 1."""
        return item.stash.get(ATTEMPT_KEY, 1)

    def calls(self) -> list[dict[str, Any]]:
        """Return the answered calls of the running attempt, as plain data; money in USD."""
        used = self.attempt.used if self.attempt is not None else []
        return [self.run.ledger.priced(call, answer) for _, call, answer in used]

    def side_by_side(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Do works of the running test that do not depend on each other: all calls in one wave."""
        return self.run.concurrency.side_by_side(works)

    def _fail_if_not_reproducible(self, item: pytest.Item, attempt: Attempt) -> bool:
        """Fail a test that does not ask again for what it was already answered."""
        difference = attempt.difference()
        if difference is None or self.run.first_time(attempt, difference.owner):
            return False
        text = differences.difference(difference.stored, difference.asked)
        self.reporter.strayed(item.nodeid)
        self.run.give_up(attempt)
        message = (
            f"{difference.owner} is not reproducible: attempt {attempt.number} asked for something "
            f"else than the attempt before it, and left a bought answer unused.\n\n{text}\n\n"
            "A batched test runs once more for every wave, and must ask the same each time. Seed "
            "what is random, sort what is unordered, freeze the clock; or run it at once with "
            "@pytest.mark.langasync(realtime=True). Nothing more is bought for it."
        )
        report_outcome(item, pytest.fail.Exception(message, pytrace=False))
        return True

"""The run under pytest: attempts, parked tests, waves, verdicts. Hooks decide, ``engine`` works.

A run's life::

    pytest_sessionstart        open the cache, start the sandbox, patch the HTTP clients
    pytest_collection_…        (``plugin/__init__``) what the markers say is noted on the tests
    pytest_runtestloop         pytest's own loop is the first pass over the tests
      pytest_runtest_protocol    one ``Execution``: reports are held back (``ReportBuffer``),
        setup, call, teardown    calls are answered, or park the attempt; a park becomes a cheap
                                 outcome in each phase, whatever the test made of the exception
        afterwards               parked or set aside: undone, discarded, queued (``Waves``)
                                 the real run: entered in the books, its reports let out
      ``Waves.run``              buy what is missing, run again whoever can go on, until nobody
                                 waits; defer who is left
    pytest_sessionfinish       the books are closed: summary, record of the run, exit status
    pytest_unconfigure         undo the patches, stop the sandbox

What an execution may turn out to be is told in ``execution``; who waits for whom in ``neighbours``.
Under pytest-xdist each worker has a ``Session``; the controller has a ``ControllerSession``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from pytest_langasync.config import Settings
from pytest_langasync.engine import differences
from pytest_langasync.engine.replay import Attempt, Difference
from pytest_langasync.engine.run import Front, Run
from pytest_langasync.exceptions import CacheError, ConfigurationError
from pytest_langasync.models import Request
from pytest_langasync.plugin.execution import Entry, Execution
from pytest_langasync.plugin.interrupts import PatientInterrupts
from pytest_langasync.plugin.marker import MarkerOptions
from pytest_langasync.plugin.neighbours import Neighbours, module_of, set_up_now
from pytest_langasync.plugin.other_plugins import forget_result
from pytest_langasync.plugin.parked_fixtures import Parked, ParkedFixtures
from pytest_langasync.plugin.report_buffer import ReportBuffer, report_outcome
from pytest_langasync.plugin.shared_state import ModuleState
from pytest_langasync.plugin.terminal import Reporter
from pytest_langasync.plugin.waves import Waves
from pytest_langasync.plugin.xdist_link import WorkerLink
from pytest_langasync.plugin.xdist_messages import Invitation

__all__ = ["OPTIONS_KEY", "LeaveOut", "Session"]

T = TypeVar("T")
OPTIONS_KEY = pytest.StashKey[MarkerOptions]()
ATTEMPT_KEY = pytest.StashKey[int]()


def _is_watched(session: pytest.Session) -> bool:
    """Return whether somebody follows a test as it runs: in a debugger, or its prints.

    A call in real time is then sent where the test makes it, so that it runs once and in order.
    """
    option = session.config.option
    debugged = option.usepdb or getattr(option, "trace", False) or "pydevd" in sys.modules
    return debugged or (option.capture == "no" and len(session.items) == 1)


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
        self._interrupts = PatientInterrupts()
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
        self._execution: Execution | None = None
        self._left_out: Entry | None = None
        self._parked_fixtures = ParkedFixtures()
        self._states: dict[str, ModuleState] = {}
        self._modules: frozenset[str] | None = None

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
        self._pytest_session = session
        self.buffer = ReportBuffer(session)
        self.neighbours = Neighbours(session)
        self.waves = Waves(self.neighbours, self.reporter, self.run, self.worker)

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
        self._interrupts.uninstall()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        self._interrupts.install()
        if _is_watched(session):
            self.run.replay.send_in_place()
        try:
            result = yield
            if session.shouldfail or session.shouldstop:  # a worker of xdist's does not raise
                raise session.Interrupted("stopped")
            self.waves.judge_all(session, self._before_pass)
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

    def _before_pass(self, modules: Iterable[str]) -> None:
        """Begin a pass over tests; what these modules hold is to be as it was at first."""
        self._parked_fixtures.clear()
        self.neighbours.begin_pass()
        for module in modules:
            if module in self._states:
                self._states[module].begin_again()

    # ---- one execution of a test

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        entry, marked = self.waves.entry(item), OPTIONS_KEY in item.stash
        if not marked and self._has_to_wait(entry):
            self._left_out = entry  # see ``LeaveOut``
            result = yield
            self.waves.hold(entry)
            return result
        state = self._begin(item)
        if not (marked or self.waves.begun):
            result = yield
            self.neighbours.ran(item)
            return result
        entry.attempts += 1
        item.stash[ATTEMPT_KEY] = entry.attempts
        self._execution = execution = Execution(entry, self.neighbours, state)
        if state is not None:
            execution.snapshot = state.take(item, set_up_now(item))
        self.buffer.hold(execution)
        try:
            with self._attempting(execution):
                result = yield
        except BaseException:
            self.buffer.release()
            raise
        finally:
            self._execution = None
        self._conclude(execution)
        return result

    def _has_to_wait(self, entry: Entry) -> bool:
        """Whether the turn of an unmarked test has not come: it has no call, and may look at tests
        that have no verdict yet. It runs once, after them."""
        item = entry.item
        waits = not entry.shadow and self.neighbours.earlier_waiting(item)
        return bool(waits) and not self.neighbours.free(item)

    def leave_out(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Pass a test over whose turn has not come. Return False for any other."""
        entry, self._left_out = self._left_out, None
        if entry is None:
            return False
        forget_result(item)
        self.waves.pass_over(entry, nextitem)
        return True

    def _begin(self, item: pytest.Item) -> ModuleState | None:
        """Note that a test begins; return what those of its module share, if any is marked."""
        self.neighbours.starts(item)
        if self._modules is None:
            items = self._pytest_session.items
            self._modules = frozenset(module_of(one) for one in items if OPTIONS_KEY in one.stash)
        module = module_of(item)
        if module in self._modules and module not in self._states:
            self._states[module] = ModuleState(item)
        return self._states.get(module)

    @contextmanager
    def _attempting(self, execution: Execution) -> Iterator[None]:
        item, number = execution.item, execution.entry.attempts
        options = item.stash.get(OPTIONS_KEY, None)
        if options is None:
            yield
            return
        repeat = getattr(getattr(item, "callspec", None), "params", {}).get("langasync_repeat", 0)
        sample = f"repeat {repeat}" if repeat else ""
        with self.run.attempt(item.nodeid, number, options.attempt(sample)) as attempt:
            attempt.discarded = execution.entry.shadow
            execution.attempt = attempt
            yield

    def _conclude(self, execution: Execution) -> None:
        """Do what follows from what an execution turned out to be."""
        entry, attempt = execution.entry, execution.attempt
        if not execution.parked and not execution.set_aside:
            execution.note_changes()
            self.neighbours.ran(execution.item)
        if not execution.void:
            if attempt is not None:
                self.run.judge(attempt)
            self.waves.judged(entry)
            self.buffer.release()
            return
        if not entry.shadow:
            execution.undo()
        self.buffer.discard()
        if entry.shadow:
            return
        if execution.set_aside:
            self.waves.hold(entry)
        elif attempt is None:
            self.waves.park(entry, execution.waits_for or ())
        else:
            self._park(execution, attempt)

    def _park(self, execution: Execution, attempt: Attempt) -> None:
        difference = attempt.difference()
        if difference is None or self.run.first_time(attempt, difference.owner):
            self.run.park(attempt)
            self.waves.park(execution.entry, attempt.missing.values())
            return
        self.run.give_up(attempt)
        if execution.strayed():
            self.waves.hold(execution.entry)
        else:
            self.neighbours.ran(execution.item)
            self._fail_as_not_reproducible(execution.item, attempt, difference)

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that is running, if the test that runs is marked."""
        return self._execution.attempt if self._execution is not None else None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, T, T]:
        if self.attempt is not None:
            self.attempt.restart()
        return (yield from self._phase(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, T, T]:
        return (yield from self._phase(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, T, T]:
        execution = self._execution
        try:
            return (yield from self._phase(item, gently=True))
        except Parked as parked:
            failed = parked.__cause__ is not None and not isinstance(parked.__cause__, Parked)
            if failed and execution is not None:
                execution.teardown_failed(nextitem)
            raise

    def _phase(self, item: pytest.Item, *, gently: bool = False) -> Generator[None, T, T]:
        """Turn a park into a cheap outcome: a failure report with its traceback costs a second."""
        try:
            with self.run.concurrency.interruptible(self.attempt, gently=gently):
                result = yield
        except KeyboardInterrupt:
            raise
        except BaseException as exception:
            if self._is_parked(item, exception):
                raise Parked("parked") from exception
            raise
        if self._is_parked(item, None):
            raise Parked("parked")
        return result

    def _is_parked(self, item: pytest.Item, exception: BaseException | None) -> bool:
        execution = self._execution
        if execution is None:
            return False
        if not execution.parked:
            missing = self._parked_fixtures.reached(item, exception)
            attempt = execution.attempt
            if attempt is None:
                execution.waits_for = missing
                return missing is not None
            if missing is None and exception is not None and self.run.lacks_key(exception):
                missing = []
            if missing is not None:
                attempt.wait_for(missing)
        return execution.parked

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, T, T]:
        # What pytest-asyncio and anyio do, too, before they run it: ``test_asynchronous_ones``.
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
        attempt, concurrency = self.attempt, self.run.concurrency
        if attempt is None:
            value = yield
        else:
            value = yield from self._parked_fixtures.set_up(
                fixturedef, request, attempt, concurrency
            )
        if fixturedef.scope != "function":
            self.neighbours.fixture_set_up(fixturedef, request)
            if self._execution is not None:
                self._execution.snapshot.add(value)
        return value

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

    def _fail_as_not_reproducible(
        self, item: pytest.Item, attempt: Attempt, difference: Difference
    ) -> None:
        text = differences.difference(difference.stored, difference.asked)
        self.reporter.strayed(item.nodeid)
        message = (
            f"{difference.owner} is not reproducible: attempt {attempt.number} asked for something "
            f"else than the attempt before it, and left a bought answer unused.\n\n{text}\n\n"
            "A batched test runs once more for every wave, and must ask the same each time. Seed "
            "what is random, sort what is unordered, freeze the clock; or run it at once with "
            "@pytest.mark.langasync(realtime=True). Nothing more is bought for it."
        )
        report_outcome(item, pytest.fail.Exception(message, pytrace=False))


class LeaveOut:
    """Ends the protocol of a test whose turn has not come, before anybody runs it.

    A plugin of its own: one plugin has one function for a hook, and ``Session`` wraps this one.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Answer for pytest that the test was run."""
        return self._session.leave_out(item, nextitem) or None

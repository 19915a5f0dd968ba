"""Reports held back while an attempt runs, and reports made by hand for tests that did not run.

pytest and its plugins report through ``item.ihook``. A shim there keeps what is said about an
attempt until it is known whether it was the real run or was parked, whoever owns the protocol.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from pytest_langasync.plugin import exit_status
from pytest_langasync.plugin.other_plugins import (
    RUNS_THE_PROTOCOL,
    forget_result,
    put_results_away,
)
from pytest_langasync.reporting.text import escape

__all__ = ["Execution", "ReportBuffer", "disarm", "fail_run", "report_outcome", "report_skipped"]

HELD = frozenset(
    {
        "pytest_exception_interact",
        "pytest_runtest_logfinish",
        "pytest_runtest_logreport",
        "pytest_runtest_logstart",
        "pytest_warning_recorded",
    }
)


class Execution(Protocol):
    """One execution of a test, as far as its reports are concerned."""

    @property
    def item(self) -> pytest.Item:
        """The test."""
        ...

    @property
    def void(self) -> bool:
        """Whether it cannot be the real run any more."""
        ...

    def counts(self, report: Callable[[], pytest.TestReport]) -> bool:
        """Decide, once a phase has ended, whether this is the real run so far.

        ``report`` makes pytest's own report of the phase, which no other plugin sees.
        """
        ...


class ReportBuffer:
    """Holds what is reported between ``hold`` and ``release`` or ``discard``.

    Other plugins learn of an execution by ``pytest_runtest_makereport``: pytest-dependency and the
    recipe for incremental tests note how it ended, allure and pytest-retry act on it. They are
    asked only when it is known that the execution counts: for the setup, once the call has ended.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._held: list[Callable[[], Any]] | None = None
        self._config = session.config
        self._subtests: dict[Any, int] = {}
        self._reset: Callable[[], None] = lambda: None
        self._execution: Execution | None = None
        self._setup: tuple[pytest.CallInfo[None], pytest.TestReport] | None = None
        """The phase that ended well, while it is not known yet whether the execution counts."""
        self._copies: list[tuple[pytest.TestReport, pytest.TestReport]] = []
        self._live_logs: _LiveLogs | None = None
        original = session.gethookproxy

        # Relies on ``Item.ihook`` being made by this method for each access of a test's hooks:
        # ``test_each_test_is_shown_once_and_in_order`` sees it.
        def gethookproxy(fspath: Any) -> Any:
            proxy = original(fspath)
            return proxy if self._held is None else _Shim(proxy, self)

        session.gethookproxy = gethookproxy  # type: ignore[method-assign]

    def hold(self, execution: Execution) -> None:
        """Start to hold back what is said about an execution that is about to begin."""
        self._held, self._setup, self._execution = [], None, execution
        self._copies.clear()
        self._reset = resetter(execution.item)
        self._subtests = dict(_failed_subtests(self._config))
        self._live_logs = _LiveLogs.held(self._config, self._held)

    def release(self) -> None:
        """Let out what was held back, in order."""
        held = self._held or []
        self._end()
        for call in held:
            call()

    def discard(self) -> None:
        """Drop what was held back, the failed subtests that pytest counted meanwhile, and whatever
        the run left on the item, so that it runs again as if it had not."""
        self._end()
        self._reset()
        counts = _failed_subtests(self._config)
        counts.clear()
        counts.update(self._subtests)

    def _end(self) -> None:
        self._held = self._execution = self._setup = None
        self._copies.clear()
        if self._live_logs is not None:
            self._live_logs.let_go()
            self._live_logs = None

    def add(self, hook: Any, kwargs: dict[str, Any], *, historic: bool) -> None:
        """Keep one hook call, or make it at once when nothing is being held."""
        report = kwargs.get("report")
        if hook.name == "pytest_runtest_logreport" and self._held is not None:
            # pytest-retry logs a report as "retried" and then makes it say "failed" again.
            kwargs = {**kwargs, "report": copy.copy(report)}
            self._copies.append((report, kwargs["report"]))  # type: ignore[arg-type]

        def call() -> Any:
            return hook.call_historic(kwargs=kwargs) if historic else hook(**kwargs)

        if self._held is None:
            call()
            return
        self._held.append(call)
        if hook.name == "pytest_exception_interact" and self._config.getoption("usepdb", False):
            # A debugger is of use only while the frames and fixtures are there.
            held = self._held[:]
            self._held.clear()
            for one in held:
                one()

    # ---- who is asked for a report

    def report(
        self, hook: Any, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport:
        """Make the report of a phase; other plugins take part if the execution counts."""
        execution = self._execution
        if execution is None:
            report: pytest.TestReport = hook(item=item, call=call)
            return report
        own = functools.cache(lambda: self._own_report(item, call))
        if not execution.void and call.when == "setup" and call.excinfo is None:
            self._setup = (call, own())
            return own()
        if execution.void or not execution.counts(own):
            if call.when == "teardown":
                forget_result(item)
            return own()
        self._tell_of_setup(hook, item)
        report = hook(item=item, call=call)
        return report

    def _tell_of_setup(self, hook: Any, item: pytest.Item) -> None:
        """Let other plugins make their part of the setup's report, wherever it went meanwhile."""
        if self._setup is None:
            return
        (call, report), self._setup = self._setup, None
        # pytest's support for unittest keeps the outcome of the call there for the next report.
        # ``test_verdicts_equal_those_of_real_time`` sees it.
        outcome = vars(item).pop("_excinfo", None)
        theirs = vars(hook(item=item, call=call))
        if outcome is not None:
            vars(item)["_excinfo"] = outcome
        added = {name: value for name, value in theirs.items() if name != "sections"}
        for one in [report, *(copied for source, copied in self._copies if source is report)]:
            vars(one).update(added)

    def _own_report(self, item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport:
        """Let pytest's own plugins (skip and xfail, unittest) alone make a report."""
        plugins = self._config.pluginmanager
        others = [one for one in plugins.get_plugins() if not _takes_part(one)]
        hook = plugins.subset_hook_caller("pytest_runtest_makereport", others)
        report: pytest.TestReport = hook(item=item, call=call)
        return report


def _takes_part(plugin: object) -> bool:
    name = str(getattr(plugin, "__name__", None) or type(plugin).__module__)
    return name.startswith("_pytest.") or name in RUNS_THE_PROTOCOL


class _Shim:
    def __init__(self, proxy: Any, buffer: ReportBuffer) -> None:
        self._proxy = proxy
        self._buffer = buffer

    def __getattr__(self, name: str) -> Any:
        hook = getattr(self._proxy, name)
        if name == "pytest_runtest_makereport":
            return functools.partial(self._buffer.report, hook)
        return _Held(hook, self._buffer) if name in HELD else hook


class _Held:
    def __init__(self, hook: Any, buffer: ReportBuffer) -> None:
        self._hook = hook
        self._buffer = buffer

    def __call__(self, **kwargs: Any) -> list[Any]:
        self._buffer.add(self._hook, kwargs, historic=False)
        return []

    def call_historic(self, result_callback: Any = None, kwargs: Any = None) -> None:
        self._buffer.add(self._hook, kwargs or {}, historic=True)


class _LiveLogs:
    """pytest's live logs (``log_cli``) of one execution, held back with its reports.

    They would stand under the test before, and those of parked attempts would be shown. Relies on
    the handler's methods ``emit``, ``set_when`` and ``reset``: ``test_live_logs`` sees it.
    """

    def __init__(self, handler: Any, held: list[Callable[[], Any]]) -> None:
        self._handler = handler
        emit, set_when, reset = handler.emit, handler.set_when, handler.reset

        def keep(record: logging.LogRecord) -> None:
            kept = copy.copy(record)
            kept.msg, kept.args = record.getMessage(), None
            held.append(lambda: emit(kept))

        handler.emit = keep
        handler.set_when = lambda when: held.append(lambda: set_when(when))
        handler.reset = lambda: held.append(reset)

    @classmethod
    def held(cls, config: pytest.Config, held: list[Callable[[], Any]]) -> _LiveLogs | None:
        """Hold the live logs back where there are any."""
        handler = getattr(
            config.pluginmanager.get_plugin("logging-plugin"), "log_cli_handler", None
        )
        return cls(handler, held) if isinstance(handler, logging.StreamHandler) else None

    def let_go(self) -> None:
        """Let the handler write again."""
        for name in ("emit", "set_when", "reset"):
            vars(self._handler).pop(name, None)


def _failed_subtests(config: pytest.Config) -> dict[Any, int]:
    """Return pytest's own count of failed subtests by node ID, by which it fails their test.

    It is raised at once, past the reports: ``test_verdicts_equal_those_of_real_time`` sees it.
    """
    try:
        from _pytest.subtests import failed_subtests_key
    except ImportError:  # pytest before 9
        return {}
    counts: Any = config.stash.get(failed_subtests_key, None)
    return {} if counts is None else counts


def resetter(item: pytest.Item) -> Callable[[], None]:
    """Return a function that puts an item back into the state in which it is now.

    Relies on what pytest keeps on an item: its captured output (``_report_sections``), a unittest's
    outcome (``_excinfo``) and a method's object (``_instance``, ``_obj``):
    ``test_only_the_last_attempt_is_captured``, ``test_verdicts_equal_those_of_real_time``.
    """
    lists: tuple[list[Any], ...] = (item._report_sections, item.user_properties, item.own_markers)
    before = [list(one) for one in lists]
    restore_results = put_results_away(item)

    def reset() -> None:
        restore_results()
        for one, content in zip(lists, before, strict=True):
            one[:] = content
        vars(item).pop("_excinfo", None)
        method = isinstance(item, pytest.Function) and isinstance(item.parent, pytest.Class)
        if method and type(item).__name__ != "TestCaseFunction":
            vars(item).pop("_instance", None)
            vars(item).pop("_obj", None)

    return reset


def report_outcome(item: pytest.Item, outcome: BaseException, **extra: Any) -> None:
    """Report an item that does not run (again): its call phase ended with ``outcome``.

    ``extra`` becomes attributes of the call's report; values must be plain data.
    """

    def end() -> None:
        raise outcome

    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    phases: tuple[tuple[Any, Callable[[], None]], ...] = (
        ("setup", lambda: None),
        ("call", end),
        ("teardown", lambda: None),
    )
    for when, function in phases:
        call = pytest.CallInfo.from_call(function, when=when)
        report = pytest.TestReport.from_item_and_call(item, call)
        if when == "call":
            vars(report).update(extra)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def report_skipped(item: pytest.Item, reason: str, **extra: Any) -> None:
    """Report an item that does not run as skipped at its own place.

    pytest's own way to say so fails for items without a line number (a doctest in ``__test__``, an
    item made from YAML).
    """
    path, line, _ = item.reportinfo()
    place = (os.fspath(path), 0 if line is None else line + 1, f"Skipped: {reason}")
    report_outcome(item, pytest.skip.Exception(reason), longrepr=place, **extra)


def disarm(report: pytest.TestReport) -> None:
    """Escape what would control the terminal in a failure: a model may have written it."""
    longrepr: Any = report.longrepr
    last = [(getattr(longrepr, "reprtraceback", None), getattr(longrepr, "reprcrash", None), None)]
    for traceback, crash, _ in getattr(longrepr, "chain", last):
        if crash is not None:
            crash.message = escape(crash.message)
        for entry in getattr(traceback, "reprentries", ()):
            parts: tuple[Any, ...] = (entry, getattr(entry, "reprlocals", None))
            for part in parts:
                if hasattr(part, "lines"):
                    part.lines = [escape(line) for line in part.lines]


def fail_run(session: pytest.Session, name: str, message: str) -> None:
    """Fail the run for something that no single test is to blame for."""
    report = pytest.TestReport(
        nodeid=name, location=(name.partition("::")[0], None, name), keywords={},
        outcome="failed", longrepr=message, when="call",
    )  # fmt: skip
    vars(report)["langasync_gate"] = True
    plugins = session.config.pluginmanager
    terminal = plugins.get_plugin("terminalreporter")
    # No test just ran: the terminal lists the failure, but has no letter and no progress to show,
    # and there is nothing to run again. ``stats`` and the plugins' names are pytest's inner ones:
    # ``test_repeats_and_a_gate`` and ``test_a_failed_gate_names_its_misses_and_lf_keeps_them``.
    named = (plugins.get_plugin(name) for name in ("lfplugin", "stepwiseplugin"))
    left_out = [plugin for plugin in (terminal, *named) if plugin is not None]
    plugins.subset_hook_caller("pytest_runtest_logreport", left_out)(report=report)
    if terminal is not None:
        terminal.stats.setdefault("failed", []).append(report)
    session.testsfailed += 1
    exit_status.fail(session)

"""Reports held back while an attempt runs, and reports made by hand for tests that did not run.

pytest and its plugins report through ``item.ihook``. A shim there keeps what is said about an
attempt until it is known whether it was the real run or was parked, whoever owns the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_langasync.reporting.text import escape

__all__ = ["ReportBuffer", "disarm", "fail_run", "report_outcome"]

HELD = frozenset(
    {
        "pytest_exception_interact",
        "pytest_runtest_logfinish",
        "pytest_runtest_logreport",
        "pytest_runtest_logstart",
        "pytest_warning_recorded",
    }
)


class ReportBuffer:
    """Holds what is reported between ``hold`` and ``release`` or ``discard``."""

    def __init__(self, session: pytest.Session) -> None:
        self._held: list[Callable[[], Any]] | None = None
        self._config = session.config
        self._subtests: dict[Any, int] = {}
        self._reset: Callable[[], None] = lambda: None
        original = session.gethookproxy

        def gethookproxy(fspath: Any) -> Any:
            proxy = original(fspath)
            return proxy if self._held is None else _Shim(proxy, self)

        session.gethookproxy = gethookproxy  # type: ignore[method-assign]

    def hold(self, item: pytest.Item) -> None:
        """Start to hold back what is said about an item that is about to run."""
        self._held = []
        self._reset = resetter(item)
        self._subtests = dict(_failed_subtests(self._config))

    def release(self) -> None:
        """Let out what was held back, in order."""
        held, self._held = self._held or [], None
        for call in held:
            call()

    def discard(self) -> None:
        """Drop what was held back, the failed subtests that pytest counted meanwhile, and whatever
        the run left on the item, so that it runs again as if it had not."""
        self._held = None
        self._reset()
        counts = _failed_subtests(self._config)
        counts.clear()
        counts.update(self._subtests)

    def add(self, hook: Any, kwargs: dict[str, Any], *, historic: bool) -> None:
        """Keep one hook call, or make it at once when nothing is being held."""

        def call() -> Any:
            return hook.call_historic(kwargs=kwargs) if historic else hook(**kwargs)

        if self._held is None:
            call()
            return
        self._held.append(call)
        if hook.name == "pytest_exception_interact" and self._config.getoption("usepdb", False):
            # A debugger is of use only while the frames and fixtures are there.
            held, self._held = self._held, []
            for one in held:
                one()


class _Shim:
    def __init__(self, proxy: Any, buffer: ReportBuffer) -> None:
        self._proxy = proxy
        self._buffer = buffer

    def __getattr__(self, name: str) -> Any:
        hook = getattr(self._proxy, name)
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


def _failed_subtests(config: pytest.Config) -> dict[Any, int]:
    try:
        from _pytest.subtests import failed_subtests_key
    except ImportError:  # pytest before 9
        return {}
    counts: Any = config.stash.get(failed_subtests_key, None)
    return {} if counts is None else counts


def resetter(item: pytest.Item) -> Callable[[], None]:
    """Return a function that puts an item back into the state in which it is now."""
    lists: tuple[list[Any], ...] = (item._report_sections, item.user_properties, item.own_markers)
    before = [list(one) for one in lists]

    def reset() -> None:
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
    # and there is nothing to run again.
    named = (plugins.get_plugin(name) for name in ("lfplugin", "stepwiseplugin"))
    left_out = [plugin for plugin in (terminal, *named) if plugin is not None]
    plugins.subset_hook_caller("pytest_runtest_logreport", left_out)(report=report)
    if terminal is not None:
        terminal.stats.setdefault("failed", []).append(report)
    session.testsfailed += 1
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, 75):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""What is known of other plugins by name: the few things that no hook tells.

Each entry says what it relies on; the tests are in ``tests/plugin/test_other_plugins.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

__all__ = [
    "IN_ORDER",
    "REALTIME_BECAUSE",
    "RUNS_THE_PROTOCOL",
    "TIES",
    "conftest_decides_by_outcomes",
    "forget_result",
    "looks_at_session",
    "put_results_away",
    "realtime_because",
]

TIES = ("dependency", "depends")
"""Markers of tests that look at each other's outcome, also across modules: pytest-dependency's and
pytest-depends'."""
IN_ORDER = ("incremental",)
"""Markers of tests that are judged strictly one after the other, as in pytest's own recipe."""
SESSION_FIXTURES = frozenset({"eval_results", "session_results_dct", "session_results_df"})
"""Fixtures of pytest-harvest and pytest-evals that hold the results of all tests so far."""
RUNS_THE_PROTOCOL = ("pytest_rerunfailures",)
"""Modules of plugins that run a test's phases themselves, and go by what their makereport noted."""
REALTIME_BECAUSE = {
    "Hypothesis": "which asks for something else each time",
    "pytest-benchmark": "which calls the function until its time is up",
}
"""What runs a test's function many times, and why that is no use in a batch: no answer would ever
be asked for again, or each call would take a wave."""
SESSION_MARKERS = ("eval_analysis",)


def looks_at_session(item: pytest.Item) -> bool:
    """Whether a test reports on the whole session so far."""
    names = getattr(item, "fixturenames", ())
    return bool(SESSION_FIXTURES & set(names)) or any(
        item.get_closest_marker(name) for name in SESSION_MARKERS
    )


def conftest_decides_by_outcomes(config: pytest.Config) -> bool:
    """Whether a conftest notes how tests end and does something before others run.

    That is the form of pytest's recipe for incremental tests, under whatever marker.
    """
    conftests = [
        plugin
        for plugin in config.pluginmanager.get_plugins()
        if str(getattr(plugin, "__file__", "")).endswith("conftest.py")
    ]
    return any(
        hasattr(one, "pytest_runtest_setup")
        and (hasattr(one, "pytest_runtest_makereport") or hasattr(one, "pytest_runtest_logreport"))
        for one in conftests
    )


def realtime_because(item: pytest.Item) -> str:
    """Return the name of what runs a test's function so often that no batch would do; or nothing.

    It is a key of ``REALTIME_BECAUSE``.
    """
    if hasattr(getattr(item, "obj", None), "hypothesis"):
        return "Hypothesis"
    info: Any = getattr(item, "_fixtureinfo", None)
    for definition in info.name2fixturedefs.get("benchmark", ()) if info is not None else ():
        if definition.func.__module__.startswith("pytest_benchmark."):
            return "pytest-benchmark"
    return ""


def forget_result(item: pytest.Item) -> None:
    """Take back the result that allure-pytest has begun for an execution that is no verdict.

    allure begins one around ``pytest_runtest_protocol`` and writes it afterwards, whatever was
    reported. Relies on its listener's cache of node IDs and on its logger's ``drop_test``.
    """
    listener: Any = item.config.pluginmanager.get_plugin("allure_listener")
    cache, logger = getattr(listener, "_cache", None), getattr(listener, "allure_logger", None)
    if cache is None or logger is None:
        return
    uuid = cache.pop(item.nodeid)
    if uuid is not None:
        logger.drop_test(uuid)


def put_results_away(item: pytest.Item) -> Callable[[], None]:
    """Make room for what pytest-harvest stores of an execution; return how to undo that.

    It stores the values of a test's fixtures (pytest-evals': its bag) by node ID, and refuses to do
    so twice. Relies on its ``FIXTURE_STORE``: for each fixture a dict by node ID.
    """
    store: dict[str, Any] = getattr(sys.modules.get("pytest_harvest.plugin"), "FIXTURE_STORE", {})
    before = {name: kept.pop(item.nodeid) for name, kept in store.items() if item.nodeid in kept}

    def undo() -> None:
        for name, kept in store.items():
            kept.pop(item.nodeid, None)
            if name in before:
                kept[item.nodeid] = before[name]

    return undo

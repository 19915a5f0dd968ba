"""Beside pytest-html: one row per verdict, and nothing of parked attempts."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from typing import Any

import pytest
from support.suite import Suite

pytest.importorskip("pytest_html", reason="pytest-html is not installed")

SOURCE = """
@pytest.mark.langasync
def test_two_waves():
    print("said once")
    assert ask("judge " + ask("question"))

@pytest.mark.langasync
def test_fails():
    assert ask("another question") == "<script>alert(1)</script>"

@pytest.mark.langasync(repeats=2, min_pass_rate=0.5)
def test_misses(request):
    assert ask("hello") and "repeat2" not in request.node.name, "the second"

def test_plain():
    pass
"""


def rows(suite: Suite) -> dict[str, list[dict[str, Any]]]:
    """Return the report's rows by test name."""
    page = (suite.path / "out.html").read_text()
    found = re.search(r'data-jsonblob="([^"]*)"', page)
    assert found, page[:500]
    tests: dict[str, list[dict[str, Any]]] = json.loads(html.unescape(found[1]))["tests"]
    return tests


@pytest.fixture(autouse=True)
def pytest_html(suite: Suite) -> None:
    suite.use("pytest_html.plugin", "pytest_html.fixtures", "pytest_metadata.plugin")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_row_for_each_verdict(suite: Suite, workers: str) -> None:
    suite.write(SOURCE)
    result = suite.run("--html=out.html", "--self-contained-html", f"-n{workers}")
    assert result.ret == 1
    tests = rows(suite)
    assert sorted(name.partition("::")[2] for name in tests) == [
        "test_fails", "test_misses[repeat1]", "test_misses[repeat2]", "test_plain",
        "test_two_waves",
    ]  # fmt: skip
    assert {len(found) for found in tests.values()} == {1}, "a parked attempt leaves no row"
    outcomes = Counter(found[0]["result"] for found in tests.values())
    assert outcomes == {"Passed": 3, "Failed": 1, "Skipped": 1}
    waves = next(found[0] for name, found in tests.items() if name.endswith("two_waves"))
    assert waves["log"].count("said once") == 1
    page = (suite.path / "out.html").read_text()
    assert "<script>alert(1)" not in page, "what a model is compared with is data"


def test_deferred(suite: Suite) -> None:
    suite.write(SOURCE)
    late = ("--langasync-sandbox-latency=1h", "--langasync-timeout=0")
    assert suite.run("--html=out.html", "--self-contained-html", *late).ret == 75
    waiting = [found[0] for name, found in rows(suite).items() if "plain" not in name]
    assert len(waiting) == 4 and {row["result"] for row in waiting} == {"Skipped"}
    assert all("waiting for batch_" in row["log"] for row in waiting)

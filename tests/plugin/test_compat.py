"""Works with: the verdicts of batch mode are those of real time, whatever pytest is asked to do."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from support.suite import Suite

from pytest_langasync.sandbox import Sandbox

BATCH = "--langasync-batch"


@pytest.fixture(autouse=True)
def all_plugins(suite: Suite) -> None:
    """Load what is installed, as at a user's."""
    suite.use_all()


MANY = """
import unittest

pytestmark = pytest.mark.langasync

@pytest.mark.parametrize("n", range(3))
def test_parametrized(n):
    assert ask(f"number {n}") and n != 1

class TestClass:
    def setup_method(self):
        assert not hasattr(self, "answer")
        self.asked = []

    def test_instance_is_fresh(self):
        assert self.asked == []
        self.asked.append(1)
        self.answer = ask("in a class")
        assert self.asked == [1]

class TestUnit(unittest.TestCase):
    def setUp(self):
        self.counted = 0

    def test_one(self):
        self.counted += 1
        self.assertIn("unit", ask("unit"))
        self.assertEqual(self.counted, 1)

    def test_subtests(self):
        for n in range(3):
            with self.subTest(n=n):
                self.assertIn("sub", ask(f"sub {n}"))
                self.assertNotEqual(n, 1)

    @unittest.expectedFailure
    def test_expected(self):
        self.assertEqual(ask("expected"), "")

    @unittest.skip("not now")
    def test_skipped(self):
        ask("never")

def test_subtests(subtests):
    for n in range(3):
        with subtests.test(n=n):
            assert ask(f"subtest {n}") and n != 2

@pytest.mark.skip
def test_skipped():
    ask("never")

def test_skips():
    if ask("skip?"):
        pytest.skip("because")

@pytest.mark.xfail
def test_xfail():
    assert not ask("xfail")

@pytest.mark.xfail
def test_xpass():
    assert ask("xpass")

@pytest.mark.xfail(strict=True)
def test_strict():
    assert ask("strict")

@pytest.fixture
def broken(request):
    ask("broken")
    request.addfinalizer(lambda: 1 / 0)

def test_teardown_fails(broken):
    ask("torn")

@pytest.fixture
def fails():
    assert not ask("fails")

def test_setup_fails(fails):
    pass
"""


def counts(result: pytest.RunResult) -> dict[str, int]:
    return {k: v for k, v in result.parseoutcomes().items() if "warning" not in k}


def shown(result: pytest.RunResult) -> list[str]:
    """Return the lines that ``-v`` writes of verdicts, without their order."""
    return sorted(re.findall(r"^(test_\S+.*?) +\[ *\d+%\]", result.stdout.str(), re.MULTILINE))


def cases(suite: Suite, name: str) -> list[tuple[str, ...]]:
    """Return what a JUnit file says of each test: name and kinds of outcome."""
    found = ElementTree.parse(suite.path / name).getroot().iter("testcase")
    return sorted(
        (f"{c.get('classname')}.{c.get('name')}", *sorted(part.tag for part in c)) for c in found
    )


def test_verdicts_equal_those_of_real_time(suite: Suite, provider: Sandbox) -> None:
    suite.write(MANY)
    real = suite.plain("-v", "--junitxml=real.xml")
    before = len(provider.ledger())
    batch = suite.plain("-v", "--junitxml=batch.xml", BATCH)
    assert counts(batch) == counts(real)
    assert {"passed", "failed", "skipped", "xfailed", "xpassed", "errors"} <= counts(real).keys()
    assert shown(batch) == shown(real) != []
    assert cases(suite, "batch.xml") == cases(suite, "real.xml")
    assert len(provider.ledger()) == 2 * before
    again = suite.plain("-v", BATCH)
    assert counts(again) == counts(real)
    rows = provider.ledger()[2 * before :]
    assert rows == [], "a warm run buys nothing"


def test_all_treats_every_test_as_marked(suite: Suite) -> None:
    suite.write(
        "def test_one():\n    assert ask('one')\n\n\ndef test_two():\n    assert ask('two')\n"
    )
    suite.run("--langasync-all").assert_outcomes(passed=2)
    assert suite.waves() == [["one", "two"]]


def test_a_rerun_replays(suite: Suite) -> None:
    pytest.importorskip("pytest_rerunfailures")
    suite.write("""
@pytest.mark.langasync
def test_never():
    trace("never")
    assert not ask("never")

@pytest.mark.langasync
@pytest.mark.flaky(reruns=1)
def test_flaky():
    trace("flaky")
    ask("flaky")
    assert open("trace.txt").read().count("flaky") > 2
""")
    result = suite.run("--reruns=2")
    assert counts(result) == {"passed": 1, "failed": 1, "rerun": 3}
    assert suite.traced().count("never") == 4, "parked once, then run and rerun twice"
    assert suite.waves() == [["flaky", "never"]]


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_timeouts(suite: Suite, method: str) -> None:
    pytest.importorskip("pytest_timeout")
    suite.write("""
@pytest.mark.langasync
def test_quick():
    assert ask("quick")
""")
    suite.run("--timeout=60", f"--timeout-method={method}").assert_outcomes(passed=1)


def test_a_time_out_fails_its_test_only(suite: Suite) -> None:
    pytest.importorskip("pytest_timeout")
    suite.write("""
import threading

@pytest.mark.langasync
@pytest.mark.timeout(1, method="signal")
def test_hangs():
    threading.Event().wait()

@pytest.mark.langasync
def test_other():
    assert ask("other")
""")
    result = suite.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Timeout*"])


def test_random_order(suite: Suite) -> None:
    pytest.importorskip("pytest_randomly")
    suite.write("""
import random

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(6))
def test_it(n):
    assert ask(f"number {n}, draw {random.random()}")
""")
    for seed in ("1", "1", "2"):
        args = ("--langasync-sandbox", f"--randomly-seed={seed}")
        suite.pytester.runpytest_inprocess(*args).assert_outcomes(passed=6)
    assert [len(wave) for wave in suite.waves()] == [6, 6], "one order, one set of requests"


def test_doctests_run_beside(suite: Suite) -> None:
    suite.write('''
def double(n):
    """Double.

    >>> double(2)
    4
    """
    return 2 * n

@pytest.mark.langasync
def test_it():
    assert ask("question")
''')
    suite.run("--doctest-modules").assert_outcomes(passed=2)


def test_coverage_counts_the_replayed_run(suite: Suite) -> None:
    pytest.importorskip("pytest_cov")
    suite.write("""
@pytest.mark.langasync
def test_it():
    answer = ask("question")
    assert answer.upper()
""")
    result = suite.run("--cov=.", "--cov-report=term-missing")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_it.py *100%*"])


def test_debugger_does_not_open_for_a_parked_test(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
def test_it():
    assert ask("question")
""")
    suite.run("--pdb").assert_outcomes(passed=1)


def test_without_the_cache_plugin_and_terminal(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
def test_it():
    assert ask("question")
""")
    suite.run("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert suite.run("-p", "no:terminal").ret == 0

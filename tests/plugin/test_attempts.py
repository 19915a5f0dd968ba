"""Attempts: how often a test runs, what is bought in which wave, and what of it is seen."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from support.suite import Suite

TWO = """
@pytest.mark.langasync
def test_judged():
    trace("judged")
    answer = ask("capital of France")
    assert "judge" in ask("judge " + answer)

@pytest.mark.langasync
def test_one():
    trace("one")
    assert ask("capital of Spain")

def test_plain():
    trace("plain")
"""


def test_a_cold_run_executes_twice_and_a_warm_one_once(suite: Suite) -> None:
    suite.write(TWO)
    suite.run().assert_outcomes(passed=3)
    assert Counter(suite.traced()) == {"judged": 3, "one": 2, "plain": 1}
    first, second = suite.waves()
    assert first == ["capital of France", "capital of Spain"]
    assert len(second) == 1 and second[0].startswith("judge ")
    suite.run().assert_outcomes(passed=3)
    assert Counter(suite.traced()) == {"judged": 1, "one": 1, "plain": 1}
    assert len(suite.ledger()) == 3


def test_dependent_calls_take_a_wave_each(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
def test_chain(langasync):
    trace(f"attempt {langasync.attempt}")
    answer = "start"
    for step in range(5):
        answer = ask(f"step {step} after {answer[-20:]}")
""")
    suite.run().assert_outcomes(passed=1)
    assert suite.traced() == [f"attempt {n}" for n in range(1, 7)]
    assert [len(wave) for wave in suite.waves()] == [1] * 5


def test_attempt_is_one_without_batch_mode(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
def test_it(langasync):
    assert langasync.attempt == 1
""")
    suite.plain().assert_outcomes(passed=1)


def test_independent_calls_are_one_job(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(30))
def test_it(n):
    assert str(n) in ask(f"number {n}")
""")
    suite.run().assert_outcomes(passed=30)
    assert [len(wave) for wave in suite.waves()] == [30]


def test_tests_that_ask_the_same_get_samples_of_their_own(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(3))
def test_it(n):
    assert ask("same") and ask("same")
""")
    suite.run().assert_outcomes(passed=3)
    assert len(suite.ledger()) == 6
    suite.run().assert_outcomes(passed=3)
    assert len(suite.ledger()) == 6


def test_each_test_is_shown_once_and_in_order(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(6))
def test_it(n):
    ask(f"number {n}")
    if n % 2:
        ask(f"again {n}")
    assert n != 3
""")
    result = suite.run("-v", "-rA", "--durations=0", "-vv")
    result.assert_outcomes(passed=5, failed=1)
    output = result.stdout.str()
    shown = re.findall(r"^test_it.py::test_it\[(\d)\] (PASSED|FAILED)", output, re.MULTILINE)
    assert [n for n, _ in shown] == ["0", "2", "4", "1", "3", "5"]
    assert re.findall(r"^PASSED (.+)$", output, re.MULTILINE) == [
        f"test_it.py::test_it[{n}]" for n in (0, 2, 4, 1, 5)
    ]
    durations = re.findall(r"s call +test_it.py::test_it\[(\d)\]", output)
    assert sorted(durations) == list("012345")
    assert re.search(r"\[ *100%\]", output)


def test_only_the_last_attempt_is_captured(suite: Suite) -> None:
    suite.write("""
import logging
import sys
import warnings

@pytest.fixture
def setting(langasync):
    print(f"setup {langasync.attempt}")
    yield
    print(f"teardown {langasync.attempt}")

@pytest.mark.langasync
def test_it(langasync, setting, record_property):
    print(f"out {langasync.attempt}")
    print(f"err {langasync.attempt}", file=sys.stderr)
    logging.getLogger().warning(f"log {langasync.attempt}")
    warnings.warn(f"warned {langasync.attempt}")
    record_property("attempt", langasync.attempt)
    ask("question")
    assert False
""")
    result = suite.run("--junitxml=report.xml", "-o", "junit_family=xunit1")
    result.assert_outcomes(failed=1, warnings=1)
    output = result.stdout.str()
    assert output.count("Captured stdout call") == 1
    for word in ("out", "err", "warned", "setup", "teardown"):
        assert f"{word} 2" in output
        assert f"{word} 1" not in output
    assert len(re.findall(r"WARNING .*log 2", output)) == 1 and "log 1" not in output
    cases = ElementTree.parse(suite.path / "report.xml").getroot().findall(".//testcase")
    assert len(cases) == 1
    properties = [(p.get("name"), p.get("value")) for p in cases[0].iter("property")]
    assert [value for name, value in properties if name == "attempt"] == ["2"]
    assert len({name for name, _ in properties}) == len(properties), "each once"


def test_a_warning_is_shown_once(suite: Suite) -> None:
    suite.write("""
import warnings

@pytest.mark.langasync
def test_it():
    warnings.warn("old news")
    ask("question")
""")
    result = suite.run()
    result.assert_outcomes(passed=1, warnings=1)
    assert result.stdout.str().count("UserWarning: old news") == 1


def test_nothing_is_patched_or_written_without_a_flag(suite: Suite) -> None:
    suite.write("""
import httpx
import httpx2
import threading

@pytest.mark.langasync
def test_it():
    for owner in (httpx.Client, httpx2.Client, httpx.AsyncClient, httpx2.AsyncClient):
        assert not hasattr(owner.send, "__wrapped__")
    assert not hasattr(threading.Thread.start, "__wrapped__")
""")
    result = suite.plain()
    result.assert_outcomes(passed=1)
    assert "langasync" not in result.stdout.str().split("collected")[1]
    assert not (suite.path / ".langasync").exists()


@pytest.mark.parametrize("capture", ["-s", "--capture=sys", "--capture=tee-sys"])
def test_capture_modes(suite: Suite, capture: str) -> None:
    suite.write(TWO)
    suite.run(capture).assert_outcomes(passed=3)


def test_output_fixtures_start_afresh(suite: Suite) -> None:
    suite.write("""
import logging
import os

@pytest.mark.langasync
def test_it(langasync, capsys, caplog, monkeypatch, tmp_path):
    assert "LANGASYNC_PROBE" not in os.environ
    monkeypatch.setenv("LANGASYNC_PROBE", "1")
    logging.getLogger().warning("once")
    print("said")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    ask("question")
    assert capsys.readouterr().out == "said\\n"
    assert [r.message for r in caplog.records if r.name == "root"] == ["once"]
""")
    suite.run().assert_outcomes(passed=1)


def test_a_failing_report_shows_the_calls(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
def test_it():
    assert ask("question") == "something else"
""")
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*langasync calls*", "*question*"])


def test_stopped_in_the_first_pass_nothing_is_sent(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    ask(f"number {n}")

def test_fails():
    assert False

@pytest.mark.langasync
def test_late():
    ask("late")
""")
    for option in ("-x", "--maxfail=1", "--sw"):
        result = suite.run(option)
        result.assert_outcomes(failed=1)
        assert suite.ledger() == []
        result.stdout.fnmatch_lines(["*4 tests were still parked*"])
        assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)


def test_stopped_in_a_wave_the_parked_are_counted(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(5))
def test_it(n):
    ask(f"number {n}")
    assert n != 1
""")
    result = suite.run("-x")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*3 tests were still parked; nothing more was sent*"])
    assert len(suite.ledger()) == 5
    result = suite.run("--sw", "--langasync-cache-dir=other")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*3 tests were still parked*"])
    suite.run("--maxfail=2").assert_outcomes(passed=4, failed=1)
    assert len(suite.ledger()) == 5


def test_left_by_pytest_exit_the_parked_are_counted(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
def test_it(): ask("hello")

def test_leaves(): pytest.exit("bye")
""")
    for options in ((), ("-n1",)):
        result = suite.run(*options)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        line = "stopped: 1 test was still parked; nothing more was sent"
        result.stdout.fnmatch_lines([line])
        assert suite.ledger() == []


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--setup-only"])
def test_looking_sends_nothing(suite: Suite, option: str) -> None:
    suite.write("""
@pytest.fixture(scope="module")
def answer():
    return ask("fixture")

@pytest.mark.langasync
def test_it(answer):
    ask("question")
""")
    result = suite.run(option)
    assert suite.ledger() == []
    assert "failed" not in result.parseoutcomes() and "errors" not in result.parseoutcomes()
    assert "run the same command again" not in result.stdout.str()
    if option == "--setup-only":
        result.stdout.fnmatch_lines(["  --setup-only and --setup-plan send nothing"])
    else:
        assert "- langasync -" not in result.stdout.str()


def test_selection(suite: Suite) -> None:
    suite.write(TWO)
    suite.run("-k", "one").assert_outcomes(passed=1, deselected=2)
    assert suite.waves() == [["capital of Spain"]]
    suite.run("-m", "langasync").assert_outcomes(passed=2, deselected=1)
    assert len(suite.ledger()) == 3


def test_last_failed_and_stepwise(suite: Suite) -> None:
    suite.write("""
import pathlib

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    ask(f"number {n}")
    assert n not in (1, 2) or pathlib.Path("fixed").exists()
""")
    suite.run().assert_outcomes(passed=2, failed=2)
    suite.run("--lf").assert_outcomes(failed=2)
    result = suite.run("--ff", "-v")
    result.assert_outcomes(passed=2, failed=2)
    shown = re.findall(r"test_it\[(\d)\] (?:PASSED|FAILED)", result.stdout.str())
    assert shown == ["1", "2", "0", "3"]
    suite.run("--sw").assert_outcomes(passed=1, failed=1)
    (suite.path / "fixed").touch()
    suite.run("--sw").assert_outcomes(passed=3, deselected=1)
    assert len(suite.ledger()) == 4
    suite.run("-p", "no:cacheprovider").assert_outcomes(passed=4)

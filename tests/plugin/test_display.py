"""What the person sees: progress in a log and on a terminal, Ctrl-C, a failing test's calls."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from support.suite import (
    BATCH,
    CLAUDE,
    LATER,
    LEAVE,
    ONE_STEP,
    SLOW,
    TWO_STEPS,
    Suite,
    end_jobs,
    jobs_in,
    output,
)

from pytest_langasync.config import CLOCK
from pytest_langasync.plugin.terminal import Reporter
from pytest_langasync.sandbox import Sandbox

assert anthropic and openai  # imported here once, not anew by each run inside this process


def told(result: pytest.RunResult) -> list[str]:
    """Return the lines of progress, job IDs and elapsed times left out."""
    lines = [one for one in result.outlines if one.startswith("langasync: ")]
    return [re.sub(r"batch_[0-9a-f]{24}", "batch", re.sub(r"\d+s$", "Ns", one)) for one in lines]


class TestLog:
    """Without a terminal: one line per change, and a heartbeat."""

    def test_lines(self, suite: Suite) -> None:
        suite.write(TWO_STEPS + ONE_STEP + CLAUDE)
        assert sorted(told(suite.run())[:7]) == [
            "langasync: collected answers of batch openai gpt-4o-mini 2 requests after Ns",
            "langasync: collected answers of msgbatch anthropic claude-sonnet-4-5 1 request"
            " after Ns",
            "langasync: gathered 3 requests: wave 1, 3 tests",
            "langasync: submitted batch openai gpt-4o-mini 2 requests",
            "langasync: submitted msgbatch anthropic claude-sonnet-4-5 1 request",
            "langasync: uploading anthropic claude-sonnet-4-5 1 request",
            "langasync: uploading openai gpt-4o-mini 2 requests",
        ]
        assert told(suite.run()) == [], "nothing happens in a warm run"

    def test_second_wave(self, suite: Suite) -> None:
        suite.write(TWO_STEPS)
        lines = told(suite.run())
        assert lines[4] == "langasync: gathered 1 request: wave 2, 1 test" and len(lines) == 8

    def test_heartbeat(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An hour in which nothing changes: the waiting loop's ticks reach the log."""
        suite.write(ONE_STEP)
        provider.set_faults({"batch": [{"latency": 3600.0}]})
        shift, tick = [0.0], Reporter.tick

        def clock() -> float:
            return CLOCK.now() + shift[0]

        def ticked(self: Reporter) -> None:
            shift[0] += 60.0
            tick(self)
            if shift[0] >= 3600.0:
                end_jobs(provider)

        monkeypatch.setattr("pytest_langasync.plugin.terminal.Reporter.tick", ticked)
        shifted = SimpleNamespace(now=clock, timer=CLOCK.timer)
        monkeypatch.setattr("pytest_langasync.plugin.terminal.CLOCK", shifted)
        result = suite.plain(*BATCH)
        assert result.ret == 0
        beats = re.findall(r"langasync: batch_\w+ in_progress 0/1 after (\w+)", result.stdout.str())
        assert 15 < len(beats) < 40


def test_nothing_without_the_flag(suite: Suite) -> None:
    suite.write("@pytest.mark.langasync\ndef test_it(langasync): assert langasync.attempt == 1\n")
    result = suite.plain()
    assert result.ret == 0 and not (suite.path / ".langasync").exists()
    assert not [line for line in result.outlines if line.startswith("langasync")]


class Terminal:
    """A run on a pseudo-terminal of 100 columns."""

    def __init__(self, suite: Suite, *args: str) -> None:
        self._mine, theirs = pty.openpty()
        command = [sys.executable, "-m", "pytest", "-p", "no:randomly", *args]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
        self.process = subprocess.Popen(
            command, cwd=suite.path, env=environment, preexec_fn=lambda: os.login_tty(theirs)
        )
        os.close(theirs)
        self.seen = ""

    def until(self, pattern: str, seconds: float = 60.0) -> None:
        """Read until the pattern was seen, or the run has ended."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            if not select.select([self._mine], [], [], 1.0)[0]:
                continue
            try:
                self.seen += os.read(self._mine, 65536).decode()
            except OSError:  # the other side is closed
                raise AssertionError(f"{pattern!r} did not come:\n{self.seen}") from None

    def press_ctrl_c(self) -> None:
        """Do as the person does."""
        os.write(self._mine, b"\x03")

    def end(self) -> int:
        """Read to the end; return the exit status."""
        try:
            while data := os.read(self._mine, 65536):
                self.seen += data.decode()
        except OSError:
            os.close(self._mine)
        return self.process.wait()


class TestTerminal:
    """On a terminal: a live table; Ctrl-C once leaves the jobs running and says how to resume."""

    def test_live(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP + CLAUDE)
        provider.set_faults(SLOW)
        terminal = Terminal(suite, *BATCH)
        terminal.until(r"gathering: \d tests? waits? for answers")
        terminal.until(r"langasync: gathered 2 requests: wave 1, 2 tests")
        terminal.until(r"openai gpt-4o-mini .*in_progress 0/1.*batch_")
        terminal.until(r"anthropic claude-sonnet-4-5 .*in_progress 0/1.*msgbatch_")
        terminal.until(r"\x1b\[\d*A")  # the table is drawn over, not again below
        end_jobs(provider)
        assert terminal.end() == 0
        assert "collected answers of batch_" in terminal.seen
        assert "2 passed" in terminal.seen
        assert terminal.seen.count("\x1b[?25l") == terminal.seen.count("\x1b[?25h") > 0

    def test_ctrl_c(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP + CLAUDE)
        provider.set_faults(SLOW)
        terminal = Terminal(suite, *BATCH)
        terminal.until(r"anthropic claude-sonnet-4-5 .*in_progress 0/1")
        terminal.press_ctrl_c()
        assert terminal.end() == 2
        jobs = jobs_in(suite.path / ".langasync")
        assert "interrupted; 2 jobs go on at the provider" in terminal.seen
        assert all(f"--langasync-resume={job}" in terminal.seen for job in jobs)
        assert "Traceback" not in terminal.seen and "\x1b[?25h" in terminal.seen
        assert not [what for what in provider.requests() if what.endswith("/cancel")]
        end_jobs(provider)
        assert suite.plain(*BATCH).ret == 0 and len(provider.ledger()) == 2


class TestFailure:
    """A failing test shows its calls."""

    def test_section(self, suite: Suite) -> None:
        suite.pytester.makeconftest(
            "import pytest\n"
            "@pytest.hookimpl(optionalhook=True)\n"
            "def pytest_langasync_sandbox_reply(request):\n"
            "    if 'hostile' in request.prompt:\n"
            "        return 'ok \\x1b]0;owned\\x07\\x1b[31m ' + 'long ' * 900\n"
        )
        suite.write(
            "@pytest.mark.langasync\ndef test_bad():\n"
            "    assert ask('first') and ask('hostile') is None\n"
            "@pytest.mark.langasync\ndef test_good(): assert ask('fine')\n"
            "@pytest.mark.langasync\ndef test_error(): ask('[[status:400]]')\n"
        )
        result = suite.run("--tb=no", "-rN", "--show-capture=all")
        result = suite.run("--tb=short")  # the second run answers from the cache
        text = output(result)
        sections = text.split("langasync calls")[1:]
        assert len(sections) == 2, "a test that passed shows nothing"
        bad, error = sections
        lines = bad.splitlines()
        assert re.match(
            r"\[1\] gpt-4o-mini, /chat/completions, batch_\w{24}, cache, \d+s old", lines[1]
        )
        assert lines[2] == "    asked     first"
        assert lines[3] == "    answered  Sandbox answer to: first"
        assert lines[5] == "    asked     hostile"
        assert "\\x1b]0;owned\\x07\\x1b[31m long" in lines[6] and "\x1b" not in bad
        assert re.search(r"… \[[\d,]+ characters left out\] …", lines[6]) and len(lines[6]) < 750
        assert re.search(r"status 400, batch_\w{24}, cache, \d+s old", error)
        assert "answered  invalid_request_error: The prompt asked for status 400" in error


def test_one_age_for_one_answer(suite: Suite) -> None:
    """However long the run takes, an answer is as old as it was when the run began."""
    suite.write("@pytest.mark.langasync\ndef test_it(): assert ask('hello')\n")
    suite.run()
    time.sleep(1.0)
    suite.write(
        "import time\n@pytest.mark.langasync\n"
        "def test_it(): assert time.sleep(3) or ask('hello') == 'no'\n"
    )
    text = output(suite.run())
    (told,) = re.findall(r"answers are (\w+) old", text)
    assert re.findall(r", cache, (\w+) old", text) == [told]


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        (
            {"batch": [{"failure": "token_limit_exceeded", "count": 0}]},
            "1 call not sent: the provider has no room for more at the moment",
        ),
        (
            {
                "http": [
                    {"path": "POST /v1/batches", "reset": True, "after": True, "count": 0},
                    {"path": "GET /v1/batches", "nth": 3, "status": 503, "count": 0},
                ]
            },
            "1 call in a submission whose outcome is open: python -m pytest_langasync doctor",
        ),
    ],
    ids=["no room", "in doubt"],
)
def test_what_a_call_waits_for_that_is_in_no_job(
    suite: Suite, provider: Sandbox, faults: dict[str, Any], says: str
) -> None:
    suite.write(ONE_STEP)
    provider.set_faults(faults)
    result = suite.plain(*LEAVE)
    assert result.ret == 75 and f"  {says}" in result.outlines, output(result)


def test_each_deferred_test_with_rs(suite: Suite) -> None:
    suite.write(ONE_STEP + TWO_STEPS)
    short, long = suite.run(*LATER), suite.run(*LATER, "-rs")
    assert "test_it.py::test_plain: waiting for batch_" not in output(short)
    for name in ("test_plain", "test_judged"):
        assert f"  test_it.py::{name}: waiting for batch_" in output(long)


@pytest.mark.parametrize("options", [(), ("--showlocals", "-vv"), ("-n1",)], ids=str)
def test_what_a_model_wrote_does_not_control_the_terminal(
    suite: Suite, options: tuple[str, ...]
) -> None:
    suite.pytester.makeconftest(
        "def pytest_langasync_sandbox_reply(request): return 'evil \\x1b]0;owned\\x07\\x1b[31m'\n"
    )
    suite.write("""
@pytest.mark.langasync
def test_compared():
    said = ask("hello")
    assert said == "good"

@pytest.mark.langasync
def test_raised():
    try:
        raise ValueError(ask("hello"))
    except ValueError as error:
        raise RuntimeError("because of\\n" + str(error))
""")
    result = suite.run(*options)
    result.assert_outcomes(failed=2)
    text = result.stdout.str() + result.stderr.str()
    assert "evil \\x1b]0;owned\\x07\\x1b[31m" in text and "\x1b" not in text and "\x07" not in text

"""Offline, real time, errors: what each test gets to see."""

from __future__ import annotations

import os
import socket
from typing import Any

import anthropic
import openai
import pytest
from support.suite import BATCH, CLAUDE, ONE_STEP, TWO_STEPS, Suite, let_end, output, verdict

from pytest_langasync.sandbox import Sandbox

assert anthropic and openai  # imported here once, not anew by each run inside this process

MADE_AT_IMPORT = """
import anthropic
import openai

OPENAI, ANTHROPIC = openai.OpenAI(), anthropic.Anthropic()

def say(text):
    message = [{"role": "user", "content": text}]
    return OPENAI.chat.completions.create(model="gpt-4o-mini", messages=message)

def claude(text):
    message = [{"role": "user", "content": text}]
    return ANTHROPIC.messages.create(model="claude-opus-4-5", max_tokens=9, messages=message)
"""
STREAMED = """
import openai

@pytest.mark.langasync
def test_stream():
    client = openai.OpenAI()
    with client.chat.completions.stream(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Stream this"}]
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
    assert "Stream this" in "".join(pieces)
"""


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no socket connect, and leave no key in the environment."""

    def refuse(*_: Any) -> None:
        raise AssertionError("offline runs open no connection")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


class TestOffline:
    """``--langasync-offline``: the cache alone."""

    def test_a_fork_without_keys(
        self, suite: Suite, provider: Sandbox, request: pytest.FixtureRequest
    ) -> None:
        suite.pytester.makeconftest(MADE_AT_IMPORT)
        suite.write(
            "from conftest import claude, say\n"
            "@pytest.mark.langasync\n"
            "def test_both(): assert say('one').choices and claude('two').content\n"
        )
        assert suite.plain(*BATCH).ret == 0
        bought = len(provider.ledger())
        request.getfixturevalue("unplugged")
        result = suite.plain("--langasync-offline")
        assert verdict(result) == {"passed": 1} and result.ret == 0
        assert len(provider.ledger()) == bought == 2

    def test_a_miss_shows_the_nearest(
        self, suite: Suite, provider: Sandbox, request: pytest.FixtureRequest
    ) -> None:
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        suite.write(ONE_STEP.replace("capital of Spain?", "largest city of Spain?"))
        request.getfixturevalue("unplugged")
        result = suite.plain("--langasync-offline", "-rs")
        assert result.ret == 75 and verdict(result) == {"deferred": 1}
        result.stdout.fnmatch_lines(
            ["*nearest stored request (batch_*", "*capital of Spain*→*largest city*"]
        )
        assert provider.requests()["POST /v1/batches"] == 1

    def test_what_is_shown_cannot_control_the_terminal(
        self, suite: Suite, provider: Sandbox, request: pytest.FixtureRequest
    ) -> None:
        suite.write(ONE_STEP.replace("Spain?", "Spain\\x1b]0;owned\\x07?"))
        suite.plain(*BATCH)
        suite.write(ONE_STEP)
        request.getfixturevalue("unplugged")
        text = output(suite.plain("--langasync-offline"))
        assert "Spain" in text and "\x1b]0" not in text and "\x07" not in text

    def test_an_empty_cache(self, suite: Suite, unplugged: None) -> None:
        suite.write(ONE_STEP)
        result = suite.plain("--langasync-offline")
        assert result.ret == 75
        assert "no request of this test is stored" in output(result)
        assert not (suite.path / ".langasync").exists()

    def test_too_old_is_said(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        result = suite.plain("--langasync-offline", "--langasync-max-age=0")
        assert result.ret == 75 and "is too old" in output(result)

    def test_another_base_url_is_said(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        result = suite.plain("--langasync-offline")
        assert result.ret == 75
        assert f"sent to {provider.url}/v1, not to http://127.0.0.1:9/v1" in output(result)

    def test_another_header_is_said(self, suite: Suite, provider: Sandbox) -> None:
        claude = (
            "import anthropic\n@pytest.mark.langasync\ndef test_it():\n"
            "    message = [{'role': 'user', 'content': 'hello'}]\n"
            "    client = anthropic.Anthropic(default_headers={'anthropic-beta': 'BETA'})\n"
            "    client.messages.create(model='claude-opus-4-5', max_tokens=9, messages=message)\n"
        )
        suite.write(claude.replace("BETA", "context-1m-2025-08-07"))
        suite.plain(*BATCH)
        suite.write(claude.replace("BETA", "files-api-2025-04-14"))
        result = suite.plain("--langasync-offline")
        assert result.ret == 75 and "but sent with another anthropic-beta" in output(result)

    def test_another_sample_is_said(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        suite.write(ONE_STEP.replace("assert", "ask('What is the capital of Spain?'); assert"))
        result = suite.plain("--langasync-offline")
        assert result.ret == 75 and "but for another sample" in output(result)

    def test_placeholders_are_taken_back(self, suite: Suite, unplugged: None) -> None:
        suite.pytester.makeconftest(MADE_AT_IMPORT)
        suite.write("import os\ndef test_it(): assert os.environ['OPENAI_API_KEY']\n")
        assert suite.plain("--langasync-offline").ret == 0
        suite.pytester.makeconftest("")
        assert suite.plain().ret == 1


class TestRealTime:
    """``--langasync-realtime`` and the marker's ``realtime=True``: now, and kept."""

    def test_recorded_priced_and_cached(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(TWO_STEPS + CLAUDE)
        result = suite.plain("--langasync-realtime")
        assert result.ret == 0
        result.stdout.fnmatch_lines(["*real time*", "*saved $0.00 *"])
        assert [row["job_id"] for row in provider.ledger()] == ["", "", ""]
        again = suite.plain(*BATCH)
        assert again.ret == 0 and len(provider.ledger()) == 3
        again.stdout.fnmatch_lines(["*cache*", "nothing was bought: answers are *"])
        assert provider.requests()["POST /v1/batches"] == 0

    def test_streams(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(STREAMED)
        assert suite.plain("--langasync-realtime").ret == 0
        assert suite.plain(*BATCH).ret == 0
        assert len(provider.ledger()) == 1

    def test_the_sdk_retries(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(
            "import openai\n@pytest.mark.langasync\ndef test_it():\n"
            "    message = [{'role': 'user', 'content': 'hello [[status:429x2]]'}]\n"
            "    client = openai.OpenAI(max_retries=2)\n"
            "    assert client.chat.completions.create(model='gpt-4o', messages=message).choices\n"
        )
        assert suite.plain("--langasync-realtime").ret == 0
        assert [row["status"] for row in provider.ledger()] == [429, 429, 200]
        assert suite.plain(*BATCH).ret == 0
        assert len(provider.ledger()) == 3

    def test_the_marker(self, suite: Suite) -> None:
        suite.write(
            ONE_STEP + "@pytest.mark.langasync(realtime=True)\n"
            "def test_urgent(): assert 'now' in ask('now')\n"
        )
        result = suite.run("--langasync-sandbox-latency=1h", "--langasync-timeout=0")
        assert verdict(result) == {"passed": 1, "deferred": 1}
        assert [row["job_id"] for row in suite.ledger()] == [""]
        let_end(suite.provider)
        assert suite.run().ret == 0 and len(suite.ledger()) == 2


class TestErrors:
    """An error that may pass is an answer for one verdict."""

    FAILS = """
@pytest.mark.langasync(max_retries=0)
def test_it():
    trace("run")
    ask("hello [[status:429x1]]")
"""

    def test_the_next_run_asks_again(self, suite: Suite) -> None:
        suite.write(self.FAILS)
        assert verdict(suite.run()) == {"failed": 1}
        assert verdict(suite.run()) == {"passed": 1}
        assert [row["status"] for row in suite.ledger()] == [429, 200]
        assert suite.run().ret == 0 and len(suite.ledger()) == 2

    def test_an_error_that_nobody_saw_is_kept(self, suite: Suite) -> None:
        suite.write(
            "@pytest.mark.langasync\ndef test_it():\n"
            "    try:\n        ask('hello [[status:400]]')\n"
            "    except Exception:\n        assert ask('second')\n"
        )
        later = ("--langasync-sandbox-latency=1h", "--langasync-timeout=0")
        for expected in ({"deferred": 1}, {"deferred": 1}, {"passed": 1}):
            assert verdict(suite.run(*later)) == expected
            let_end(suite.provider)
        assert [row["status"] for row in suite.ledger()] == [400, 200]

    def test_a_retry_loop_opens_no_wave(self, suite: Suite) -> None:
        suite.write(
            "import openai\n@pytest.mark.langasync\ndef test_it():\n"
            "    for number in range(5):\n"
            "        with pytest.raises(openai.BadRequestError):\n"
            "            ask('hello [[status:400]]')\n"
        )
        assert suite.run().ret == 0
        assert len(suite.ledger()) == 1

    @pytest.mark.parametrize(
        ("status", "name"),
        [(400, "BadRequestError"), (404, "NotFoundError"), (429, "RateLimitError")],
    )
    def test_the_sdks_own_exception_at_once(self, suite: Suite, status: int, name: str) -> None:
        suite.write(
            f"""
import anthropic, openai, time

@pytest.mark.langasync(max_retries=0)
def test_openai():
    start = time.monotonic()
    with pytest.raises(openai.{name}) as caught:
        openai.OpenAI(max_retries=5).chat.completions.create(
            model="gpt-4o", messages=[{{"role": "user", "content": "[[status:{status}]]"}}])
    assert "The prompt asked for status {status}" in str(caught.value)
    assert caught.value.body["message"] and time.monotonic() - start < 0.4

@pytest.mark.langasync(max_retries=0)
def test_anthropic():
    start = time.monotonic()
    with pytest.raises(anthropic.{name}) as caught:
        anthropic.Anthropic(max_retries=5).messages.create(model="claude-opus-4-5", max_tokens=9,
            messages=[{{"role": "user", "content": "[[status:{status}]]"}}])
    assert "The prompt asked for status {status}" in str(caught.value)
    assert caught.value.body["error"]["type"] and time.monotonic() - start < 0.4
"""
            + ONE_STEP
        )
        assert verdict(suite.run()) == {"passed": 3}
        assert len(suite.ledger()) == 3


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--setup-only"])
def test_nothing_is_sent(suite: Suite, provider: Sandbox, option: str) -> None:
    suite.write(
        "@pytest.fixture(scope='module')\ndef wide(): return ask('wide')\n"
        "@pytest.mark.langasync\ndef test_wide(wide): assert wide\n" + ONE_STEP
    )
    result = suite.plain(*BATCH, option)
    assert result.ret in (0, 75) and not provider.requests()
    assert "Traceback" not in output(result)
    assert not (suite.path / ".langasync").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_proxy_does_not_see_the_sandbox(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.com")
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    suite.write("@pytest.mark.langasync\ndef test_it(): assert ask('hi')\n")
    suite.run(f"-n{workers}").assert_outcomes(passed=1)
    assert "no_proxy" not in os.environ


def test_x_in_the_first_pass_sends_nothing(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP + "def test_zero(): assert 0\n" + TWO_STEPS)
    result = suite.plain(*BATCH, "-x")
    assert result.ret == 1 and not provider.requests()
    assert "parked" in output(result)

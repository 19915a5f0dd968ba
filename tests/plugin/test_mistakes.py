"""Mistakes: each gets one clear line, no traceback, exit status 4, and costs nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import anthropic
import openai
import pytest
from support.suite import BATCH, CLAUDE, ONE_STEP, Suite, jobs_in, one_line, output, verdict

from pytest_langasync.sandbox import Sandbox

PYTHON = sys.executable
"""The real one: nothing is imported yet."""

assert anthropic and openai  # imported here once, not anew by each run inside this process


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--langasync-timeout=soon", "--langasync-timeout: 'soon' is not a duration: give a"),
        ("--langasync-timeout=-5m", "'-5m' is not a duration"),
        ("--langasync-max-age=1y", "--langasync-max-age: '1y' is not a duration"),
        ("--langasync-max-cost=much", "--langasync-max-cost: 'much' is not a number of 0 or more"),
        ("--langasync-max-cost=nan", "'nan' is not a number of 0 or more"),
        ("--langasync-poll-interval=-1", "--langasync-poll-interval: '-1' is not a number"),
        ("--langasync-max-retries=2.5", "'2.5' is not a whole number of 0 or more"),
        ("--langasync-report=run.yaml", "--langasync-report: 'run.yaml' must end in"),
        ("--langasync-offline --langasync-realtime", "contradict each other: give one of them"),
        ("--langasync-offline --langasync-refresh", "contradict each other: give one of them"),
        ("--langasync-sandbox-url=localhost:11434", "-url: 'localhost:11434' is no URL: type one"),
        (
            "--langasync-sandbox-url=http://me:pw@llm:x/v1",
            "-url: 'http://llm:x/v1' is no URL: type",
        ),
        (
            "--langasync-sandbox-url=http://llm/",
            "'http://llm' lacks the path of the API: type http",
        ),
        ("-o langasync_sandbox_url=http://llm", "lacks the path of the API: type http://llm/v1"),
        ("-o langasync_timeout=soon", "langasync_timeout: 'soon' is not a duration"),
        ("-o langasync_samples=none", "langasync_samples: 'none' is not one of per-test, shared"),
        ("-o langasync_all=perhaps", "langasync_all: 'perhaps' is neither true nor false"),
    ],
)
def test_a_wrong_option(suite: Suite, arguments: str, says: str) -> None:
    suite.write(ONE_STEP)
    assert says in one_line(suite.plain(*BATCH, *arguments.split()))
    assert not (suite.path / ".langasync").exists()


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ("priorty='high'", "has no keyword 'priorty': did you mean 'priority'?"),
        ("zzz='red'", "has no keyword 'zzz': it takes priority, realtime"),
        ("priority='urgent'", "priority='urgent' is not one of 'high', 'normal', 'low'"),
        ("realtime='yes'", "realtime='yes' is not True or False"),
        ("max_retries=-1", "max_retries=-1 is not a whole number of 0 or more"),
        ("'high'", "takes keywords only"),
    ],
)
def test_a_wrong_marker(suite: Suite, marker: str, says: str) -> None:
    """It is told on every run, so that a nightly job is not the first to tell."""
    suite.write(f"@pytest.mark.langasync({marker})\ndef test_x(): pass\n")
    for arguments in ((), BATCH):
        line = one_line(suite.plain(*arguments))
        assert says in line and line.startswith("test_it.py::test_x: @pytest.mark.langasync ")
    assert "- langasync -" not in output(suite.plain(*BATCH)), "there is nothing to say in it"


class TestKeys:
    """No key, or one that the provider refuses."""

    @pytest.fixture(autouse=True)
    def no_keys(self, provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            monkeypatch.delenv(name)

    def test_no_key(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP + CLAUDE + "def test_free(): pass\n")
        result = suite.plain(*BATCH)
        line = one_line(result)
        assert line == ("no API key: set ANTHROPIC_API_KEY and OPENAI_API_KEY. Nothing was sent")
        assert verdict(result) == {"passed": 1, "deferred": 2} and not provider.requests()
        assert "run the same command again" not in output(result)
        assert output(result).count("no API key") == 1 and "2 deferred" in result.outlines

    def test_a_client_made_at_import(self, suite: Suite, provider: Sandbox) -> None:
        suite.write("import openai\nclient = openai.OpenAI()\n" + ONE_STEP)
        result = suite.plain(*BATCH)
        assert one_line(result).startswith("no API key: set OPENAI_API_KEY")
        assert "OpenAIError" not in output(result)

    def test_an_expected_complaint_is_no_mistake(self, suite: Suite) -> None:
        suite.write(
            "import openai\n@pytest.mark.langasync\ndef test_it():\n"
            "    with pytest.raises(openai.OpenAIError): openai.OpenAI()\n"
            "@pytest.mark.langasync\ndef test_other():\n"
            "    try: openai.OpenAI()\n"
            "    except openai.OpenAIError: assert 0, 'handled, then failed'\n"
        )
        result = suite.plain(*BATCH)
        assert result.ret == 1 and verdict(result) == {"passed": 1, "failed": 1}

    @pytest.mark.parametrize(
        ("source", "path", "name"),
        [
            (ONE_STEP, "POST /v1/files", "OPENAI_API_KEY"),
            (CLAUDE, "POST /v1/messages/batches", "ANTHROPIC_API_KEY"),
        ],
        ids=["openai", "anthropic"],
    )
    def test_a_refused_key(
        self,
        suite: Suite,
        provider: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
        source: str,
        path: str,
        name: str,
    ) -> None:
        monkeypatch.setenv(name, "sk-mistyped-0123456789")
        suite.write(source)
        provider.set_faults({"http": [{"path": path, "status": 401, "count": 0}]})
        result = suite.plain(*BATCH)
        line = one_line(result)
        assert "refused the API key (HTTP 401): check the key the test uses" in line
        assert provider.url in line and "mistyped" not in output(result)
        assert verdict(result) == {"deferred": 1}
        provider.set_faults({})
        assert suite.plain(*BATCH).ret == 0


class TestServers:
    """Servers that have no batch API, or are not there."""

    def test_no_batch_api(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(
            "@pytest.mark.langasync\n@pytest.mark.parametrize('n', range(3))\n"
            "def test_it(n): assert ask(f'{n}')\n"
        )
        provider.set_faults({"http": [{"path": "GET /v1/batches*", "status": 404, "count": 0}]})
        result = suite.plain(*BATCH)
        assert result.ret == 0 and verdict(result) == {"passed": 3}
        host = provider.url.removeprefix("http://")
        (line,) = [one for one in result.outlines if host in one]
        assert line == f"3 calls to {host} ran in real time: it has no batch API"
        assert [row["job_id"] for row in provider.ledger()] == [""] * 3
        assert provider.requests()["GET /v1/batches"] == 1
        assert suite.plain(*BATCH).ret == 0 and len(provider.ledger()) == 3

    def test_nobody_is_there(self, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            place = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{place}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        suite.write(ONE_STEP + "def test_free(): pass\n")
        result = suite.plain(*BATCH)
        assert result.ret == 75 and verdict(result) == {"passed": 1, "deferred": 1}
        (line,) = [one for one in result.outlines if one.startswith("trouble: ")]
        assert place in line and "Traceback" not in output(result)


class TestCacheDirectory:
    """A cache directory that cannot be used is told before any test runs."""

    def test_of_a_newer_version(self, suite: Suite) -> None:
        suite.write(ONE_STEP)
        suite.run()
        version = suite.path / ".langasync/sandbox/version"
        version.write_text("999\n")
        line = one_line(suite.run())
        assert "was written by a newer version of pytest-langasync: upgrade" in line
        assert len(suite.ledger()) == 1

    @pytest.mark.parametrize("where", ["taken", "taken/below"])
    def test_not_writable(self, suite: Suite, provider: Sandbox, where: str) -> None:
        (suite.path / "taken").write_text("a file, so that root cannot write below it either")
        suite.write("def test_free(): trace('run')\n" + ONE_STEP)
        line = one_line(suite.plain(*BATCH, f"--langasync-cache-dir={where}"))
        assert f"{where} is not writable" in line
        assert suite.traced() == [] and not provider.requests()


def test_the_sandbox_without_its_extra(suite: Suite) -> None:
    suite.write(ONE_STEP)
    code = (
        "import sys; sys.modules['starlette'] = None; import pytest; "
        "sys.exit(pytest.main(['-p', 'no:randomly', '--langasync-sandbox']))"
    )
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=suite.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "--langasync-sandbox needs its extra: pip install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can fill")
@pytest.mark.parametrize("options", [["--langasync-sandbox"], ["--langasync-realtime"]])
def test_a_folder_that_cannot_be_made(suite: Suite, provider: Sandbox, options: list[str]) -> None:
    suite.write(ONE_STEP)
    result = suite.plain(*options, "--langasync-cache-dir=/proc/nowhere")
    assert result.ret == 4 and provider.ledger() == []
    (line,) = [one for one in result.errlines if one.startswith("ERROR: ")]
    assert "the cache directory /proc/nowhere" in line and "cannot be made" in line


def test_a_wrong_job_is_told_although_nothing_is_missing(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    result = suite.plain(*BATCH, "--langasync-resume=nonsense")
    assert result.ret == 4 and "is not a job ID of a known provider (batch_…" in output(result)
    result = suite.plain(*BATCH, "--langasync-resume=batch_nope")
    assert result.ret == 0
    line = "--langasync-resume=batch_nope: not looked at: no test waits for an answer"
    assert line in result.outlines
    (job,) = jobs_in(suite.path / ".langasync")
    assert "not looked at" not in output(suite.plain(*BATCH, f"--langasync-resume={job}"))

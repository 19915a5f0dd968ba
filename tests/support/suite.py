"""Eval suites that run under the plugin, and short ways to run them and to read what came out."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_langasync.sandbox import Sandbox
from pytest_langasync.sandbox.questions import read_request
from pytest_langasync.sandbox.state import State

PLUGINS = ("pytest_langasync.plugin", "pytest_asyncio.plugin")
"""What each run loads unless a test wants more."""
TWO_STEPS = """
@pytest.mark.langasync
def test_judged():
    answer = ask("What is the capital of France?")
    assert "judge" in ask("judge " + answer)
"""
ONE_STEP = """
@pytest.mark.langasync
def test_plain():
    assert "Spain" in ask("What is the capital of Spain?")
"""
CLAUDE = """
import anthropic

@pytest.mark.langasync
def test_claude():
    message = anthropic.Anthropic(max_retries=0).messages.create(
        model="claude-sonnet-4-5", max_tokens=64,
        messages=[{"role": "user", "content": "Say hi"}],
    )
    assert "Say hi" in message.content[0].text
"""
SLOW: dict[str, Any] = {"batch": [{"count": 0, "latency": 3600.0}]}
BATCH = ("--langasync-batch", "--langasync-poll-interval=0.05")
LEAVE = (*BATCH, "--langasync-timeout=0")
LATER = ("--langasync-sandbox-latency=1h", "--langasync-timeout=0")


def let_end(directory: Path) -> None:
    """End every batch of the sandbox whose state lies in ``directory``."""
    state = State(directory)
    for provider in ("openai", "anthropic"):
        for batch in state.running(provider):
            state.update_batch(batch["id"], lambda fresh: fresh.update(due=0.0))
    state.close()


def end_jobs(provider: Sandbox) -> None:
    """End every batch of a running sandbox."""
    let_end(provider._state.directory)


def start(suite: Suite, *args: str) -> subprocess.Popen[str]:
    """Start the suite in batch mode, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", *BATCH, *args]
    return subprocess.Popen(
        command, cwd=suite.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def until(process: subprocess.Popen[str], text: str) -> str:
    """Read until a line has ``text`` in it."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} did not come:\n{seen}")


def output(result: pytest.RunResult) -> str:
    """Return what a run printed."""
    return result.stdout.str() + result.stderr.str()


def verdict(result: pytest.RunResult) -> dict[str, int]:
    """Return a run's outcomes; warnings are the libraries' own."""
    return {k: v for k, v in result.parseoutcomes().items() if not k.startswith("warning")}


def one_line(result: pytest.RunResult) -> str:
    """Return the one line in which a run was refused."""
    assert result.ret == 4, output(result)
    (line,) = [one for one in result.errlines if one.startswith("ERROR: ")]
    assert "Traceback" not in output(result) and "INTERNALERROR" not in output(result)
    return line.removeprefix("ERROR: ")


def jobs_in(cache: Path) -> list[str]:
    """Return the job IDs of a cache."""
    return sorted(path.name for path in (cache / "jobs").glob("*"))


LLM = '''
import os
import pathlib

import openai

MODEL = "gpt-4o-mini"
TRACE = pathlib.Path(__file__).with_name("trace.txt")


def ask(text, **options):
    """Ask a model; the answer is the sandbox's."""
    messages = [{"role": "user", "content": text}]
    with openai.OpenAI(max_retries=0) as client:
        done = client.chat.completions.create(model=MODEL, messages=messages, **options)
    return done.choices[0].message.content


async def aask(text, **options):
    """Ask a model without blocking."""
    messages = [{"role": "user", "content": text}]
    async with openai.AsyncOpenAI(max_retries=0) as client:
        done = await client.chat.completions.create(model=MODEL, messages=messages, **options)
    return done.choices[0].message.content


def trace(text):
    """Note that something ran, whatever becomes of the attempt."""
    with TRACE.open("a") as file:
        file.write(text + "\\n")
'''


def bought(directory: Path) -> list[dict[str, Any]]:
    """Return the ledger of the sandbox whose state lies in ``directory``."""
    if not directory.exists():
        return []
    sandbox = Sandbox(directory)
    try:
        return sandbox.ledger()
    finally:
        sandbox.stop()


class Suite:
    """An eval suite in a directory of its own; its tests import ``ask`` and others from ``llm``."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.provider = self.path / ".langasync" / "sandbox" / "provider"
        pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        pytester.makepyfile(llm=LLM)
        pytester.syspathinsert()

    def use(self, *plugins: str) -> None:
        """Load these plugins, too, in each run from now on."""
        more = " ".join(f"-p {name}" for name in plugins)
        os.environ["PYTEST_ADDOPTS"] += f" {more}"

    def use_all(self) -> None:
        """Load every installed plugin in each run from now on, as at a user's."""
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ["PYTEST_ADDOPTS"] = "-p no:langsmith_plugin"

    def write(self, source: str, name: str = "test_it") -> None:
        """Write a module of the suite; ``from llm import …`` is there already."""
        head = "import asyncio\nimport pytest\nfrom llm import aask, ask, trace\n\n"
        self.pytester.makepyfile(**{name: head + source})

    def run(self, *args: str) -> pytest.RunResult:
        """Run it in batch mode on the embedded sandbox, in this process."""
        return self.plain("--langasync-sandbox", *args)

    def plain(self, *args: str) -> pytest.RunResult:
        """Run it with these options only; ``-n`` brings pytest-xdist."""
        if any(one.startswith("-n") for one in args):
            args = ("-p", "xdist.plugin", *args)
        if "-W" in args:
            gc.collect()  # a warning about what another test left open is not this run's
        return self.pytester.runpytest_inprocess("-p", "no:randomly", *args)

    def ledger(self) -> list[dict[str, Any]]:
        """Return what was bought so far."""
        return bought(self.provider)

    def waves(self) -> list[list[str]]:
        """Return the prompts of each batch job, sorted, in the order of the jobs."""
        jobs: dict[str, list[str]] = {}
        for row in self.ledger():
            request = read_request(row["provider"], row["endpoint"], row["body"])
            jobs.setdefault(row["job_id"], []).append(request.prompt)
        return [sorted(prompts) for prompts in jobs.values()]

    def traced(self) -> list[str]:
        """Return what the suite's tests noted with ``trace``, and forget it."""
        path = self.path / "trace.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

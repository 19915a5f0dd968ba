"""Killed at any step and started again: every request is bought once, every verdict is right.

By default a dozen steps, spread over the run; the exhaustive test takes every one.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_langasync.sandbox import Sandbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")

SUITE = """
import anthropic
import openai
import pytest

def gpt(text):
    with openai.OpenAI() as client:
        message = [{"role": "user", "content": text}]
        done = client.chat.completions.create(model="gpt-4o-mini", messages=message)
    return done.choices[0].message.content

def claude(text):
    with anthropic.Anthropic() as client:
        message = [{"role": "user", "content": text}]
        done = client.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=message)
    return done.content[0].text

@pytest.mark.langasync
def test_gpt():
    assert gpt("judge " + gpt("one")) == "Sandbox answer to: judge Sandbox answer to: one"

@pytest.mark.langasync
def test_claude():
    assert claude("judge " + claude("two")) == "Sandbox answer to: judge Sandbox answer to: two"

@pytest.mark.langasync
def test_both():
    assert gpt("three") == claude("three")

@pytest.mark.langasync
def test_wrong():
    assert gpt("four") == "five"
"""
CALLS = 7


class Zygote:
    """The program that forks a child for every run."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "steps.json"
        script = Path(__file__).parents[1] / "support" / "killing.py"
        self._process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, directory: Path, *arguments: str, kill_at: int = 0) -> tuple[int, list[str]]:
        """Run pytest; return its status (-9 when killed) and the steps that it came past."""
        order: dict[str, Any] = {
            "directory": str(directory),
            "arguments": list(arguments),
            "kill_at": kill_at,
            "log": str(self.log),
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        done = json.loads(self._process.stdout.readline())
        return done["status"], done["names"]

    def output(self) -> str:
        """Return what the last run printed."""
        return Path(f"{self.log}.out").read_text()

    def stop(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def zygote(provider: Sandbox, tmp_path: Path) -> Iterator[Zygote]:
    zygote = Zygote(tmp_path)
    yield zygote
    zygote.stop()


def a_suite(tmp_path: Path, name: str) -> Path:
    directory = tmp_path / name
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_it.py").write_text(SUITE)
    return directory


OPTIONS = (
    "-p", "pytest_langasync.plugin", "-p", "no:cacheprovider", "--assert=plain", "--tb=line", "-q",
    "--langasync-batch", "--langasync-poll-interval=0.02",
)  # fmt: skip


def check(zygote: Zygote, provider: Sandbox, directory: Path, name: str) -> None:
    """Start it again until it is judged, and compare with what was bought."""
    for _ in range(4):
        status, _ = zygote.run(directory, *OPTIONS)
        if status == 1:
            break
    output = zygote.output()
    assert status == 1 and "1 failed, 3 passed" in output, f"{name}\n{output}"
    assert "test_wrong" in output and "Traceback" not in output, f"{name}\n{output}"
    bought = sorted(str(row["body"]) for row in provider.ledger())
    assert len(bought) == len(set(bought)) == CALLS, f"{name}: bought {len(bought)} requests"


def sample(count: int) -> Iterator[int]:
    """Yield all steps, spread so that any beginning of the sequence covers the whole run."""
    seen: set[int] = set()
    stride = count
    while len(seen) < count:
        for step in range(1, count + 1, max(1, stride)):
            if step not in seen:
                seen.add(step)
                yield step
        stride //= 2


PARTS = 8
"""Parts of the exhaustive test, which workers share."""


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(slice(12), id="a sample"),
        *(
            pytest.param(
                slice(12 + number, None, PARTS),
                marks=[pytest.mark.exhaustive, pytest.mark.timeout(1200)],
                id=f"part {number + 1} of the rest",
            )
            for number in range(PARTS)
        ),
    ],
)
def test_killed_at_every_step(
    zygote: Zygote, provider: Sandbox, tmp_path: Path, part: slice
) -> None:
    provider.reset()
    status, names = zygote.run(a_suite(tmp_path, "whole"), *OPTIONS)
    assert status == 1, zygote.output()
    assert len(names) > 100 and {"before fsync", "after handle_request"} <= set(names)
    for step in itertools.islice(sample(len(names)), part.start, part.stop, part.step):
        provider.reset()
        directory = a_suite(tmp_path, f"killed-{step}")
        status, _ = zygote.run(directory, *OPTIONS, kill_at=step)
        assert status in (-9, 1), zygote.output()  # polls make the number of steps vary
        name = f"killed at step {step} of {len(names)}, {names[step - 1]}"
        check(zygote, provider, directory, name)

"""A disk without room, at any write: named in a line, and nothing is bought twice or lost.

Some of the writes by default; the exhaustive tests take each of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.suite import BATCH, Suite, output

from pytest_langasync.cache import files
from pytest_langasync.sandbox import Sandbox

ALL = pytest.mark.exhaustive

SOURCE = """
import os
import subprocess
import sys
import anthropic

STEP = os.environ["STEP"]  # what another step bought is found at the provider, and not bought

@pytest.mark.langasync
def test_judged():
    assert ask("judge " + ask(f"question {STEP}"))

@pytest.mark.langasync
def test_claude():
    message = {"role": "user", "content": f"Claude {STEP}"}
    claude = anthropic.Anthropic(max_retries=0)
    claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=[message])
"""


class Disk:
    """Counts durable changes of files, and has no room for those that ``full`` names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full: Callable[[int], bool] = lambda step: False
        self.steps = 0
        real = files.writing

        @contextlib.contextmanager
        def writing(path: Path) -> Iterator[None]:
            self.steps += 1
            with real(path):
                if self.full(self.steps):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                yield

        monkeypatch.setattr(files, "writing", writing)


def steps_of_a_run(suite: Suite, disk: Disk) -> int:
    """Return how many durable changes a whole run makes, and forget that run."""
    suite.plain(*BATCH, "--langasync-cache-dir=other").assert_outcomes(passed=2)
    return disk.steps


@pytest.mark.parametrize("ever", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("every", [25, pytest.param(1, marks=ALL)])
def test_no_space_at_any_write(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch, ever: bool, every: int
) -> None:
    suite.write(SOURCE)
    monkeypatch.setenv("STEP", "0")
    disk = Disk(monkeypatch)
    total = steps_of_a_run(suite, disk)
    before = len(provider.ledger())
    assert before == 3 and total > 12
    for step in range(1, total + 1, every):
        cache = f"--langasync-cache-dir=cache{step}"
        monkeypatch.setenv("STEP", str(step))
        disk.steps = 0
        disk.full = (lambda n, s=step: n >= s) if ever else (lambda n, s=step: n == s)  # type: ignore[misc]
        first = suite.plain(*BATCH, cache)
        disk.full = lambda n: False
        again = suite.plain(*BATCH, cache)
        for result in (first, again):
            assert "INTERNALERROR" not in output(result), f"step {step}\n{output(result)}"
            assert "Traceback" not in output(result), f"step {step}\n{output(result)}"
        if first.ret != 0:
            assert "No space left on device" in output(first), f"step {step}\n{output(first)}"
        again.assert_outcomes(passed=2)
        bought = len(provider.ledger()) - before
        assert bought == 3, f"{bought} requests were bought after step {step}\n{output(first)}"
        before += bought


FULL = "import sys; from full import limit_files; limit_files(int(sys.argv.pop(1)));"
TESTS = Path(__file__).parents[1] / "support"


def test_a_full_disk_is_one_clear_line_at_any_write(tmp_path: Path) -> None:
    """Here the operating system refuses, in the middle of a write."""
    program = [sys.executable, str(TESTS / "full.py"), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert all(one["drafts"] == one["problems"] == [] for one in ends.values())
    lines = "\n".join(one["end"] for one in ends.values())
    for name in (
        ".gitignore", "requests.jsonl", "intents/abcdefghijkl.json", "jobs/batch_1/job.json",
        "jobs/batch_1/results.jsonl", "state.json", "runs/run.json", "realtime/", "texts/",
    ):  # fmt: skip
        assert name in lines


@pytest.mark.parametrize("limits", [(1, 400), pytest.param((200, 800), marks=ALL)])
def test_a_run_on_a_full_disk(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, ...]
) -> None:
    suite.write(SOURCE)
    monkeypatch.setenv("STEP", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(suite.path)]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)  # its data would meet the same limit
    program = [sys.executable, "-c", FULL + "import pytest; sys.exit(pytest.main())"]
    for limit in limits:
        arguments = [str(limit), "-s", "-p", "no:cacheprovider", *BATCH, "--langasync-timeout=1"]
        done = subprocess.run([*program, *arguments], capture_output=True, text=True)
        text = done.stdout + done.stderr
        assert "INTERNALERROR" not in text and "Traceback" not in text, text
        assert "File too large" in text and done.returncode == 75, text
        assert not list((suite.path / ".langasync").rglob("*.tmp"))
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert len(provider.ledger()) == 3

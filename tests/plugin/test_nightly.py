"""The nightly recipe of the README, its steps run as the runner would, on a machine each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.suite import LLM, SLOW, TWO_STEPS, end_jobs

from pytest_langasync.sandbox import Sandbox

RECIPE = Path(__file__).parents[2] / "examples" / "nightly.yml"
pytestmark = pytest.mark.skipif(not RECIPE.exists(), reason="needs the source tree")
SUITE = "import pytest\nfrom llm import ask\n" + TWO_STEPS


def script(step: str) -> str:
    """Return the shell script of a step."""
    found = re.search(
        rf"- name: {re.escape(step)}.*?\n +run: [|>]\n(.*?)\n\n", RECIPE.read_text(), re.S
    )
    assert found
    text = found[1]
    return " ".join(text.split()) if "|| status" not in text else text


class Runner:
    """Runs one step on a new machine each time; only the saved cache travels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.saved: Path | None = None
        self.number = 0
        (root / "bin").mkdir()
        tool = root / "bin" / "pytest"
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pytest "$@"\n')
        tool.chmod(0o755)

    def run(self, step: str) -> int:
        """Check out, restore the cache, run the step, save the cache whatever became of it."""
        self.number += 1
        place = self.root / str(self.number) / "repository"
        (place / "evals").mkdir(parents=True)
        (place / "pytest.ini").write_text("[pytest]\npythonpath = evals\n")
        (place / "evals" / "llm.py").write_text(LLM)
        (place / "evals" / "test_it.py").write_text(SUITE)
        if self.saved is not None:
            shutil.copytree(self.saved, place / ".langasync")
        path = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-c", script(step)], cwd=place, env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        self.saved = place / ".langasync"
        return done.returncode


def test_submit_next_wave_and_judge(quick_python: None, provider: Sandbox, tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    provider.set_faults(SLOW)
    assert runner.run("Submit, or take the next wave") == 0, "75 is a success here"
    assert runner.saved is not None and not provider.ledger()
    end_jobs(provider)
    assert runner.run("Submit, or take the next wave") == 0
    assert len(provider.ledger()) == 1
    provider.set_faults({})
    end_jobs(provider)
    assert runner.run("Judge") == 0
    report = runner.saved.parent / "evals.json"
    assert report.exists() and len(provider.ledger()) == 2
    shutil.rmtree(runner.saved)
    runner.saved = None
    assert runner.run("Submit, or take the next wave") == 0, "the cache was evicted"
    assert len(provider.ledger()) == 2, "this suite's jobs were found at the provider"

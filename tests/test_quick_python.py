"""The Python that the tests start in place of the real one behaves as the real one does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("quick_python")


def python(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload, no-any-return]


def test_it_has_imported_what_takes_long_and_nothing_of_the_tests() -> None:
    done = python("-c", "import sys; print('openai' in sys.modules, 'support' in sys.modules)")
    assert done.stdout.split() == ["True", "False"]


def test_arguments_folder_environment_and_streams(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['A'], sys.stdin.read())"
    done = python("-c", code, "x", cwd=tmp_path, env={"A": "b"}, input="hello")
    assert done.stdout == f"['x'] {tmp_path} b hello\n", done.stderr


def test_it_ends_as_its_code_does() -> None:
    assert python("-c", "raise SystemExit(7)").returncode == 7
    assert "ZeroDivisionError" in python("-c", "1 / 0").stderr
    assert python("-c", "import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_signals_reach_it(name: str) -> None:
    code = "import threading; print('here', flush=True); threading.Event().wait()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        process.send_signal(signal.Signals[name])
        process.communicate(timeout=20)  # it has closed its streams: it is gone
        assert process.returncode != 0


def test_what_it_cannot_imitate_is_left_to_the_real_python() -> None:
    assert python("-W", "error", "-c", "import sys; print(sys.warnoptions)").stdout == "['error']\n"

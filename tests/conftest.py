"""Eval suites that run under the plugin, and what the sandbox says was bought for them."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from support.forked_python import Launcher
from support.libraries import warm_up
from support.suite import PLUGINS, Suite

from pytest_langasync.sandbox import Sandbox

pytest_plugins = ["pytester"]

NEEDS = {
    "chains/test_chain_shapes.py": "langchain_anthropic",
    "chains/test_invoke.py": "langchain_core",
    "interception/test_model_calls.py": "boto3",
}
"""Test files about a library that the lowest versions cannot be tested with."""
MISSING = {
    file: library for file, library in NEEDS.items() if not importlib.util.find_spec(library)
}
collect_ignore = list(MISSING)


def pytest_report_header() -> list[str]:
    """Say which files are left out."""
    return [f"left out: {file}, needs {library}" for file, library in MISSING.items()]


def pytest_configure(config: pytest.Config) -> None:
    """Make all processes of the tests alike, and quick: Ctrl-C, certificates, compiled files.

    A shell starts a background command with Ctrl-C ignored, and its children inherit that. Every
    HTTP client reads all certificates of the machine, a third of the time of a small run; nothing
    here speaks TLS, so one has to do.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    end = "-----END CERTIFICATE-----\n"
    first = Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end
    file = tempfile.NamedTemporaryFile("w", suffix=".pem")  # noqa: SIM115
    file.write(first)
    file.flush()
    patch = pytest.MonkeyPatch()
    patch.setenv("SSL_CERT_FILE", file.name)
    # Compiled files are what makes hundreds of starts bearable; what is buffered in a user's
    # pipe is buffered here.
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        patch.delenv(name, raising=False)
    patch.setattr(sys, "dont_write_bytecode", False)
    config.add_cleanup(file.close)
    config.add_cleanup(patch.undo)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start one worker more than there are cores: a fifth of the time tests wait for a server."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what is there by now out of each search for garbage: a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def libraries() -> None:
    """Import once what every run in this process needs: pytester forgets a run's own imports."""
    warm_up()


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Return the Python that is quick to start."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def quick_python(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``sys.executable`` be the Python that is quick to start."""
    monkeypatch.setattr(sys, "executable", launcher.executable)


@pytest.fixture
def suite(
    libraries: None,
    quick_python: None,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> Suite:
    """Return an empty eval suite, in which only the plugin and pytest-asyncio are loaded.

    ``suite.use`` loads others. All that are installed would take longer than most tests.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p {name}" for name in PLUGINS))
    return Suite(pytester)


@pytest.fixture
def provider(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """Run a sandbox that plays the real provider: the SDKs' environment variables lead to it."""
    with Sandbox(tmp_path_factory.mktemp("provider")) as sandbox:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{sandbox.url}/v1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        yield sandbox


@pytest.fixture
def verdicts() -> Callable[[pytest.RunResult], dict[str, int]]:
    """Return a function that counts a run's outcomes, its deselected and warnings left out."""

    def count(result: pytest.RunResult) -> dict[str, int]:
        outcomes = result.parseoutcomes()
        return {k: v for k, v in outcomes.items() if k not in ("warnings", "warning")}

    return count

"""Eval suites that run under the plugin, and what the sandbox says was bought for them."""

from __future__ import annotations

import importlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from support.suite import Suite

from pytest_langasync.sandbox import Sandbox

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Give Ctrl-C and certificates to all processes of the tests.

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
    config.add_cleanup(file.close)
    config.add_cleanup(patch.undo)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import once what every run in this process needs: pytester forgets a run's own imports."""
    for name in ("genai_prices.data_snapshot", "hypothesis", "rich.live", "tenacity", "trio"):
        importlib.import_module(name)
    importlib.import_module("pytest_langasync.plugin.session")
    import anthropic
    import openai

    with Sandbox(tmp_path_factory.mktemp("warm")) as sandbox:
        with openai.OpenAI(base_url=f"{sandbox.url}/v1", api_key="sk-test") as client:
            hello = {"role": "user", "content": "hello"}
            client.chat.completions.create(model="gpt-4o-mini", messages=[hello])  # type: ignore[list-item]
            client.files.list()
            client.batches.list()
        with anthropic.Anthropic(base_url=sandbox.url, api_key="sk-ant-test") as claude:
            claude.messages.batches.list()


@pytest.fixture
def suite(libraries: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Return an empty eval suite; each of its processes starts in half the time."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:langsmith_plugin")
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

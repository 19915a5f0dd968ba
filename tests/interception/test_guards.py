"""Where a test has no network, or a cassette: batch mode ends as real time does."""

from __future__ import annotations

import socket

import pytest
import yaml  # noqa: F401  (its C part does not stand being imported anew for each run)
from support.suite import BATCH, Suite, verdict

from pytest_langasync.interception.sockets import are_closed_to
from pytest_langasync.sandbox import Sandbox

pytest.importorskip("pytest_recording")
pytest.importorskip("pytest_socket")
pytestmark = pytest.mark.filterwarnings("ignore")

GUARDS = {
    "block_network": "@pytest.mark.block_network",
    "pytest-socket": "@pytest.mark.usefixtures('socket_disabled')",
    "its own guard": "@pytest.mark.usefixtures('no_network')",
}
GUARDED = """
import socket

@pytest.fixture
def no_network(monkeypatch):
    def guard(*args, **kwargs):
        raise RuntimeError("no network in tests")
    monkeypatch.setattr(socket.socket, "connect", guard)

@pytest.mark.langasync
GUARD
def test_it():
    assert ask("hello")
"""
ALLOWED = """
@pytest.mark.langasync
@pytest.mark.block_network(allowed_hosts=["127.0.0.1"])
def test_it():
    assert ask("hello")
"""


@pytest.mark.parametrize("guard", GUARDS)
def test_a_call_without_a_network_fails_as_in_real_time(
    suite: Suite, provider: Sandbox, guard: str
) -> None:
    suite.use("pytest_recording.plugin", "pytest_socket")
    suite.write(GUARDED.replace("GUARD", GUARDS[guard]))
    real, batch = suite.plain(), suite.plain(*BATCH)
    assert verdict(real) == verdict(batch) == {"failed": 1}
    assert not provider.requests()


def test_a_guard_that_lets_the_host_through(suite: Suite, provider: Sandbox) -> None:
    suite.use("pytest_recording.plugin")
    suite.write(ALLOWED)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    assert [bool(row["job_id"]) for row in provider.ledger()] == [True]


def test_a_guard_proves_that_an_offline_run_sends_nothing(suite: Suite, provider: Sandbox) -> None:
    suite.use("pytest_recording.plugin", "pytest_socket")
    suite.write(ALLOWED)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    suite.plain("--langasync-offline", "--block-network").assert_outcomes(passed=1)


RECORDED = """
import os
import requests, vcr

@pytest.mark.langasync
def test_httpx(tmp_path):
    with vcr.use_cassette("one.yaml", record_mode="new_episodes"):
        assert "hello" in ask("hello")

@pytest.mark.langasync
def test_requests():
    hello = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    url, headers = os.environ["OPENAI_BASE_URL"], {"Authorization": "Bearer sk-test"}
    with vcr.use_cassette("two.yaml", record_mode="new_episodes"):
        reply = requests.post(url + "/chat/completions", json=hello, headers=headers)
    assert "hello" in reply.json()["choices"][0]["message"]["content"]
"""


@pytest.mark.parametrize("early", [True, False], ids=["imported before", "imported by the test"])
def test_a_cassette_that_records(suite: Suite, provider: Sandbox, early: bool) -> None:
    """VCR keeps the function that it found, and records by it: it is no way past the batch."""
    if early:
        suite.pytester.makeconftest("import vcr.patch")
    suite.write(RECORDED)
    for option in ("--langasync-offline", "--langasync-estimate"):
        assert "passed" not in suite.plain(option).parseoutcomes()
    assert not provider.requests() and not list(suite.path.glob("*.yaml"))
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert [bool(row["job_id"]) for row in provider.ledger()] == [True, True]


def test_sockets_that_are_there() -> None:
    assert not are_closed_to("127.0.0.1", 9)


@pytest.mark.parametrize("raises", [RuntimeError, OSError, pytest.fail.Exception])
def test_sockets_that_are_taken_away(
    monkeypatch: pytest.MonkeyPatch, raises: type[BaseException]
) -> None:
    def guard(*args: object) -> None:
        raise raises("no")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", guard)
        assert are_closed_to("127.0.0.1", 9)
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", guard)
        assert are_closed_to("127.0.0.1", 9)
    assert not are_closed_to("127.0.0.1", 9)

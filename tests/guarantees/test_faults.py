"""Every fault of a provider at every call of its protocol: bought once, and nothing lost.

A third of the pairs by default, each fault and each call among them; the others are exhaustive.
"""

from __future__ import annotations

import email.utils
import time
from typing import Any

import pytest
from support.suite import BATCH, CLAUDE, ONE_STEP, Suite, end_jobs, output

from pytest_langasync.sandbox import Sandbox

IN_A_SECOND = email.utils.formatdate(time.time() + 1, usegmt=True)
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"

FAULTS: dict[str, dict[str, Any]] = {
    "reset before it acted": {"reset": True},
    "reset after it acted": {"reset": True, "after": True},
    "408": {"status": 408},
    "409": {"status": 409},
    "429 with seconds": {"status": 429, "headers": {"retry-after": "1"}},
    "429 with a date": {"status": 429, "headers": {"retry-after": IN_A_SECOND}},
    "500": {"status": 500},
    "500 after it acted": {"status": 500, "after": True},
    "502 in HTML": {"status": 502, "body": HTML, "headers": {"content-type": "text/html"}},
    "503 twice": {"status": 503, "count": 2},
    "truncated": {"truncate": 40},
    "no gzip": {"headers": {"content-encoding": "gzip"}},
    "drip": {"drip": 0.01},
    "a garbage line": {"insert": "{garbage"},
    "a blank line": {"insert": ""},
}
LINES = ("a garbage line", "a blank line")
"""Faults of a file of lines; other replies are one document."""

CALLS = {
    "upload": "POST /v1/files",
    "create": "POST /v1/batches",
    "poll": "GET /v1/batches/*",
    "download": "GET /v1/files/*/content",
    "create messages": "POST /v1/messages/batches",
    "poll messages": "GET /v1/messages/batches/msgbatch_*[!s]",
    "download messages": "GET /v1/messages/batches/*/results",
}
LISTS = {"create": "GET /v1/batches", "create messages": "GET /v1/messages/batches"}

EVERY = 3


def marks(place: int) -> list[pytest.MarkDecorator]:
    """Leave two of three to the exhaustive run."""
    return [] if place % EVERY == 0 else [pytest.mark.exhaustive]


MATRIX = [
    pytest.param(path, fault, id=f"{fault} at {call}", marks=marks(row + column))
    for column, (call, path) in enumerate(CALLS.items())
    for row, fault in enumerate(FAULTS)
    if fault not in LINES
] + [
    pytest.param(path, fault, id=f"{fault} at {call}")
    for call, path in CALLS.items()
    for fault in LINES
    if call.startswith("download")
]
SEEKING = [
    pytest.param(call, fault, id=f"{fault} at the list after {call}", marks=marks(row + column))
    for column, call in enumerate(LISTS)
    for row, fault in enumerate(FAULTS)
    if fault not in LINES
]
CANCELLING = [
    pytest.param(path, fault, id=f"{fault} at {path}", marks=marks(row + column))
    for column, path in enumerate(
        ["POST /v1/batches/*/cancel", "POST /v1/messages/batches/*/cancel"]
    )
    for row, fault in enumerate(FAULTS)
    if fault not in LINES
]


def until_judged(suite: Suite, provider: Sandbox) -> list[pytest.RunResult]:
    """Run the suite, at first with the faults that were set, until all is judged."""
    results = [suite.plain(*BATCH)]
    while results[-1].ret != 0 and len(results) < 4:
        provider.set_faults({})
        results.append(suite.plain(*BATCH))
    for result in results:
        assert not [word for word in ("INTERNALERROR", "Traceback") if word in output(result)]
    return results


@pytest.mark.parametrize(("path", "fault"), MATRIX)
def test_a_fault_at_a_call(suite: Suite, provider: Sandbox, path: str, fault: str) -> None:
    suite.write(ONE_STEP + CLAUDE)
    provider.set_faults({"http": [{"path": path, **FAULTS[fault]}]})
    results = until_judged(suite, provider)
    results[-1].assert_outcomes(passed=2)
    assert sorted(row["provider"] for row in provider.ledger()) == ["anthropic", "openai"]
    for result in results[:-1]:
        assert "langasync: " in output(result) or "ERROR: " in output(result), "a cause was told"


@pytest.mark.parametrize(("call", "fault"), SEEKING)
def test_a_fault_while_it_looks_for_what_it_created(
    suite: Suite, provider: Sandbox, call: str, fault: str
) -> None:
    """The create's reply was lost; the list that would tell what became of it fails, too."""
    suite.write(ONE_STEP + CLAUDE)
    lost = {"path": CALLS[call], "reset": True, "after": True}
    provider.set_faults({"http": [lost, {"path": LISTS[call], **FAULTS[fault]}]})
    until_judged(suite, provider)[-1].assert_outcomes(passed=2)
    assert sorted(row["provider"] for row in provider.ledger()) == ["anthropic", "openai"]


@pytest.mark.parametrize(("cancel", "fault"), CANCELLING)
def test_a_fault_at_a_cancellation(
    suite: Suite, provider: Sandbox, cancel: str, fault: str
) -> None:
    """The job goes on, or does not; nothing that it gave is bought again."""
    source, calls = (ONE_STEP, "openai") if "messages" not in cancel else (CLAUDE, "anthropic")
    suite.write(source)
    slow = [{"count": 0, "latency": 3600}]
    provider.set_faults({"batch": slow, "http": [{"path": cancel, **FAULTS[fault]}]})
    late = (
        "--langasync-timeout=0.3s",
        "--langasync-on-timeout=cancel",
        "--langasync-max-retries=0",
    )
    first = suite.plain(*BATCH, *late)
    assert first.ret == 75 and "Traceback" not in output(first)
    provider.set_faults({})
    end_jobs(provider)
    until_judged(suite, provider)[-1].assert_outcomes(passed=1)
    assert [row["provider"] for row in provider.ledger()] == [calls]


@pytest.mark.parametrize("call", ["poll", "poll messages"])
def test_a_batch_that_is_not_known_yet(suite: Suite, provider: Sandbox, call: str) -> None:
    """The provider answers the first polls after a creation with 404."""
    suite.write(ONE_STEP + CLAUDE)
    provider.set_faults({"http": [{"path": CALLS[call], "status": 404, "count": 2}]})
    until_judged(suite, provider)[-1].assert_outcomes(passed=2)
    assert len(provider.ledger()) == 2


def test_nobody_listens_for_a_while(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider cannot be reached between submission and results."""
    suite.write(ONE_STEP + CLAUDE)
    provider.set_faults({"batch": [{"latency": 3600}]})
    suite.plain(*BATCH, "--langasync-timeout=0")
    provider.stop()
    result = suite.plain(*BATCH)
    assert result.ret != 0 and "Traceback" not in output(result)


def test_results_said_to_be_on_another_host(suite: Suite, provider: Sandbox) -> None:
    """They are read where the batch was made: the key would go to the other host, too."""
    suite.write(CLAUDE)
    elsewhere = [[r'"results_url": ?"http://[^/]+', '"results_url":"http://evil.example.com']]
    provider.set_faults(
        {"http": [{"path": CALLS["poll messages"], "replace": elsewhere, "count": 0}]}
    )
    result = suite.plain(*BATCH)
    result.assert_outcomes(passed=1)
    assert "evil.example.com" not in output(result) and len(provider.ledger()) == 1

"""Requests with a fresh identifier in them are paid once, too, when a run is left or breaks off."""

from __future__ import annotations

import pytest
from support.suite import BATCH, LEAVE, SLOW, Suite, end_jobs, output

from pytest_langasync.sandbox import Sandbox

SOURCE = """
import uuid

@pytest.mark.langasync
def test_twice():
    one, two = uuid.uuid4(), uuid.uuid4()
    first = ask(f"Ticket {one}")
    assert str(one) in first
    second = ask(f"Ticket {two} after {first}")
    assert str(two) in second and str(one) in second

@pytest.mark.langasync
@pytest.mark.asyncio
async def test_side_by_side():
    tickets = [f"Card {uuid.uuid4()}" for _ in range(3)]
    answers = await asyncio.gather(*map(aask, tickets))
    assert len(set(answers)) == 3
    assert all(ticket in answer for ticket, answer in zip(tickets, answers))
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_collected_by_a_later_run(suite: Suite, provider: Sandbox, workers: str) -> None:
    suite.write(SOURCE)
    leave = (*LEAVE, f"-n{workers}")
    provider.set_faults(SLOW)
    for wave in (1, 2):
        assert suite.plain(*leave).ret == 75
        if workers == "0":
            assert suite.plain(*leave).ret == 75, "nothing has come: it goes on waiting"
        end_jobs(provider)
        waiting = suite.plain(*leave)
        waiting.assert_outcomes(passed=wave)
    assert len(provider.ledger()) == 5
    assert "waiting" not in (suite.path / ".langasync" / "state.json").read_text()
    provider.set_faults({})
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert len(provider.ledger()) > 5, "that run was over: this is a new one"


@pytest.mark.parametrize("acted", [True, False], ids=["it exists", "it does not"])
def test_a_submission_in_doubt(suite: Suite, provider: Sandbox, acted: bool) -> None:
    suite.write(SOURCE)
    lost = {"path": "POST /v1/batches", "reset": True, "after": acted, "count": 0}
    blind = {"path": "GET /v1/batches", "status": 403, "count": 0}
    provider.set_faults({"http": [lost, blind]})
    first = suite.plain(*BATCH)
    assert first.ret != 0 and "INTERNALERROR" not in output(first)
    provider.set_faults({})
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert len(provider.ledger()) == 5

"""An error about the request is an answer like any other; one that may pass serves one verdict."""

from __future__ import annotations

import pytest
from support.suite import BATCH, Suite, verdict

from pytest_langasync.sandbox import Sandbox

EXPECTED = """
import openai

@pytest.mark.langasync(max_retries=0)
def test_it():
    with pytest.raises(openai.APIStatusError):
        ask("hello [[status:STATUS]]")
"""


@pytest.mark.parametrize("lane", ["batch", "realtime"])
def test_it_is_free_when_warm_and_works_offline(suite: Suite, provider: Sandbox, lane: str) -> None:
    suite.write(EXPECTED.replace("STATUS", "400"))
    args = (f"--langasync-lane={lane}", BATCH[1])
    for _ in range(2):
        assert verdict(suite.plain(*args)) == {"passed": 1}
    assert verdict(suite.plain("--langasync-offline")) == {"passed": 1}
    assert len(provider.ledger()) == 1
    assert verdict(suite.plain(*args, "--langasync-refresh")) == {"passed": 1}
    assert len(provider.ledger()) == 2, "a refresh asks again"
    suite.write(EXPECTED.replace("STATUS", "400").replace("hello", "hello again"))
    assert verdict(suite.plain(*args)) == {"passed": 1}
    assert len(provider.ledger()) == 3, "and so does a changed request"


def test_one_that_may_pass_is_asked_again_by_the_next_run(suite: Suite, provider: Sandbox) -> None:
    suite.write(EXPECTED.replace("STATUS", "429"))
    for _ in range(2):
        assert verdict(suite.plain(*BATCH)) == {"passed": 1}
    assert len(provider.ledger()) == 2

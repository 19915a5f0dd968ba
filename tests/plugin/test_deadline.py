"""What becomes of the tests that still wait when the time is up, and of waves too small to wait."""

from __future__ import annotations

from collections import Counter

import pytest
from support.suite import BATCH, CLAUDE, SLOW, TWO_STEPS, Suite, output, verdict

from pytest_langasync.sandbox import Sandbox

SOON = (*BATCH, "--langasync-timeout=0.3s")
BOTH = TWO_STEPS + CLAUDE
OPENAI_SLOW = {"batch": [{"provider": "openai", "count": 0, "latency": 3600.0}]}


def kinds(provider: Sandbox) -> Counter[bool]:
    """Return how many calls were bought in real time (False) and through a batch (True)."""
    return Counter(bool(row["job_id"]) for row in provider.ledger())


class TestRealTime:
    def test_the_rest_is_sent_at_list_price(self, suite: Suite, provider: Sandbox) -> None:
        provider.set_faults(OPENAI_SLOW)
        suite.write(BOTH)
        result = suite.plain(*SOON, "--langasync-on-timeout=realtime")
        assert verdict(result) == {"passed": 2} and result.ret == 0
        assert kinds(provider) == {True: 1, False: 2}, "Claude's batch had come"
        assert "cancelling batch_" in output(result)
        result.stdout.re_match_lines([r"openai +gpt-4o-mini +0 +2 .*\$(\S+) +\$\1( +\$0\.00)?$"])

    def test_what_came_before_the_cancellation_is_not_bought_again(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        provider.set_faults({"batch": [{"latency": 2.0}]})
        suite.write(
            "@pytest.mark.langasync\n@pytest.mark.parametrize('n', range(8))\n"
            "def test_it(n): assert str(n) in ask(f'number {n}')\n"
        )
        result = suite.plain(*SOON[:2], "--langasync-timeout=1s", "--langasync-on-timeout=realtime")
        assert verdict(result) == {"passed": 8}
        bought = kinds(provider)
        assert bought.total() == 8 and bought[True] and bought[False], bought

    def test_a_job_that_does_not_end_is_waited_for(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_langasync.engine.buyer.CANCELLING", 0.1)
        refused = {"path": "POST /v1/batches/*/cancel", "count": 0, "status": 409}
        provider.set_faults({**OPENAI_SLOW, "http": [refused]})
        suite.write(TWO_STEPS)
        result = suite.plain(*SOON, "--langasync-on-timeout=realtime")
        assert result.ret == 75 and not provider.ledger(), "it may still be bought by the batch"

    def test_with_the_time_at_zero_it_submits_and_leaves(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        provider.set_faults(SLOW)
        suite.write(TWO_STEPS)
        result = suite.plain(*BATCH, "--langasync-timeout=0", "--langasync-on-timeout=realtime")
        assert result.ret == 75 and not provider.ledger()

    def test_the_cost_guard_counts_a_call_once(self, suite: Suite, provider: Sandbox) -> None:
        provider.set_faults(SLOW)
        suite.write(
            "@pytest.mark.langasync\ndef test_it(): assert ask('one', max_tokens=1_000_000)\n"
        )
        limit = "--langasync-max-cost=0.61"  # $0.60 at list price, $0.30 in a batch
        result = suite.plain(*SOON, "--langasync-on-timeout=realtime", limit)
        assert verdict(result) == {"passed": 1}, output(result)

    def test_distributed(self, suite: Suite, provider: Sandbox) -> None:
        provider.set_faults(OPENAI_SLOW)
        suite.write(BOTH)
        result = suite.plain(*SOON, "--langasync-on-timeout=realtime", "-n2")
        assert verdict(result) == {"passed": 2} and result.ret == 0
        assert kinds(provider) == {True: 1, False: 2}


class TestCancel:
    def test_what_is_left_is_deferred_and_bought_by_the_next_run(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        provider.set_faults(OPENAI_SLOW)
        suite.write(BOTH)
        result = suite.plain(*SOON, "--langasync-on-timeout=cancel", "-rs")
        assert verdict(result) == {"passed": 1, "deferred": 1} and result.ret == 75
        result.stdout.fnmatch_lines(["*test_judged*cancelled when the time was up*"])
        assert kinds(provider) == {True: 1}
        provider.set_faults({})
        assert verdict(suite.plain(*BATCH)) == {"passed": 2}
        assert kinds(provider) == {True: 3}


class TestSmallWaves:
    def test_few_calls_go_in_real_time(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(BOTH)
        result = suite.plain(*BATCH, "--langasync-realtime-under=3")
        assert verdict(result) == {"passed": 2}
        assert kinds(provider) == {False: 3}
        assert verdict(suite.plain(*BATCH)) == {"passed": 2}
        assert kinds(provider) == {False: 3}, "they are cached"

    def test_as_many_go_through_a_batch(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(BOTH)
        result = suite.plain(*BATCH, "--langasync-realtime-under=2")
        assert verdict(result) == {"passed": 2}
        assert kinds(provider) == {True: 2, False: 1}, "the judge's wave is small"

    def test_running_jobs_are_waited_for(self, suite: Suite, provider: Sandbox) -> None:
        provider.set_faults(SLOW)
        suite.write(BOTH)
        suite.plain(*BATCH, "--langasync-timeout=0")
        result = suite.plain(*SOON, "--langasync-realtime-under=9")
        assert result.ret == 75 and not provider.ledger()

    def test_fresh_identifiers(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(
            "import uuid\n@pytest.mark.langasync\ndef test_it():\n"
            "    assert ask(f'one {uuid.uuid4()}')\n    assert ask(f'two {uuid.uuid4()}')\n"
        )
        result = suite.plain(*BATCH, "--langasync-realtime-under=9")
        assert verdict(result) == {"passed": 1}
        assert kinds(provider) == {False: 2}


def test_an_unknown_way_is_one_line(suite: Suite) -> None:
    suite.write(TWO_STEPS)
    result = suite.plain(*BATCH, "--langasync-on-timeout=wait")
    assert result.ret == 4
    assert "--langasync-on-timeout: 'wait' is not one of defer, flex, realtime, cancel" in output(
        result
    )

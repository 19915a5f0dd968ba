"""``--langasync-refresh`` and ``--langasync-max-age``, and what is remembered between runs."""

from __future__ import annotations

import json
import shutil
from typing import Any

import anthropic
import openai
from support.suite import (
    BATCH,
    CLAUDE,
    LATER,
    ONE_STEP,
    TWO_STEPS,
    Suite,
    end_jobs,
    let_end,
    start,
    until,
    verdict,
)

from pytest_langasync.sandbox import Sandbox

assert anthropic and openai  # imported here once, not anew by each run inside this process


def state(suite: Suite) -> dict[str, Any]:
    """Return what the cache remembers of each owner."""
    found = json.loads((suite.path / ".langasync/sandbox/state.json").read_text())
    return {name: entry for name, entry in found.items() if name != "crc"}


class TestRefresh:
    """``--langasync-refresh`` and ``--langasync-max-age`` buy new answers, once."""

    def test_it_buys_new_answers(self, suite: Suite) -> None:
        suite.write(ONE_STEP)
        suite.run()
        assert suite.run("--langasync-refresh").ret == 0
        assert len(suite.ledger()) == 2
        assert suite.run().ret == 0
        assert suite.run("--langasync-refresh").ret == 0
        assert len(suite.ledger()) == 3

    def test_what_was_judged_is_not_bought_again(self, suite: Suite) -> None:
        suite.write(TWO_STEPS + ONE_STEP)
        suite.run()
        before = len(suite.ledger())
        seen = []
        for _ in range(6):
            result = suite.run("--langasync-refresh", *LATER)
            seen.append(verdict(result))
            if result.ret == 0:
                break
            let_end(suite.provider)
        assert seen == [{"deferred": 2}, {"passed": 1, "deferred": 1}, {"passed": 2}]
        assert len(suite.ledger()) == before + 3

    def test_a_finished_refresh_is_over(self, suite: Suite) -> None:
        suite.write(ONE_STEP)
        for _ in range(2):
            suite.run("--langasync-refresh", *LATER)
            let_end(suite.provider)
            assert suite.run("--langasync-refresh", *LATER).ret == 0
        assert len(suite.ledger()) == 2

    def test_a_stopped_refresh_is_not_over(self, suite: Suite) -> None:
        suite.write("@pytest.mark.langasync\ndef test_bad(): assert not ask('first')\n" + ONE_STEP)
        suite.run("--langasync-refresh", "-x")
        result = suite.run("--langasync-refresh", "-x")
        assert verdict(result) == {"failed": 1} and len(suite.ledger()) == 2

    def test_a_plain_run_ends_a_refresh(self, suite: Suite) -> None:
        suite.write(ONE_STEP)
        suite.run("--langasync-refresh", *LATER)
        let_end(suite.provider)
        assert suite.run().ret == 0
        suite.run("--langasync-refresh")
        assert len(suite.ledger()) == 2

    def test_it_goes_on_after_a_kill(self, suite: Suite, provider: Sandbox) -> None:
        """What a killed refresh had bought and judged is not bought again."""
        suite.write(TWO_STEPS + ONE_STEP)
        suite.plain(*BATCH)
        before = len(provider.ledger())
        provider.set_faults({"batch": [{"nth": 2, "count": 0, "latency": 3600.0}]})
        process = start(suite, "--langasync-refresh")
        until(process, "submitted batch_")
        until(process, "submitted batch_")  # the judge's: the other test has been judged
        process.kill()
        process.communicate()
        end_jobs(provider)
        provider.set_faults({})
        assert verdict(suite.plain(*BATCH, "--langasync-refresh")) == {"passed": 2}
        assert len(provider.ledger()) == before + 3
        suite.plain(*BATCH, "--langasync-refresh")
        assert len(provider.ledger()) == before + 6, "the next one is a new refresh"

    def test_in_real_time(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(
            ONE_STEP + "@pytest.mark.langasync\ndef test_bad(): assert not ask('x')\n" + CLAUDE
        )
        command = ("--langasync-realtime", "--langasync-refresh")
        suite.plain(*command, "-x")
        assert len(provider.ledger()) == 3, "all were gathered before the first could fail"
        suite.plain(*command)
        assert len(provider.ledger()) == 3
        suite.plain(*command)
        assert len(provider.ledger()) == 6

    def test_answers_of_an_earlier_suite_run_are_not_new(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        """With an empty cache a run finds the suite's recent jobs; a refresh does not want them."""
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        shutil.rmtree(suite.path / ".langasync")
        suite.plain(*BATCH)
        assert len(provider.ledger()) == 1
        for number, option in enumerate(("--langasync-refresh", "--langasync-max-age=0"), 2):
            shutil.rmtree(suite.path / ".langasync")
            suite.plain(*BATCH, option)
            assert len(provider.ledger()) == number

    def test_max_age(self, suite: Suite) -> None:
        suite.write(ONE_STEP)
        suite.run()
        suite.run("--langasync-max-age=1h")
        assert len(suite.ledger()) == 1
        suite.run("--langasync-max-age=0")
        assert len(suite.ledger()) == 2

    def test_max_age_goes_on(self, suite: Suite) -> None:
        suite.write(TWO_STEPS + ONE_STEP)
        suite.run()
        before, seen = len(suite.ledger()), []
        for _ in range(6):
            result = suite.run("--langasync-max-age=0", *LATER)
            seen.append(verdict(result))
            if result.ret == 0:
                break
            let_end(suite.provider)
        assert seen == [{"deferred": 2}, {"passed": 1, "deferred": 1}, {"passed": 2}]
        assert len(suite.ledger()) == before + 3


def test_state_says_who_waits(suite: Suite) -> None:
    suite.write(ONE_STEP)
    suite.run(*LATER)
    assert list(state(suite)) == ["test_it.py::test_plain"]
    assert state(suite)["test_it.py::test_plain"]["waiting"]
    let_end(suite.provider)
    suite.run(*LATER)
    assert state(suite) == {}


def test_a_fixture_that_asked_is_forgotten_too(suite: Suite) -> None:
    """A wide fixture's prompt may be edited again and again: it is bought, and no error."""
    for number in range(4):
        suite.write(
            f"@pytest.fixture(scope='module')\ndef wide(): return ask('wide {number}')\n"
            "@pytest.mark.langasync\ndef test_it(wide): assert wide\n"
        )
        assert suite.run().ret == 0
        assert state(suite) == {}
    assert len(suite.ledger()) == 4

"""Time that a test freezes, and a machine whose clock is wrong: neither touches money or ages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import freezegun
import pytest
import time_machine
from support.cloud import World, ask
from support.suite import BATCH, CLAUDE, ONE_STEP, Suite, end_jobs, output

from pytest_langasync.cache.store import Store
from pytest_langasync.config import CLOCK
from pytest_langasync.lanes.batch import Policy
from pytest_langasync.sandbox import Sandbox

LONG_AGO = datetime(2001, 2, 3)


def travelling() -> Any:
    return time_machine.travel(LONG_AGO, tick=False)


@pytest.mark.parametrize("freeze", [lambda: freezegun.freeze_time(LONG_AGO), travelling])
def test_no_library_freezes_it(freeze: Callable[[], Any]) -> None:
    before = CLOCK.now()
    assert abs(before - time.time()) < 5
    with freeze():
        assert time.time() < 1_000_000_000 < before <= CLOCK.now() < before + 5
        first = CLOCK.timer()
        until = time.perf_counter_ns() + 1
        assert until and CLOCK.timer() > first


FROZEN = """
import freezegun

@pytest.fixture(autouse=True)
def frozen():
    with freezegun.freeze_time("WHEN"):
        yield
"""


@pytest.mark.parametrize("when", ["2001-02-03", "2101-02-03"])
@pytest.mark.parametrize("mode", [BATCH, ["--langasync-realtime"]], ids=["batch", "realtime"])
def test_frozen_tests_are_booked_as_ever(
    suite: Suite, provider: Sandbox, when: str, mode: list[str]
) -> None:
    suite.write(FROZEN.replace("WHEN", when) + ONE_STEP)

    def call() -> dict[str, Any]:
        result = suite.plain(*mode, "--langasync-report=run.json")
        result.assert_outcomes(passed=1)
        assert "dated in the future" not in output(result)
        report = json.loads((suite.path / "run.json").read_text())
        (found,) = report["tests"][0]["calls"]
        return found  # type: ignore[no-any-return]

    first, second = call(), call()
    assert first["source"] in ("batch", "realtime") and second["source"] == "cache"
    assert first["paid_usd"] > 0 == second["paid_usd"] and 0 < second["age_seconds"] < 120
    suite.plain(*mode, "--langasync-max-age=1h").assert_outcomes(passed=1)
    assert len(provider.ledger()) == 1
    suite.plain(*mode, "--langasync-refresh").assert_outcomes(passed=1)
    assert len(provider.ledger()) == 2


class TestWrongClocks:
    """The machine's clock was two hours ahead when the cache was written."""

    @pytest.fixture
    def ahead(self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Suite:
        suite.write(ONE_STEP)
        with monkeypatch.context() as patch:
            patch.setattr(CLOCK, "_start", CLOCK._start + 7200)
            suite.plain(*BATCH).assert_outcomes(passed=1)
        return suite

    def test_what_is_in_the_cache_is_cached_and_has_an_age(
        self, ahead: Suite, provider: Sandbox
    ) -> None:
        result = ahead.plain(*BATCH, "--langasync-report=run.json")
        result.assert_outcomes(passed=1)
        assert "dated in the future" in output(result)
        (call,) = json.loads((ahead.path / "run.json").read_text())["tests"][0]["calls"]
        assert call["source"] == "cache" and call["paid_usd"] == 0
        assert 0 <= call["age_seconds"] < 60 and len(provider.ledger()) == 1

    def test_a_refresh_buys(self, ahead: Suite, provider: Sandbox) -> None:
        ahead.plain(*BATCH, "--langasync-refresh").assert_outcomes(passed=1)
        assert len(provider.ledger()) == 2
        ahead.plain(*BATCH).assert_outcomes(passed=1)
        assert len(provider.ledger()) == 2

    def test_a_refresh_under_way_is_gone_on_with(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite.write(ONE_STEP)
        with monkeypatch.context() as patch:
            patch.setattr(CLOCK, "_start", CLOCK._start + 7200)
            provider.set_faults({"batch": [{"latency": 3600}]})
            assert suite.plain(*BATCH, "--langasync-refresh", "--langasync-timeout=0").ret == 75
        end_jobs(provider)
        for _ in range(2):
            suite.plain(*BATCH, "--langasync-refresh").assert_outcomes(passed=1)
        assert len(provider.ledger()) == 2, "one refresh, and then another"


def test_a_submission_in_doubt_is_found_whatever_the_clock_said(tmp_path: Path) -> None:
    """It was noted two hours in the future, and the provider's list is asked by time."""
    world = World(tmp_path / "cache")
    world.start(policy=Policy(adopt=0.0))
    world.cloud.lost_replies = 1
    world.cloud.lists = [KeyboardInterrupt()]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        world.run(ask(1))
    world.clock.now -= 7200
    world.cloud.jobs["batch_1"].created_at -= 7200
    world.start(policy=Policy(adopt=0.0))
    assert world.run(ask(1)) and world.cloud.bought().total() == 1


class TestProvidersClock:
    """This machine is two hours ahead of the provider, which says so in each reply."""

    @pytest.fixture
    def ahead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CLOCK, "_start", CLOCK._start + 7200)

    def test_is_compared_and_told(self, suite: Suite, provider: Sandbox, ahead: None) -> None:
        suite.write(ONE_STEP + CLAUDE)
        result = suite.plain(*BATCH)
        result.assert_outcomes(passed=2)
        assert output(result).count("clock is 120 minutes ahead of http://") == 1
        shutil.rmtree(suite.path / ".langasync")
        again = suite.plain(*BATCH, "-k", "plain")
        again.assert_outcomes(passed=1, deselected=1)
        assert "adopted" in output(again) and "seconds ago" in output(again)
        assert len(provider.ledger()) == 2

    def test_a_lost_reply_is_found_by_it(
        self, suite: Suite, provider: Sandbox, ahead: None
    ) -> None:
        suite.write(ONE_STEP)
        provider.set_faults({"http": [{"path": "POST /v1/batches", "reset": True, "after": True}]})
        suite.plain(*BATCH).assert_outcomes(passed=1)
        assert len(provider.ledger()) == 1


def test_a_time_to_come_counts_as_just_before_the_run(tmp_path: Path) -> None:
    world = World(tmp_path / "cache")
    world.clock.sleep(7200)
    world.run(ask(1))
    store = Store(world.root, clock=lambda: 11_000.0, started_at=11_000.0)
    store.open()
    answer = store.answer(ask(1).key)
    assert answer is not None and 10_990 < answer.received_at < 11_000
    assert answer.bought_at < 11_000 and len(store.problems) == 1

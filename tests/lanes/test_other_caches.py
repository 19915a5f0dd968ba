"""Several caches and one account: what another cache bought, waits for, or has to be left alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.cloud import ASKED, ENDED, RUNNING, World, ask, key_of

from pytest_langasync.cache.store import Store
from pytest_langasync.lanes.batch import Policy

DAY = 86400.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


def another(world: World, name: str, policy: Policy | None = None) -> None:
    """Go on with a new run of an empty cache."""
    world.root = world.root.parent / name
    world.start(policy=policy or Policy())


def copied(world: World, name: str) -> None:
    """Go on with a new run of a copy of this cache."""
    root = world.root.parent / name
    shutil.copytree(world.root, root)
    world.root = root
    world.start()


def told(world: World, kind: str) -> list[str]:
    return [event.message for event in world.events if event.kind == kind]


class TestAdoption:
    @pytest.mark.parametrize("ended", [True, False])
    def test_todays_answers_cost_nothing_here_and_are_told(self, world: World, ended: bool) -> None:
        world.cloud.default = ENDED if ended else RUNNING
        world.run(ask(1), ask(2), timeout=0)
        world.clock.sleep(5 * 3600)
        another(world, "lost")
        world.cloud.default = ENDED
        assert world.run(ask(1), ask(2)) and world.cloud.bought().total() == 2
        assert world.answer(1).foreign and world.answer(1).bought_at == 10_000.0
        (message,) = told(world, "adopted")
        assert "bought 5 hours ago, not by this cache" in message and "$0" in message
        world.start()
        assert world.answer(2).foreign, "nor in any later run"

    def test_old_answers_are_not_used_unless_asked_for(self, world: World) -> None:
        world.run(ask(1))
        world.clock.sleep(20 * DAY)
        another(world, "lost")
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 2}
        assert not world.answer(1).foreign and not told(world, "adopted")
        (message,) = told(world, "left")
        assert "the newest 20 days old" in message and "--langasync-adopt=30d" in message
        another(world, "asked", Policy(adopt=30 * DAY))
        world.cloud.jobs.pop("batch_2")
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}
        assert "bought 20 days ago" in told(world, "adopted")[0]

    def test_nothing_is_looked_for_where_nothing_is_to_be_adopted(self, world: World) -> None:
        world.run(ask(1))
        another(world, "lost", Policy(adopt=0.0))
        world.cloud.lists = [AssertionError("no list is asked for")]  # type: ignore[list-item]
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 2}

    def test_a_job_taken_in_by_its_id_is_not_paid_here_either(self, world: World) -> None:
        world.run(ask(1))
        another(world, "lost")
        world.batcher.attach("batch_1", ASKED)
        assert world.run(ask(1)) and world.answer(1).foreign and told(world, "adopted")


class TestOpaqueBatches:
    """Only the results of a batch tell whose it is, as at Anthropic."""

    @pytest.fixture
    def older(self, world: World) -> World:
        """Go on with a cache from before a batch of two requests was submitted."""
        world.cloud.tells_nonce = world.cloud.tells_ids = False
        world.run(ask(9))
        before = world.root.parent / "older"
        shutil.copytree(world.root, before)
        world.clock.sleep(3600)
        world.cloud.default = RUNNING
        assert not world.run(ask(1), ask(2), timeout=0)
        world.root = before
        world.start()
        world.events.clear()
        return world

    def test_a_running_one_is_waited_for(self, older: World) -> None:
        assert not older.run(ask(1), ask(2), ask(3), timeout=600)
        assert len(older.cloud.jobs) == 2
        (message,) = told(older, "waiting")
        assert "batch_2 (2 requests) runs" in message and "--langasync-adopt=0" in message
        assert "may hold them" in older.batcher.why_queued([key_of(1)])
        older.cloud.default = ENDED
        assert older.batcher.wait()
        assert older.cloud.bought() == {key_of(9): 1, **{key_of(n): 1 for n in (1, 2, 3)}}
        assert older.answer(1).foreign and not older.answer(3).foreign

    def test_a_later_run_waits_too(self, older: World) -> None:
        assert not older.run(ask(1), timeout=0)
        older.start()
        assert not older.run(ask(1), timeout=0) and len(older.cloud.jobs) == 2

    def test_a_strangers_is_waited_for_and_then_left_alone(self, older: World) -> None:
        older.cloud.jobs["batch_2"].lines = {"theirs-1": {"n": 1}, "theirs-2": {"n": 2}}
        assert not older.run(ask(1), ask(2), timeout=600)
        older.cloud.default = ENDED
        assert older.batcher.wait() and len(older.cloud.jobs) == 3
        assert not older.answer(1).foreign

    def test_one_of_quite_another_size_does_not_hold_anything_up(self, older: World) -> None:
        job = older.cloud.jobs["batch_2"]
        job.submission = replace(job.submission, count=500)
        older.run(ask(1), timeout=0)
        assert len(older.cloud.jobs) == 3

    def test_an_option_buys_at_once(self, older: World) -> None:
        older.start(policy=Policy(adopt=0.0))
        older.run(ask(1), timeout=0)
        assert len(older.cloud.jobs) == 3


class TestFiles:
    @pytest.fixture
    def judged(self, world: World) -> World:
        world.run(ask(1))
        return world

    def later(self, world: World, days: float) -> list[str]:
        """Buy something else so many days later; return what is deleted then."""
        world.clock.sleep(days * DAY)
        world.start()
        world.run(ask(7))
        return world.cloud.deleted

    def test_those_of_an_old_job_are_deleted(self, judged: World) -> None:
        assert self.later(judged, 1.1) == ["in-batch_1", "out-batch_1"]
        assert judged.store.job("batch_1").files == "deleted"  # type: ignore[union-attr]

    def test_within_a_day_somebody_may_wait_for_them(self, judged: World) -> None:
        assert self.later(judged, 0.9) == []

    def test_a_copy_of_the_cache_deletes_nothing(self, judged: World) -> None:
        copied(judged, "copy")
        assert self.later(judged, 40) == []

    def test_another_machine_deletes_nothing(
        self, judged: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("platform.node", lambda: "elsewhere")
        assert self.later(judged, 40) == []

    def test_an_adopted_job_keeps_them(self, judged: World) -> None:
        another(judged, "lost")
        assert judged.run(ask(1))
        assert self.later(judged, 40) == []

    def test_what_the_provider_does_not_call_ours_stays(self, judged: World) -> None:
        job = judged.cloud.jobs["batch_1"]
        job.submission = replace(job.submission, nonce="another", suite="another")
        assert self.later(judged, 2) == []
        assert judged.store.job("batch_1").files == "not ours"  # type: ignore[union-attr]

    def test_the_provider_names_the_file_and_not_the_cache(self, judged: World) -> None:
        job = judged.store.job("batch_1")
        assert job is not None
        judged.store.update_job(replace(job, input_ref="file-precious"))
        assert self.later(judged, 2) == ["in-batch_1", "out-batch_1"]


class TestWhoPays:
    def test_who_attaches_to_a_run_at_work_does_not_pay(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.run(ask(1), timeout=0)
        first, waiting = world.store, world.batcher
        world.clock.sleep(1)
        world.start()
        world.run(ask(1), timeout=0)
        world.cloud.default = ENDED
        assert world.batcher.wait() and waiting.wait()
        assert world.answer(1).foreign
        own = first.answer(key_of(1))
        assert own is not None and not own.foreign

    def test_who_goes_on_after_a_run_pays(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.run(ask(1), timeout=0)
        world.store.close()
        world.clock.sleep(1)
        world.start()
        world.cloud.default = ENDED
        assert world.run(ask(1)) and not world.answer(1).foreign
        world.clock.sleep(1)
        world.start()
        assert world.answer(1).foreign, "once"

    def test_a_copy_does_not_pay_what_the_first_cache_submitted(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.run(ask(1), timeout=0)
        world.store.close()
        first = world.root
        copied(world, "copy")
        world.cloud.default = ENDED
        assert world.run(ask(1)) and world.answer(1).foreign
        world.root = first
        world.start()
        assert world.run(ask(1)) and not world.answer(1).foreign
        assert world.cloud.bought() == {key_of(1): 1}

    def test_what_a_run_elsewhere_in_this_cache_sends_at_once(self, world: World) -> None:
        """Each process has a file of its own: workers share the run, other runs do not."""
        runs = [Store(world.root, clock=world.clock, started_at=at) for at in (1.0, 1.0, 2.0)]
        assert runs[0].run == runs[1].run != runs[2].run

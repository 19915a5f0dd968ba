"""Batches: each request is bought once, whatever dies on the way."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from support.cloud import (
    ALICE,
    ASKED,
    BOB,
    ENDED,
    RUNNING,
    URL,
    World,
    ask,
    key_of,
)

from pytest_langasync.cache.store import Store
from pytest_langasync.exceptions import (
    ConfigurationError,
    CreateUnknownError,
    ProviderError,
)
from pytest_langasync.lanes import RunContext
from pytest_langasync.lanes.batch.batcher import Batcher, Policy
from pytest_langasync.providers import Created, Limits, Submission


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


class TestSubmit:
    def test_everything_comes_back_by_id(self, world: World) -> None:
        assert world.run(*(ask(n) for n in range(5)))
        assert [world.answer(n).body for n in range(5)] == [{"echo": n} for n in range(5)]
        assert world.answer(3).job_id == "batch_1" and len(world.cloud.jobs) == 1
        assert world.kinds() == ["uploading", "submitted", "collected"]

    def test_a_second_run_buys_nothing(self, world: World) -> None:
        world.run(ask(1))
        world.start()
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}

    def test_a_key_asked_for_twice_is_sent_once(self, world: World) -> None:
        world.run(ask(1), ask(1))
        assert world.cloud.bought() == {key_of(1): 1}

    def test_groups(self, world: World) -> None:
        other_url = "https://eu.api.openai.com/v1"
        world.run(
            ask(1),
            ask(2, model="gpt-y"),
            ask(3, endpoint="/responses"),
            ask(4, headers=(("openai-beta", "z"),)),
            ask(5, credentials=BOB),
            ask(6, base_url=other_url),
            ask(7),
        )
        sizes = sorted(len(job.lines) for job in world.cloud.jobs.values())
        assert sizes == [1, 1, 1, 1, 1, 2]
        assert ("openai", other_url, ALICE.account) in world.cloud.connected
        assert ("openai", URL, BOB.account) in world.cloud.connected
        assert {job.model for job in world.store.jobs()} == {"gpt-x", "gpt-y"}

    def test_models_are_mixed_where_the_provider_allows(self, world: World) -> None:
        claude = {"provider": "anthropic", "endpoint": "/messages"}
        world.run(ask(1, model="a", **claude), ask(2, model="b", **claude))
        assert [job.model for job in world.store.jobs()] == [""]

    def test_priority_decides_the_order(self, world: World) -> None:
        world.run(ask(1, priority=2), ask(2), ask(3, priority=0))
        order = [int(body["n"]) for job in world.cloud.jobs.values() for body in job.lines.values()]
        assert order == [3, 2, 1]

    def test_split_by_bytes(self, world: World) -> None:
        world.run(*(ask(n, size=90_000_000) for n in range(5)))
        assert sorted(len(job.lines) for job in world.cloud.jobs.values()) == [1, 2, 2]

    def test_split_by_count(self, world: World) -> None:
        class Small:
            limits = Limits(requests=2, bytes=10**9, one_model=True)
            line_bytes = staticmethod(lambda custom_id, size: size)

        world.start(lookup=lambda name: Small())
        world.run(*(ask(n) for n in range(5)))
        assert sorted(len(job.lines) for job in world.cloud.jobs.values()) == [1, 2, 2]

    def test_texts_to_embed_count_one_by_one(self, world: World) -> None:
        world.run(*(ask(n, endpoint="/embeddings", inputs=2_048) for n in range(30)))
        assert sorted(len(job.lines) for job in world.cloud.jobs.values()) == [6, 24]

    def test_a_wrong_key_does_not_stop_other_groups(self, world: World) -> None:
        def refuse() -> None:
            raise ConfigurationError("401")

        world.cloud.creates = [refuse]
        with pytest.raises(ConfigurationError, match="401"):
            world.submit(ask(1, model="a"), ask(2, model="b"))
        assert world.batcher.wait() and world.answer(2).ok
        assert world.store.open_submissions() == [] and world.store.answer(key_of(1)) is None

    def test_all_that_needs_a_person_is_told_at_once(self, world: World) -> None:
        def refuse(text: str) -> None:
            raise ConfigurationError(text)

        def break_off() -> None:
            raise ProviderError("no answer")

        world.cloud.creates = [lambda: refuse("key a"), break_off, lambda: refuse("key b")]
        with pytest.raises(ConfigurationError) as caught:
            world.submit(*(ask(n, model=str(n)) for n in range(3)))
        assert str(caught.value) == "key a; key b"

    def test_a_failed_upload_leaves_no_intent(self, world: World) -> None:
        def fail() -> None:
            raise ProviderError("unreachable")

        world.cloud.creates = [fail]
        with pytest.raises(ProviderError, match="unreachable"):
            world.submit(ask(1))
        assert world.store.open_submissions() == []
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}

    def test_two_runs_at_once_buy_once(self, world: World) -> None:
        world.cloud.default = RUNNING
        first = world.batcher
        world.submit(ask(1))
        world.start()
        world.submit(ask(1), ask(2))
        world.cloud.default = ENDED
        assert world.batcher.wait() and first.wait()
        assert world.cloud.bought() == {key_of(1): 1, key_of(2): 1}

    def test_eight_sessions_at_once_buy_once(self, world: World) -> None:
        start, errors = threading.Barrier(8), []

        def session() -> None:
            store = Store(world.root)
            batcher = Batcher(
                RunContext(store, connect=world.cloud.connect), Policy(first_poll=0.01)
            )
            store.spool(ask(1), {"n": 1})
            start.wait(10)
            batcher.submit([ask(1)], lambda key: store.answer(key) is not None)
            if not batcher.wait(30) or store.answer(key_of(1)) is None:
                errors.append("not answered")

        threads = [threading.Thread(target=session) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == [] and world.cloud.bought() == {key_of(1): 1}


class Killed(BaseException):
    pass


class TestCrashes:
    @pytest.mark.parametrize("tells_nonce", [True, False])
    @pytest.mark.parametrize("created", [True, False])
    def test_killed_during_creation(self, world: World, created: bool, tells_nonce: bool) -> None:
        world.cloud.tells_nonce = tells_nonce
        create = world.cloud.create

        def die(submission: Submission) -> Created:
            if created:
                create(submission)
            raise Killed

        world.cloud.create = die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            world.submit(ask(1), ask(2))
        world.cloud.create = create  # type: ignore[method-assign]
        world.start()
        assert world.run(ask(1), ask(2), ask(3))
        assert world.cloud.bought() == {key_of(n): 1 for n in (1, 2, 3)}
        assert world.store.open_submissions() == [] and world.answer(2).ok

    @pytest.mark.parametrize("created", [True, False])
    def test_a_create_of_unknown_outcome(self, world: World, created: bool) -> None:
        def reset() -> None:
            raise CreateUnknownError("reset before the server acted")

        if created:
            world.cloud.lost_replies = 1
        else:
            world.cloud.creates = [reset]
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}
        assert world.store.open_submissions() == []

    def test_nothing_is_bought_while_the_list_cannot_be_read(self, world: World) -> None:
        world.start(suite="")
        world.cloud.lost_replies = 1
        world.cloud.lists = [ProviderError("503")] * 2
        for _ in range(2):
            with pytest.raises(ProviderError, match="503"):
                world.submit(ask(1))
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}

    def test_nothing_is_bought_while_a_running_job_may_be_ours(self, world: World) -> None:
        cloud = world.cloud
        cloud.tells_nonce = cloud.tells_ids = False
        cloud.default, cloud.lost_replies = RUNNING, 1
        world.submit(ask(1))
        assert "outcome is open" in world.batcher.why_queued([key_of(1)])
        assert not world.batcher.wait(0)
        told = [event.message for event in world.events if "in doubt" in event.message]
        assert len(told) == 1 and "doctor" in told[0]
        world.start()
        assert not world.run(ask(1), timeout=600) and len(cloud.jobs) == 1
        cloud.default = ENDED
        assert world.batcher.wait() and world.answer(1).ok
        assert cloud.bought() == {key_of(1): 1}

    def test_a_strangers_job_of_the_same_size_is_not_ours(self, world: World) -> None:
        cloud = world.cloud
        cloud.tells_nonce = cloud.tells_ids = False
        stranger = Submission("x", "/e", (), [("theirs", {"n": 1})], 1)
        cloud.create(stranger)
        cloud.jobs["batch_1"].status = RUNNING

        def reset() -> None:
            raise CreateUnknownError("reset before the server acted")

        cloud.creates = [reset]
        world.submit(ask(1))
        assert world.batcher.why_queued([key_of(1)]) and len(cloud.jobs) == 1
        cloud.jobs["batch_1"].status = ENDED
        assert world.batcher.wait() and world.answer(1).ok and len(cloud.jobs) == 2

    def test_killed_while_waiting(self, world: World) -> None:
        world.cloud.default = RUNNING
        assert not world.run(ask(1), timeout=0)
        world.start()
        world.cloud.default = ENDED
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}
        assert "attached" in world.kinds()

    def test_vanished_cache_is_found_again_by_its_suite(self, world: World, tmp_path: Path) -> None:
        world.cloud.default = RUNNING
        world.run(ask(1), timeout=0)
        world.cloud.default = ENDED
        world.root = tmp_path / "new"
        world.start()
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}

    @pytest.mark.parametrize("tells_nonce", [True, False])
    def test_an_older_cache_is_completed_from_the_provider(
        self, world: World, tmp_path: Path, tells_nonce: bool
    ) -> None:
        """A cache that CI restored knows the first job and not the second; so does one of which a
        kill interrupted the repair."""
        world.cloud.tells_nonce = tells_nonce
        world.run(ask(1))
        shutil.copytree(world.root, tmp_path / "old")
        world.run(ask(2, model="gpt-y"), ask(3))
        world.root = tmp_path / "old"
        world.start()
        assert world.run(ask(1), ask(2, model="gpt-y"))
        world.start()
        assert world.run(ask(1), ask(2, model="gpt-y"), ask(3))
        assert world.cloud.bought() == {key_of(n): 1 for n in (1, 2, 3)}

    @pytest.mark.parametrize("patience", [60.0, 5.0])
    def test_a_list_that_lags_behind(self, world: World, patience: float) -> None:
        world.start(policy=Policy(patience=patience))
        world.cloud.lost_replies, world.cloud.lag = 1, 30.0
        world.run(ask(1))
        assert world.cloud.bought() == {key_of(1): 1 if patience > 30 else 2}
        messages = [event.message for event in world.events if event.kind == "waiting"]
        assert messages and "looking for it at the provider" in messages[0]

    def test_an_old_intent_is_looked_for_once(self, world: World) -> None:
        def die() -> None:
            raise Killed

        world.cloud.creates = [die]
        with pytest.raises(Killed):
            world.submit(ask(1))
        world.clock.sleep(3600)
        world.start()
        begun = world.clock()
        world.submit(ask(1))
        assert world.clock() == begun and world.cloud.bought() == {key_of(1): 1}

    @pytest.mark.parametrize("tells_ids", [True, False])
    @pytest.mark.parametrize("running", [True, False])
    def test_resume_by_id_with_an_empty_cache(
        self, world: World, tmp_path: Path, tells_ids: bool, running: bool
    ) -> None:
        world.cloud.tells_ids = tells_ids
        world.cloud.default = RUNNING
        world.run(ask(1), timeout=0)
        world.cloud.default = RUNNING if running else ENDED
        world.root = tmp_path / "new"
        world.start(suite="")
        assert world.batcher.attach("batch_1", ASKED).id == "batch_1"
        world.submit(ask(1), ask(2, base_url="https://elsewhere.test/v1"))
        world.cloud.default = ENDED
        assert world.batcher.wait()
        assert world.cloud.bought() == {key_of(1): 1, key_of(2): 1} and world.answer(1).ok

    def test_resume_of_a_job_that_nobody_knows(self, world: World) -> None:
        with pytest.raises(ConfigurationError, match="no batch batch_9"):
            world.batcher.attach("batch_9", ASKED)
        world.run(ask(1, base_url="https://elsewhere.test/v1"))
        with pytest.raises(ConfigurationError, match="no call of this run goes there"):
            world.batcher.attach("batch_1", ASKED)

    def test_damaged_answers_are_fetched_again_not_bought(self, world: World) -> None:
        world.run(ask(1), ask(2))
        (path,) = world.root.glob("jobs/*/results.jsonl")
        path.write_bytes(path.read_bytes()[:-10])
        world.start()
        assert world.run(ask(1), ask(2)) and world.answer(1).ok and world.answer(2).ok
        assert set(world.cloud.bought().values()) == {1}

"""Damaged files: whichever one it is, nothing is bought again and no bought answer is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cloud import ENDED, RUNNING, World, ask, key_of

from pytest_langasync.exceptions import CacheError, ProviderError
from pytest_langasync.models import JobState

DAY = 86400.0
ASKS = [ask(number) for number in (1, 2, 3)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


def files(world: World) -> list[Path]:
    """Return the files of jobs and submissions."""
    found = (path for name in ("jobs", "intents") for path in (world.root / name).rglob("*"))
    return sorted(path for path in found if path.is_file())


def flip(path: Path, place: int | None = None) -> None:
    """Flip a bit: by default the lowest in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[Path], None]:
    """Draw what becomes of a file."""
    kind = draw(st.sampled_from(["flipped", "cut", "zeroed", "gone"]))
    number = draw(st.integers(0, 10**6))

    def damage(path: Path) -> None:
        data = path.read_bytes()
        place = number % len(data)
        if kind == "flipped":
            flip(path, place)
        elif kind == "cut":
            path.write_bytes(data[:place])
        elif kind == "zeroed":
            path.write_bytes(data[:place] + bytes(len(data) - place))
        else:
            path.unlink()

    return damage


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    damage=damages(),
    running=st.booleans(),
    tells=st.booleans(),
)
def test_one_damaged_file_of_a_job(
    data: st.DataObject, damage: Callable[[Path], None], running: bool, tells: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "cache")
        world.cloud.tells_nonce = world.cloud.tells_ids = tells
        world.cloud.default = RUNNING if running else ENDED
        world.run(*ASKS, timeout=0)
        damage(data.draw(st.sampled_from(files(world))))
        world.cloud.default = ENDED
        world.start()
        assert world.run(*ASKS, timeout=DAY)
        assert world.clock() < 10_000 + DAY, "nobody waits when all is there"
        assert set(world.cloud.bought().values()) == {1}
        assert [world.answer(n).body["echo"] for n in (1, 2, 3)] == [1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), damage=damages(), tells=st.booleans())
def test_one_damaged_file_of_a_submission(
    data: st.DataObject, damage: Callable[[Path], None], tells: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "cache")
        world.cloud.tells_nonce = tells
        in_doubt(world)
        damage(data.draw(st.sampled_from(files(world))))
        world.start()
        assert world.run(*ASKS)
        assert set(world.cloud.bought().values()) == {1}


def in_doubt(world: World) -> str:
    """Leave a submission whose outcome is unknown; return its nonce."""
    world.cloud.lost_replies = 1
    world.cloud.creates = [lambda: world.cloud.lists.extend([ProviderError("no list")] * 9)]
    with pytest.raises(ProviderError):
        world.submit(*ASKS)
    world.cloud.lists = []
    assert world.cloud.bought().total() == 3
    (nonce,) = world.store.intents.nonces()
    return nonce


class TestJobs:
    @pytest.mark.parametrize("running", [True, False])
    def test_a_damaged_document_is_named_and_mended(self, world: World, running: bool) -> None:
        world.cloud.default = RUNNING if running else ENDED
        world.run(*ASKS, timeout=0)
        flip(world.root / "jobs/batch_1/job.json")
        world.start()
        (problem,) = world.store.problems
        assert "job.json: damaged (" in problem and problem.endswith("its copy is read")
        assert (world.store.in_flight(key_of(2)) is not None) == running
        with world.store.lock():
            pass
        world.start()
        assert world.store.problems == [] and len(world.store.jobs()) == 1

    def test_what_no_file_can_tell_is_not_bought_before_it_is_taken_in(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.run(*ASKS, timeout=0)
        for name in ("job.json", "job.json.copy"):
            flip(world.root / "jobs/batch_1" / name)
        world.start()
        assert "without a whole copy" in world.store.problems[0]
        with pytest.raises(CacheError, match=r"job batch_1 .*--langasync-resume=batch_1"):
            world.submit(*ASKS)
        world.cloud.default = ENDED
        world.batcher.attach("batch_1", ASKS[0].target)
        assert world.run(*ASKS) and world.cloud.bought().total() == 3
        assert world.store.requests_in("batch_1")[0].owner == "test_1"

    def test_answers_are_read_whatever_else_is_lost(self, world: World) -> None:
        world.run(*ASKS)
        for path in files(world):
            if path.name != "results.jsonl":
                flip(path)
        world.start()
        assert world.run(*ASKS) and world.cloud.bought().total() == 3
        assert world.answer(1).job_id == "batch_1" and world.answer(1).source == "batch"

    def test_a_cache_without_copies_gets_them(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.run(*ASKS, timeout=0)
        copy = world.root / "jobs/batch_1/job.json.copy"
        copy.unlink()
        world.start()
        assert world.store.problems == [] and not copy.exists(), "reading changes nothing"
        with world.store.lock():
            assert copy.exists()
        assert world.store.in_flight(key_of(1)) is not None

    def test_a_request_that_cannot_be_read_waits_for_its_job(self, world: World) -> None:
        world.cloud.default, world.cloud.tells_ids = RUNNING, False
        world.run(*ASKS, timeout=0)
        flip(world.root / "jobs/batch_1/requests.jsonl")
        world.start()
        assert world.store.in_flight(key_of(2)) is None
        assert not world.store.contents_known("batch_1")
        world.run(*ASKS, timeout=0)
        assert world.cloud.bought().total() == 3 and world.batcher.running
        assert "requests.jsonl: a damaged line" in world.store.problems[0]
        world.cloud.default = ENDED
        assert world.batcher.wait(DAY) and world.clock() < 10_000 + DAY
        assert world.cloud.bought().total() == 3 and world.answer(2).ok


class TestSubmissions:
    def test_nothing_is_bought_while_one_cannot_be_read(self, world: World) -> None:
        nonce = in_doubt(world)
        for name in (f"{nonce}.json", f"{nonce}.json.copy"):
            flip(world.root / "intents" / name)
        for _ in range(2):
            world.start()
            with pytest.raises(CacheError, match=rf"submission {nonce} .*doctor --forget {nonce}"):
                world.submit(*ASKS)
        assert world.cloud.bought().total() == 3
        with world.store.lock():
            world.store.intents.drop(nonce)
        world.start(suite="")
        assert world.run(*ASKS) and [job.id for job in world.store.jobs()] == ["batch_2"]

    def test_reading_takes_nothing_from_another_process(self, world: World) -> None:
        """Its requests are written before the submission itself."""
        world.run(*ASKS)
        path = world.root / "intents/abcdefghijkl.requests.jsonl"
        path.write_text("being written")
        world.start()
        assert world.store.open_submissions() == [] and path.exists()
        with world.store.lock():
            assert not path.exists(), "with the lock held nobody writes"

    def test_one_that_is_a_job_already_is_completed_although_damaged(self, world: World) -> None:
        nonce = in_doubt(world)
        saved = {path: path.read_bytes() for path in files(world)}
        assert world.run(*ASKS)
        for path, data in saved.items():
            path.write_bytes(data)
        for path in files(world):
            if nonce in path.name and "requests" not in path.name:
                flip(path)
        world.start()
        with world.store.lock():
            assert world.store.open_submissions() == [] and world.store.intents.nonces() == []
        (job,) = world.store.jobs()
        assert job.state is JobState.ENDED and world.answer(1).ok

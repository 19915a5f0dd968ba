"""Batches: each request bought once, each answer kept, whatever the provider does."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_langasync.batch import Batcher, Policy
from pytest_langasync.exceptions import (
    CapacityError,
    ConfigurationError,
    CreateUnknownError,
    JobNotFoundError,
    ProviderError,
)
from pytest_langasync.models import (
    Answer,
    Credentials,
    Event,
    JobState,
    JobStatus,
    Pending,
    Row,
    split_custom_id,
)
from pytest_langasync.providers import Created, Found, Limits, Submission
from pytest_langasync.store import Store

URL = "https://api.openai.com/v1"
ALICE = Credentials({"authorization": "Bearer alice"})
BOB = Credentials({"authorization": "Bearer bob"})
RUNNING = JobStatus(JobState.RUNNING, "in_progress")
ENDED = JobStatus(JobState.ENDED, "completed")


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class CloudJob:
    job_id: str
    submission: Submission
    lines: dict[str, Mapping[str, Any]]
    created_at: float
    status: JobStatus | None = None
    """What polls say; None means what the cloud says."""


@dataclass
class Cloud:
    """A provider in memory, with accounts of its own. Also the client of itself."""

    clock: Clock
    tells_nonce: bool = True
    tells_ids: bool = True
    default: JobStatus = ENDED
    jobs: dict[str, CloudJob] = field(default_factory=dict)
    creates: list[Callable[[], None]] = field(default_factory=list)
    """Faults of the next creations: called before one (may raise)."""
    lost_replies: int = 0
    """How many of the next creations succeed without the caller learning of it."""
    polls: list[Exception | JobStatus] = field(default_factory=list)
    """What the next polls bring, ahead of the jobs' own status."""
    lists: list[Exception] = field(default_factory=list)
    reply: Callable[[str, Mapping[str, Any]], Iterable[Row]] = lambda cid, body: [
        Row(cid, 200, {"echo": body["n"]}, "req")
    ]
    cancelled: list[str] = field(default_factory=list)
    polled_at: list[float] = field(default_factory=list)
    connected: list[tuple[str, str, str]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, name: str, url: str, credentials: Credentials, headers: Any) -> Cloud:
        self.connected.append((name, url, credentials.account))
        return self

    def bought(self) -> Counter[str]:
        """How often each key was run, over all jobs that were not rejected."""
        ran = [j for j in self.jobs.values() if (j.status or ENDED).state is not JobState.REJECTED]
        return Counter(split_custom_id(cid)[1] for job in ran for cid in job.lines)

    def create(self, submission: Submission) -> Created:
        lines = dict(submission.lines)
        assert len(lines) == submission.count == len(list(submission.lines))
        if self.creates:
            self.creates.pop(0)()
        job_id = f"batch_{len(self.jobs) + 1}"
        self.jobs[job_id] = CloudJob(job_id, submission, lines, self.clock())
        if self.lost_replies:
            self.lost_replies -= 1
            raise CreateUnknownError("connection reset")
        return Created(job_id, self.clock(), "file-1")

    def status(self, job_id: str) -> JobStatus:
        with self.guard:
            self.polled_at.append(self.clock())
            if self.polls:
                step = self.polls.pop(0)
                if isinstance(step, Exception):
                    raise step
                return step
            if job_id not in self.jobs:
                raise JobNotFoundError(f"no batch {job_id}")
            return self.jobs[job_id].status or self.default

    def rows(self, job_id: str, status: JobStatus) -> Iterator[Row]:
        for custom_id, body in reversed(self.jobs[job_id].lines.items()):
            yield from self.reply(custom_id, body)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        if self.lists:
            raise self.lists.pop(0)
        for job in reversed(list(self.jobs.values())):
            if job.created_at >= since:
                sub = job.submission
                shown = (sub.nonce, sub.suite) if self.tells_nonce else ("", "")
                running = (job.status or self.default).state is JobState.RUNNING
                yield Found(
                    job.job_id, job.created_at, sub.count, *shown, sub.endpoint, running=running
                )

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        job = self.jobs[job_id]
        running = (job.status or self.default).state is JobState.RUNNING
        return None if running and not self.tells_ids else frozenset(job.lines)

    def has_batch_api(self) -> bool:
        return True

    def delete_files(self, refs: Iterable[str]) -> None: ...

    def close(self) -> None: ...


class World:
    """A cache, a provider, and runs that come and go."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.cloud = Cloud(self.clock)
        self.events: list[Event] = []
        self.start()

    def start(self, **options: Any) -> None:
        """Begin a new run, as a new process would."""
        self.store = Store(self.root, clock=self.clock)
        self.store.open()
        policy = options.pop("policy", Policy(max_retries=3, lookup_pause=0.5))
        self.batcher = Batcher(
            self.store,
            policy=policy,
            notify=self.events.append,
            connect=self.cloud.connect,
            clock=self.clock,
            sleep=self.clock.sleep,
            **{"suite": "suite", **options},
        )

    def submit(self, *pendings: Pending) -> None:
        for item in pendings:
            self.store.spool(item, {"model": item.model, "n": int(item.key, 16)})
        self.batcher.submit(pendings, self.valid)

    def valid(self, key: str) -> bool:
        answer = self.store.answer(key)
        return answer is not None and answer.ok

    def run(self, *pendings: Pending, timeout: float | None = None) -> bool:
        self.submit(*pendings)
        return self.batcher.wait(timeout)

    def answer(self, number: int) -> Answer:
        answer = self.store.answer(key_of(number))
        assert answer is not None
        return answer

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def key_of(number: int) -> str:
    return f"{number:040x}"


def ask(number: int, **changes: Any) -> Pending:
    item = Pending(
        key_of(number), f"test_{number}", 0, "openai", URL, "/chat/completions", (), "gpt-x", 50,
        ALICE,
    )  # fmt: skip
    return replace(item, **changes)


def failing(number: int, rows: list[Row | None]) -> Callable[[str, Mapping[str, Any]], list[Row]]:
    """Reply to one request with these in turn (None: nothing), to others as ever."""

    def reply(custom_id: str, body: Mapping[str, Any]) -> list[Row]:
        if body["n"] == number and rows:
            row = rows.pop(0)
            return [] if row is None else [replace(row, custom_id=custom_id)]
        return [Row(custom_id, 200, {"echo": body["n"]})]

    return reply


OVERLOADED = Row("", 529, {"error": "overloaded"}, retryable=True)


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

    def test_a_wrong_key_does_not_stop_other_groups(self, world: World) -> None:
        def refuse() -> None:
            raise ConfigurationError("401")

        world.cloud.creates = [refuse]
        with pytest.raises(ConfigurationError, match="401"):
            world.submit(ask(1, model="a"), ask(2, model="b"))
        assert world.batcher.wait() and world.answer(2).ok
        assert world.store.intents() == [] and world.store.answer(key_of(1)) is None

    def test_a_failed_upload_leaves_no_intent(self, world: World) -> None:
        def fail() -> None:
            raise ProviderError("unreachable")

        world.cloud.creates = [fail]
        with pytest.raises(ProviderError, match="unreachable"):
            world.submit(ask(1))
        assert world.store.intents() == []
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
            batcher = Batcher(store, connect=world.cloud.connect, policy=Policy(first_poll=0.01))
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
        assert world.store.intents() == [] and world.answer(2).ok

    @pytest.mark.parametrize("created", [True, False])
    def test_a_create_of_unknown_outcome(self, world: World, created: bool) -> None:
        def reset() -> None:
            raise CreateUnknownError("reset before the server acted")

        if created:
            world.cloud.lost_replies = 1
        else:
            world.cloud.creates = [reset]
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}
        assert world.store.intents() == []

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
        assert world.batcher.queued == {key_of(1)} and not world.batcher.wait(0)
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
        assert world.batcher.queued and len(cloud.jobs) == 1
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
        assert world.batcher.attach("batch_1", ALICE, URL).id == "batch_1"
        world.submit(ask(1), ask(2, base_url="https://elsewhere.test/v1"))
        world.cloud.default = ENDED
        assert world.batcher.wait()
        assert world.cloud.bought() == {key_of(1): 1, key_of(2): 1} and world.answer(1).ok

    def test_resume_of_a_job_that_nobody_knows(self, world: World) -> None:
        with pytest.raises(ConfigurationError, match="does not know the job"):
            world.batcher.attach("batch_9", ALICE, URL)
        with pytest.raises(ConfigurationError, match="not a job ID"):
            world.batcher.attach("nonsense", ALICE, URL)

    def test_damaged_answers_are_fetched_again_not_bought(self, world: World) -> None:
        world.run(ask(1), ask(2))
        (path,) = world.root.glob("jobs/*/results.jsonl")
        path.write_bytes(path.read_bytes()[:-10])
        world.start()
        assert world.run(ask(1), ask(2)) and world.answer(1).ok and world.answer(2).ok
        assert set(world.cloud.bought().values()) == {1}


class TestWaiting:
    def test_polls_quickly_then_gently(self, world: World) -> None:
        world.cloud.polls = [RUNNING] * 12
        start = world.clock()
        world.run(ask(1))
        times = [start, *world.cloud.polled_at]
        pauses = [later - sooner for sooner, later in zip(times, times[1:], strict=False)]
        assert pauses[0] == 1.0 and 1.7 <= pauses[1] <= 2.0 and 3.5 <= pauses[2] <= 4.0
        assert all(53 <= pause <= 60 for pause in pauses[7:])

    def test_never_sooner_than_retry_after(self, world: World) -> None:
        world.cloud.polls = [replace(RUNNING, retry_after=300.0)]
        world.submit(ask(1))
        assert not world.batcher.wait(2) and not world.batcher.wait(0)
        assert len(world.cloud.polled_at) == 1
        assert world.batcher.wait()
        assert world.cloud.polled_at[1] - world.cloud.polled_at[0] >= 300

    def test_deadline(self, world: World) -> None:
        world.cloud.default = RUNNING
        start = world.clock()
        assert not world.run(ask(1), timeout=100)
        assert 100 <= world.clock() - start < 101
        assert [job.id for job in world.batcher.running] == ["batch_1"]
        world.cloud.default = ENDED
        assert world.batcher.wait(0) and world.batcher.running == []

    def test_trouble_is_told_and_tried_again(self, world: World) -> None:
        world.cloud.polls = [ProviderError("502"), ProviderError("reset")]
        assert world.run(ask(1)) and world.answer(1).ok
        assert [e.message for e in world.events if e.kind == "trouble"] == ["502", "reset"]

    def test_a_broken_download_is_tried_again(self, world: World) -> None:
        replies = iter([ProviderError("truncated")])

        def reply(custom_id: str, body: Mapping[str, Any]) -> Iterator[Row]:
            yield Row(custom_id, 200, {})
            for error in replies:
                raise error

        world.cloud.reply = reply
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}

    def test_a_refused_key_is_raised_after_the_others(self, world: World) -> None:
        world.submit(ask(1), ask(2, model="gpt-y"))
        world.cloud.polls = [ConfigurationError("401")]
        with pytest.raises(ConfigurationError, match="401"):
            world.batcher.wait()
        assert len([n for n in (1, 2) if world.store.answer(key_of(n))]) == 1

    def test_progress_is_told_once_per_change(self, world: World) -> None:
        half = replace(RUNNING, total=2, completed=1)
        world.cloud.polls = [RUNNING, RUNNING, half, half]
        world.run(ask(1))
        assert world.kinds().count("progress") == 2

    def test_many_jobs_are_polled_at_the_same_time(self, world: World) -> None:
        together = threading.Barrier(3)
        status = world.cloud.status

        def meet(job_id: str) -> JobStatus:
            together.wait(10)
            return status(job_id)

        world.cloud.status = meet  # type: ignore[method-assign]
        assert world.run(*(ask(n, model=f"m{n}") for n in range(3)))

    def test_more_jobs_than_polls_at_once(self, world: World) -> None:
        assert world.run(*(ask(n, model=f"m{n}") for n in range(20)), timeout=0)
        assert len(world.cloud.jobs) == 20

    def test_interrupt_leaves_at_once_and_the_job_goes_on(self, world: World) -> None:
        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        world.batcher = Batcher(
            world.store, connect=world.cloud.connect, clock=world.clock, sleep=interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            world.run(ask(1))
        world.start()
        assert world.run(ask(1)) and world.cloud.bought() == {key_of(1): 1}

    def test_cancel(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.submit(ask(1), ask(2))
        world.batcher.cancel_all()
        assert world.cloud.cancelled == ["batch_1"]
        world.cloud.default = replace(ENDED, word="cancelled")
        world.cloud.reply = failing(1, [None])
        assert world.batcher.wait() and world.batcher.retries == []
        assert world.store.answer(key_of(1)) is None and world.answer(2).ok


class TestRetries:
    @pytest.mark.parametrize(
        ("bad", "reason"), [(OVERLOADED, "529"), (None, "missing")], ids=["overloaded", "missing"]
    )
    def test_what_was_not_at_fault_is_sent_again(
        self, world: World, bad: Row | None, reason: str
    ) -> None:
        world.cloud.reply = failing(1, [bad, bad])
        assert world.run(ask(1), ask(2))
        assert world.answer(1).body == {"echo": 1} and world.answer(1).job_id == "batch_3"
        assert world.cloud.bought() == {key_of(1): 3, key_of(2): 1}
        assert world.batcher.retries == [("batch_1", reason, 1), ("batch_2", reason, 1)]
        links = [job.metadata.get("retry_of") for job in world.store.jobs()]
        assert links == [None, "batch_1", "batch_2"]

    def test_what_was_at_fault_is_not(self, world: World) -> None:
        world.cloud.reply = failing(1, [Row("", 400, {"error": "bad"})])
        assert world.run(ask(1)) and world.answer(1).status == 400
        assert world.cloud.bought() == {key_of(1): 1}

    def test_exhausted_retries_leave_the_error(self, world: World) -> None:
        world.cloud.reply = failing(1, [OVERLOADED] * 9)
        assert world.run(ask(1)) and world.answer(1).status == 529
        assert world.cloud.bought() == {key_of(1): 4}

    @pytest.mark.parametrize("provider", ["openai", "anthropic"])
    def test_exhausted_missing_rows_become_an_error(self, world: World, provider: str) -> None:
        world.cloud.reply = failing(1, [None] * 9)
        assert world.run(ask(1, provider=provider, max_retries=1), ask(2, provider=provider))
        answer = world.answer(1)
        assert answer.status == 500 and answer.job_id == "batch_2"
        assert "no result for this request (job batch_2)" in answer.body["error"]["message"]
        assert (answer.body.get("type") == "error") == (provider == "anthropic")

    def test_own_limit_of_a_call(self, world: World) -> None:
        world.cloud.reply = failing(1, [OVERLOADED] * 9)
        assert world.run(ask(1, max_retries=0)) and world.cloud.bought() == {key_of(1): 1}

    def test_partial_output_is_kept(self, world: World) -> None:
        expired = Row("", 408, {"error": "expired"}, retryable=True)
        world.cloud.reply = failing(2, [expired])
        world.cloud.polls = [replace(ENDED, word="expired")]
        assert world.run(ask(1), ask(2), ask(3)) and world.answer(2).ok
        assert world.cloud.bought() == {key_of(1): 1, key_of(2): 2, key_of(3): 1}

    def test_trouble_with_the_second_sending_is_waited_out(self, world: World) -> None:
        def fail() -> None:
            raise ProviderError("unreachable")

        world.cloud.reply = failing(1, [OVERLOADED])
        world.submit(ask(1))
        world.cloud.creates = [fail, fail]
        assert world.batcher.wait() and world.answer(1).ok

    def test_a_job_is_gone_only_when_it_stays_gone(self, world: World) -> None:
        world.submit(ask(1))
        gone = JobNotFoundError("no batch")
        world.cloud.polls = [gone, gone, gone, gone, gone]
        assert world.batcher.wait() and world.cloud.bought() == {key_of(1): 1}
        world.start()
        world.cloud.default = RUNNING
        world.submit(ask(2))
        world.clock.sleep(500)
        world.cloud.polls = [gone, gone, gone]
        world.cloud.default = ENDED
        assert world.batcher.wait() and world.cloud.bought() == {key_of(1): 1, key_of(2): 2}
        assert world.batcher.retries == [("batch_2", "gone", 1)]

    def test_runs_that_poll_once_find_out_too(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.run(ask(1), timeout=0)
        world.cloud.default = ENDED
        for _ in range(3):
            world.clock.sleep(500)
            world.start()
            world.cloud.polls = [JobNotFoundError("no batch")]
            world.run(ask(1), timeout=0)
        assert world.cloud.bought() == {key_of(1): 2}

    def test_refresh_keeps_old_answers_out_of_retries(self, world: World) -> None:
        world.run(ask(1))
        world.clock.sleep(100)
        world.cloud.reply = failing(1, [None])
        cutoff = world.clock()

        def valid(key: str) -> bool:
            entry = world.store.peek(key)
            return entry is not None and entry.age[0] >= cutoff

        world.batcher.submit([ask(1)], valid)
        assert world.batcher.wait() and world.answer(1).job_id == "batch_3"


REJECTED = JobStatus(JobState.REJECTED, "failed")


class TestRejections:
    def reject(self, world: World, code: str, reason: str, *pendings: Pending) -> None:
        world.submit(*pendings)
        job = world.cloud.jobs["batch_1"]
        job.status = replace(REJECTED, reason=reason, reason_code=code)
        assert world.batcher.wait()

    @pytest.mark.parametrize(("code", "status"), [("model_not_found", 404), ("x", 400)])
    def test_the_reason_is_every_requests_answer(
        self, world: World, code: str, status: int
    ) -> None:
        self.reject(world, code, "no such model", ask(1), ask(2))
        for n in (1, 2):
            answer = world.answer(n)
            assert answer.status == status
            assert answer.body["error"]["message"] == "no such model"
            assert answer.body["error"]["code"] == code
        assert len(world.cloud.jobs) == 1 and "rejected" in world.kinds()

    def test_a_blamed_line_does_not_take_the_others_with_it(self, world: World) -> None:
        self.reject(world, "streaming_unsupported", "no streaming (line 2)", ask(1), ask(2), ask(3))
        assert world.answer(2).status == 400
        assert world.answer(1).ok and world.answer(3).ok
        assert world.cloud.bought() == {key_of(1): 1, key_of(3): 1}

    def test_no_room_in_the_queue_waits(self, world: World) -> None:
        self.reject(world, "token_limit_exceeded", "Enqueued token limit reached", ask(1))
        assert world.answer(1).ok and world.cloud.bought() == {key_of(1): 1}
        assert "waiting" in world.kinds() and not world.batcher.queued
        assert not (world.root / "jobs/batch_1/requests.jsonl").exists()

    def test_no_room_at_creation_waits_for_a_job_to_end(self, world: World) -> None:
        def full() -> None:
            raise CapacityError("too many enqueued")

        big = 150_000_000
        world.cloud.creates = [lambda: None, full]
        world.submit(*(ask(n, size=big) for n in (1, 2, 3)), ask(4, model="other"))
        assert world.batcher.queued == {key_of(2), key_of(3)} and len(world.cloud.jobs) == 2
        assert world.batcher.wait()
        assert world.cloud.bought() == {key_of(n): 1 for n in (1, 2, 3, 4)}
        assert world.clock() < 10_010

    def test_no_room_and_no_time(self, world: World) -> None:
        def full() -> None:
            raise CapacityError("too many enqueued")

        world.cloud.creates = [full]
        assert not world.run(ask(1), timeout=0) and world.store.intents() == []

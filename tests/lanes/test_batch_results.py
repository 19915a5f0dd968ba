"""Batches: waiting, collecting, sending again, being rejected."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.cloud import (
    ENDED,
    OVERLOADED,
    REJECTED,
    RUNNING,
    World,
    ask,
    failing,
    key_of,
)

from pytest_langasync.exceptions import (
    CapacityError,
    ConfigurationError,
    JobNotFoundError,
    ProviderError,
    ResultsNotReadyError,
)
from pytest_langasync.lanes.batch.batcher import Batcher, Policy
from pytest_langasync.lanes.batch.poll import NEVER_READY, UNREADY_POLLS
from pytest_langasync.models import (
    JobStatus,
    MissingCall,
    ResultRow,
)

CAPACITY = "token_limit_exceeded"
UNREADY = replace(ENDED, completed=1, unready=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


class TestWaiting:
    def test_polls_quickly_then_gently(self, world: World) -> None:
        world.cloud.polls = [RUNNING] * 12
        start = world.clock()
        world.run(ask(1))
        times = [start, *world.cloud.polled_at]
        pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
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

        def reply(custom_id: str, body: Mapping[str, Any]) -> Iterator[ResultRow]:
            yield ResultRow(custom_id, 200, {})
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

        world.batcher = Batcher(replace(world.context, sleep=interrupt), Policy())
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
        ("bad", "reason"),
        [(OVERLOADED, "overloaded (529)"), (None, "missing")],
        ids=["overloaded", "missing"],
    )
    def test_what_was_not_at_fault_is_sent_again(
        self, world: World, bad: ResultRow | None, reason: str
    ) -> None:
        world.cloud.reply = failing(1, [bad, bad])
        assert world.run(ask(1), ask(2))
        assert world.answer(1).body == {"echo": 1} and world.answer(1).job_id == "batch_3"
        assert world.cloud.bought() == {key_of(1): 3, key_of(2): 1}
        assert world.batcher.retries == [("batch_1", reason, 1), ("batch_2", reason, 1)]
        links = [job.retry_of or None for job in world.store.jobs()]
        assert links == [None, "batch_1", "batch_2"]

    def test_what_was_at_fault_is_not(self, world: World) -> None:
        world.cloud.reply = failing(1, [ResultRow("", 400, {"error": "bad"})])
        assert world.run(ask(1)) and world.answer(1).status == 400
        assert world.cloud.bought() == {key_of(1): 1}

    def test_exhausted_retries_leave_the_error(self, world: World) -> None:
        world.cloud.reply = failing(1, [OVERLOADED] * 9)
        assert world.run(ask(1)) and world.answer(1).status == 529
        assert world.cloud.bought() == {key_of(1): 4}

    @pytest.mark.parametrize(
        ("provider", "endpoint"), [("openai", "/responses"), ("anthropic", "/messages")]
    )
    def test_exhausted_missing_rows_become_an_error(
        self, world: World, provider: str, endpoint: str
    ) -> None:
        world.cloud.reply = failing(1, [None] * 9)
        there = {"provider": provider, "endpoint": endpoint}
        assert world.run(ask(1, max_retries=1, **there), ask(2, **there))
        answer = world.answer(1)
        assert answer.status == 500 and answer.job_id == "batch_2"
        assert "no result for this request (job batch_2)" in answer.body["error"]["message"]
        assert (answer.body.get("type") == "error") == (provider == "anthropic")

    def test_own_limit_of_a_call(self, world: World) -> None:
        world.cloud.reply = failing(1, [OVERLOADED] * 9)
        assert world.run(ask(1, max_retries=0)) and world.cloud.bought() == {key_of(1): 1}

    def test_partial_output_is_kept(self, world: World) -> None:
        expired = ResultRow("", 408, {"error": "expired"}, retryable=True)
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

    @pytest.mark.parametrize("polls", [2, 6])
    def test_results_that_cannot_be_read_yet_are_waited_for(self, world: World, polls: int) -> None:
        world.cloud.polls = [UNREADY] * polls
        assert world.run(ask(1)) and world.answer(1).ok
        assert world.cloud.bought() == {key_of(1): 1}

    def test_results_that_never_come_are_bought_once(self, world: World) -> None:
        world.cloud.polls = [UNREADY] * 1000
        with pytest.raises(ResultsNotReadyError, match="a later run collects it"):
            world.run(ask(1))
        assert len(world.cloud.polled_at) == UNREADY_POLLS
        world.cloud.polls = []
        world.start()
        assert world.run(ask(1)) and world.answer(1).ok
        assert world.cloud.bought() == {key_of(1): 1}

    def test_results_that_never_came_for_days_are_bought_again(self, world: World) -> None:
        world.cloud.polls = [UNREADY] * 3
        world.cloud.reply = failing(1, [None])
        world.submit(ask(1))
        world.clock.sleep(NEVER_READY)
        assert world.batcher.wait() and world.answer(1).ok
        assert world.cloud.bought() == {key_of(1): 2}

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

    @pytest.mark.parametrize("polls", [2, 99])
    def test_results_that_are_gone_in_part(self, world: World, polls: int) -> None:
        """What can be read is kept; the rest is sent again once it stays gone."""

        def reply(custom_id: str, body: Mapping[str, Any]) -> list[ResultRow]:
            lost = body["n"] == 1 and len(world.cloud.jobs) == 1
            return [] if lost else [ResultRow(custom_id, 200, {"echo": body["n"]})]

        world.cloud.reply, world.cloud.results_gone = reply, polls
        assert world.run(ask(1), ask(2)) and world.answer(2).job_id == "batch_1"
        assert world.cloud.bought() == {key_of(1): 2, key_of(2): 1}
        assert world.kinds().count("trouble") <= 2, "the same trouble is told once"

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


class TestRejections:
    def reject(self, world: World, code: str, reason: str, *missing_calls: MissingCall) -> None:
        world.submit(*missing_calls)
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

    def test_a_fault_of_the_providers_own_is_sent_again(self, world: World) -> None:
        self.reject(world, "server_error", "Internal error", ask(1), ask(2))
        assert world.answer(1).ok and world.answer(2).ok
        assert world.batcher.retries == [("batch_1", "server_error", 2)]

    def test_no_room_in_the_queue_waits(self, world: World) -> None:
        self.reject(world, CAPACITY, "Enqueued token limit reached", ask(1))
        assert world.answer(1).ok and world.cloud.bought() == {key_of(1): 1}
        assert "waiting" in world.kinds() and not world.batcher.why_queued(
            [key_of(1), key_of(2), key_of(3)]
        )
        assert not (world.root / "jobs/batch_1/requests.jsonl").exists()

    def test_no_room_at_creation_waits_for_a_job_to_end(self, world: World) -> None:
        def full() -> None:
            raise CapacityError("too many enqueued")

        big = 150_000_000
        world.cloud.creates = [lambda: None, full]
        world.submit(*(ask(n, size=big) for n in (1, 2, 3)), ask(4, model="other"))
        assert (
            all("no room" in world.batcher.why_queued([key_of(n)]) for n in (2, 3))
            and len(world.cloud.jobs) == 2
        )
        assert world.batcher.wait()
        assert world.cloud.bought() == {key_of(n): 1 for n in (1, 2, 3, 4)}
        assert world.clock() < 10_010

    @pytest.mark.parametrize("limit", ["Limit: 1,000 enqueued tokens.", ""])
    def test_a_batch_above_the_limit_is_sent_in_parts(self, world: World, limit: str) -> None:
        full = replace(REJECTED, reason=f"Full. {limit}", reason_code=CAPACITY)
        running, guard = set[str](), threading.Lock()

        def poll(job_id: str) -> JobStatus:
            job = world.cloud.jobs[job_id]
            with guard:
                if job.status is None:
                    crowded = len(job.lines) > 2 or running
                    job.status = full if crowded else RUNNING
                    running.update(() if crowded else [job_id])
                elif job.status is RUNNING:
                    job.status = ENDED
                    running.discard(job_id)
                return job.status

        world.cloud.status = poll  # type: ignore[method-assign]
        assert world.run(*(ask(n, size=2_000, priority=2 - n // 6) for n in range(10)))
        assert world.cloud.bought() == {key_of(n): 1 for n in range(10)}
        ended = [job.lines.values() for job in world.cloud.jobs.values() if job.status is ENDED]
        sent = [body["n"] for lines in ended for body in lines]
        assert set(sent[:4]) == {6, 7, 8, 9}, "the highest priority first"
        waited = world.clock() - 10_000
        assert (waited < 300) == bool(limit), "a named limit is no matter of waiting"

    def test_others_fill_the_room(self, world: World) -> None:
        """A batch far below the limit is not cut: it has to wait, whatever its size."""
        limit = "Limit: 9,000,000 enqueued tokens."
        self.reject(world, CAPACITY, limit, ask(1), ask(2))
        sizes = [len(job.lines) for job in world.cloud.jobs.values()]
        assert sizes == [2, 2] and world.clock() >= 10_300

    def test_no_room_and_no_time(self, world: World) -> None:
        def full() -> None:
            raise CapacityError("too many enqueued")

        world.cloud.creates = [full]
        assert not world.run(ask(1), timeout=0) and world.store.open_submissions() == []

"""A provider in memory with accounts of its own, and runs that come and go."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pytest_langasync.cache.store import Store
from pytest_langasync.exceptions import (
    CreateUnknownError,
    JobNotFoundError,
)
from pytest_langasync.lanes import RunContext
from pytest_langasync.lanes.batch.batcher import Batcher, Policy
from pytest_langasync.models import (
    Answer,
    AttemptOptions,
    Credentials,
    Event,
    JobState,
    JobStatus,
    MissingCall,
    ResultRow,
    Target,
    split_custom_id,
)
from pytest_langasync.providers import Created, Found, Submission

URL = "https://api.openai.com/v1"
ALICE = Credentials({"authorization": "Bearer alice"})
BOB = Credentials({"authorization": "Bearer bob"})
ASKED = Target("openai", URL, "/chat/completions", (), ALICE)
OF_TARGET = {field.name for field in fields(Target)}
OF_OPTIONS = {field.name for field in fields(AttemptOptions)}
RUNNING = JobStatus(JobState.RUNNING, "in_progress")
ENDED = JobStatus(JobState.ENDED, "completed")
REJECTED = JobStatus(JobState.REJECTED, "failed")


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
    lag: float = 0.0
    """How long a new job is missing from the list, in seconds."""
    results_gone: int = 0
    """How many of the next downloads end with the news that a part is gone."""
    reply: Callable[[str, Mapping[str, Any]], Iterable[ResultRow]] = lambda cid, body: [
        ResultRow(cid, 200, {"echo": body["n"]}, "req")
    ]
    cancelled: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    """Files that were deleted."""
    polled_at: list[float] = field(default_factory=list)
    connected: list[tuple[str, str, str]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, target: Target) -> Cloud:
        self.connected.append((*target.host, target.credentials.account))
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
        return Created(job_id, self.clock(), f"in-{job_id}")

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
            return self._told(self.jobs[job_id])

    def _told(self, job: CloudJob) -> JobStatus:
        status, sub = job.status or self.default, job.submission
        shown = (sub.nonce, sub.suite) if self.tells_nonce else ("", "")
        refs = (f"out-{job.job_id}",)
        return replace(
            status, input_ref=f"in-{job.job_id}", output_refs=refs, nonce=shown[0], suite=shown[1]
        )

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        for custom_id, body in reversed(self.jobs[job_id].lines.items()):
            yield from self.reply(custom_id, body)
        if self.results_gone:
            self.results_gone -= 1
            raise JobNotFoundError("the error file is gone")

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        if self.lists:
            raise self.lists.pop(0)
        for job in reversed(list(self.jobs.values())):
            if since <= job.created_at <= self.clock() - self.lag:
                sub = job.submission
                shown = (sub.nonce, sub.suite) if self.tells_nonce else ("", "")
                running = (job.status or self.default).state is JobState.RUNNING
                yield Found(
                    job.job_id, job.created_at, sub.count, *shown, sub.endpoint, running=running,
                    opaque=not self.tells_nonce,
                )  # fmt: skip

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        job = self.jobs[job_id]
        running = (job.status or self.default).state is JobState.RUNNING
        return None if running and not self.tells_ids else frozenset(job.lines)

    def has_batch_api(self) -> bool:
        return True

    def delete_files(self, refs: Iterable[str]) -> None:
        self.deleted += refs

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
        self.store = Store(self.root, clock=self.clock, started_at=self.clock())
        self.store.open()
        policy = options.pop("policy", Policy(max_retries=3))
        self.context = RunContext(
            self.store,
            notify=self.events.append,
            connect=self.cloud.connect,
            clock=self.clock,
            timer=self.clock,
            sleep=self.clock.sleep,
            **{"suite": "suite", **options},
        )
        self.batcher = Batcher(self.context, policy)

    def submit(self, *missing_calls: MissingCall) -> None:
        for item in missing_calls:
            self.store.spool(item, {"model": item.model, "n": int(item.key, 16)})
        self.batcher.submit(missing_calls, self.valid)

    def valid(self, key: str) -> bool:
        answer = self.store.answer(key)
        return answer is not None and answer.ok

    def run(self, *missing_calls: MissingCall, timeout: float | None = None) -> bool:
        self.submit(*missing_calls)
        return self.batcher.wait(timeout)

    def answer(self, number: int) -> Answer:
        answer = self.store.answer(key_of(number))
        assert answer is not None
        return answer

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def key_of(number: int) -> str:
    return f"{number:040x}"


def ask(number: int, **changes: Any) -> MissingCall:
    """Return a missing call; ``changes`` are of its target, its options or itself."""
    target, options = (
        {name: changes.pop(name) for name in names & changes.keys()}
        for names in (OF_TARGET, OF_OPTIONS)
    )
    return MissingCall(
        **{
            "key": key_of(number),
            "owner": f"test_{number}",
            "occurrence": 0,
            "target": replace(ASKED, **target),
            "model": "gpt-x",
            "size": 50,
            "options": AttemptOptions(**options),
            **changes,
        }
    )


def failing(
    number: int, rows: list[ResultRow | None]
) -> Callable[[str, Mapping[str, Any]], list[ResultRow]]:
    """Reply to one request with these in turn (None: nothing), to others as ever."""

    def reply(custom_id: str, body: Mapping[str, Any]) -> list[ResultRow]:
        if body["n"] == number and rows:
            row = rows.pop(0)
            return [] if row is None else [replace(row, custom_id=custom_id)]
        return [ResultRow(custom_id, 200, {"echo": body["n"]})]

    return reply


OVERLOADED = ResultRow("", 529, {"error": "overloaded"}, retryable=True)

"""What the store writes and returns: jobs, intents, requests and results as JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from pytest_langasync.cache import files
from pytest_langasync.cache.texts import Texts
from pytest_langasync.models import Job, JobState, Request, ResultRow, split_custom_id

Headers = tuple[tuple[str, str], ...]


class RequestMeta(NamedTuple):
    """Everything about a request but its body."""

    provider: str
    base_url: str
    endpoint: str
    headers: Headers
    model: str


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request on disk. ``bought_at`` is in seconds since the epoch; ``job_id`` may be empty."""

    key: str
    owner: str
    occurrence: int
    job_id: str
    bought_at: float
    meta: RequestMeta
    custom_id: str
    path: Path
    offset: int
    length: int
    texts: Texts
    """Where the large texts of its body are."""

    def body(self) -> Any:
        """Read the body (or its digests), or None when it was not stored or is damaged."""
        found = files.read_line(self.path, self.offset, self.length)
        if not found or found[0].get("key") != self.key:
            return None
        return self.texts.unpack(found[1], found[0].get("texts", ()))


@dataclass(frozen=True)
class Intent:
    """A submission under way: written before a batch is created, removed after its job is."""

    nonce: str
    meta: RequestMeta
    """``model`` is empty when the requests name different ones."""
    created_at: float
    """Seconds since the epoch, just before the batch was created."""
    count: int
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Finished:
    """The account of an ended job, by key."""

    job: Job
    ok: int
    failed: int
    retryable: Mapping[str, int]
    """Failed keys whose request was not at fault, with the status of each."""
    missing: tuple[str, ...]
    """Keys of requests that the job did not return."""
    unknown: int = 0
    """Rows left out because no request had their ``custom_id``."""


@dataclass(frozen=True, slots=True)
class ResultFile:
    """Where rows came from: shared by the index entries of one file."""

    path: Path
    job_id: str
    bought_at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the newest answer to a key lies."""

    file: ResultFile
    offset: int
    length: int
    status: int
    retryable: bool
    received_at: float

    @property
    def age(self) -> tuple[float, float]:
        """(bought, received), in seconds since the epoch: the greater, the newer."""
        return (self.file.bought_at or self.received_at, self.received_at)

    @property
    def ok(self) -> bool:
        """True for a 2xx status."""
        return 200 <= self.status < 300


def job_document(job: Job) -> dict[str, Any]:
    """Return a job as it stands in ``job.json``."""
    return {**asdict(job), "state": job.state.value}


def job_from_document(document: Mapping[str, Any]) -> Job:
    """Return the job of a ``job.json``. Raises ``ValueError``, ``KeyError`` or ``TypeError``."""
    values = {field.name: document[field.name] for field in fields(Job)}
    values["state"] = JobState(values["state"])
    values["headers"] = _headers(values["headers"])
    return Job(**values)


def intent_document(intent: Intent) -> dict[str, Any]:
    """Return an intent as it stands on disk."""
    return {**asdict(intent), "meta": intent.meta._asdict()}


def intent_from_document(document: Mapping[str, Any]) -> Intent:
    """Return the intent of a document. Raises ``ValueError``, ``KeyError`` or ``TypeError``."""
    values = {field.name: document[field.name] for field in fields(Intent)}
    return Intent(**{**values, "meta": meta_from_document(values["meta"])})


def meta_from_document(document: Mapping[str, Any]) -> RequestMeta:
    """Return the request meta of a document. Raises ``TypeError`` or ``ValueError``."""
    return RequestMeta(**{**document, "headers": _headers(document.get("headers", ()))})


def _headers(pairs: Any) -> Headers:
    return tuple((name, value) for name, value in pairs)


def job_meta(job: Job) -> RequestMeta:
    """Return what all requests of a job have in common."""
    return RequestMeta(job.provider, job.base_url, job.endpoint, job.headers, job.model)


def request_meta(request: Request) -> RequestMeta:
    """Return everything about a request but its body."""
    to = request.target
    return RequestMeta(to.provider, to.base_url, to.endpoint, to.headers, request.model)


def request_line(
    custom_id: str, key: str, owner: str, occurrence: int, body: Any, **more: Any
) -> bytes:
    """Return a line of ``requests.jsonl``."""
    head = {"custom_id": custom_id, "key": key, "owner": owner, "occurrence": occurrence, **more}
    return files.encode_line(head, body)


def result_line(row: ResultRow, received_at: float) -> bytes:
    """Return a line of ``results.jsonl``."""
    head = {
        "custom_id": row.custom_id,
        "status": row.status,
        "request_id": row.request_id,
        "received_at": received_at,
        "retryable": row.retryable,
    }
    return files.encode_line(head, row.body)


def gather(
    path: Path, rows: Iterable[ResultRow], line: Callable[[ResultRow], bytes | None]
) -> tuple[dict[str, bool], int]:
    """Add rows to a results file, all of them or, when ``rows`` raises, none.

    Rows stored before stay; of several rows of one request the first success wins. ``line`` returns
    None for a row of no known request. Returns whether each ``custom_id`` succeeded, and how many
    rows were left out as unknown.
    """
    done: dict[str, bool] = {}
    unknown = 0
    with files.replacing(path) as file:
        for kept in files.scan(path):
            if kept is not None:
                done[kept.head["custom_id"]] = 200 <= kept.head["status"] < 300
                file.write(files.raw_line(path, kept))
        for row in rows:
            ok = 200 <= row.status < 300
            if row.custom_id in done and (done[row.custom_id] or not ok):
                continue
            written = line(row)
            if written is None:
                unknown += 1
            else:
                done[row.custom_id] = ok
                file.write(written)
    return done, unknown


def counts(done: Mapping[str, bool], requests: int) -> dict[str, str]:
    """Return the counts of an ended job for its ``metadata``."""
    ok = sum(done.values())
    found = {"answers": len(done), "ok": ok, "failed": len(done) - ok}
    return {k: str(v) for k, v in {**found, "missing": max(0, requests - len(done))}.items()}


def account(
    job: Job, heads: Iterable[Mapping[str, Any]], requests: Iterable[StoredRequest]
) -> Finished:
    """Return the account of a job from the heads of its results; of one key a success counts."""
    best: dict[str, Mapping[str, Any]] = {}
    for head in heads:
        key = split_custom_id(head["custom_id"])[1]
        if key not in best or head["status"] // 100 == 2:
            best[key] = head
    bad = {key: head for key, head in best.items() if head["status"] // 100 != 2}
    return Finished(
        job=job,
        ok=len(best) - len(bad),
        failed=len(bad),
        retryable={key: head["status"] for key, head in bad.items() if head["retryable"]},
        missing=tuple(request.key for request in requests if request.key not in best),
    )


def belongs(custom_id: str, job: Job, expected: Collection[str]) -> bool:
    """Return whether a row answers a request of this job."""
    if custom_id in expected:
        return True
    nonce, key = split_custom_id(custom_id)
    if len(expected) >= job.requests > 0:
        return False
    # Some or all requests are not known here: an ID made by us is as good.
    return bool(key) and (nonce == job.nonce or not job.nonce)

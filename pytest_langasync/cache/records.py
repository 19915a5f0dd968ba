"""What the cache writes and reads: jobs, submissions, heads of lines, what owners remember.

Whatever comes from disk is validated here, once; what does not fit is damage (``ValueError``).
Layout 1 keeps what is only sometimes known of a job or a submission as texts in ``metadata``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import TypeAdapter, ValidationError

from pytest_langasync.models import Job, Refusal, Request, ResultRow, is_success, split_custom_id

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]
FINITE: Mapping[str, Any] = {"allow_inf_nan": False}
"""JSON as Python reads it knows ``NaN``, which would put times out of order."""


@dataclass(frozen=True, slots=True)
class RequestMeta:
    """Everything about a request but its body."""

    provider: str
    base_url: str
    endpoint: str
    headers: Headers
    model: str

    @classmethod
    def of(cls, request: Request | Job) -> RequestMeta:
        """Return it for a request, or for what all requests of a job have in common."""
        to = request.target if isinstance(request, Request) else request
        return cls(to.provider, to.base_url, to.endpoint, to.headers, request.model)


@dataclass(frozen=True)
class Intent:
    """A submission under way: written before a batch is created, removed after its job is."""

    __pydantic_config__: ClassVar = FINITE

    nonce: str
    meta: RequestMeta
    """``model`` is empty when the requests name different ones."""
    created_at: float
    """Seconds since the epoch, just before the batch was created."""
    count: int
    suite: str = ""
    retry_of: str = ""
    depth: int = 0
    run: str = ""
    folder: str = ""
    machine: str = ""

    def job(self, job_id: str, input_ref: str) -> Job:
        """Return the job that it has become."""
        return Job(
            id=job_id,
            provider=self.meta.provider,
            base_url=self.meta.base_url,
            endpoint=self.meta.endpoint,
            model=self.meta.model,
            headers=self.meta.headers,
            nonce=self.nonce,
            # Our own clock, so that it can be compared with the beginning of a run.
            created_at=self.created_at,
            requests=self.count,
            input_ref=input_ref,
            suite=self.suite,
            retry_of=self.retry_of,
            depth=self.depth,
            run=self.run,
            folder=self.folder,
            machine=self.machine,
        )


@dataclass(frozen=True, slots=True)
class OwnerState:
    """What is remembered between runs of an owner (a test, or a wide fixture), or of a refresh
    under way. Times are seconds since the epoch."""

    __pydantic_config__: ClassVar = FINITE

    waiting: tuple[str, ...] = ()
    """Keys of what was bought for it since it was last judged."""
    judged: bool = False
    """Whether it was judged while its run goes on for others."""
    since: float | None = None
    """What came after this moment belongs to the refresh under way."""
    begun_at: float | None = None
    """When the refresh began."""
    differed: bool = False
    """Whether its last attempt asked for something else than the one before."""
    errors_spent_at: float = 0.0
    """Errors that came until then have served their verdict."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a line of ``requests.jsonl``."""

    custom_id: str
    key: str
    owner: str
    occurrence: int
    texts: tuple[str, ...] = ()
    """The large texts of its body, each in a file of its own."""
    meta: RequestMeta | None = None
    """In real time only; the requests of a job have the job's."""


@dataclass(frozen=True, slots=True)
class ResultHead:
    """The head of a line of ``results.jsonl``."""

    __pydantic_config__: ClassVar = FINITE

    custom_id: str
    status: int
    request_id: str
    received_at: float
    retryable: bool
    failed: bool = False
    lane: str = ""
    """How an answer was bought that came without a job."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the request that it answers, or an empty string."""
        return split_custom_id(self.custom_id)[1]

    @property
    def ok(self) -> bool:
        """True for a success."""
        return is_success(self.status) and not self.failed


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
    foreign: bool = False
    """Whether another run, or another cache, paid for them."""


_JOB = TypeAdapter(Job)
_INTENT = TypeAdapter(Intent)
_OWNERS = TypeAdapter(dict[str, OwnerState])
_REFUSALS = TypeAdapter(list[Refusal])
_REQUEST = TypeAdapter(RequestHead)
_RESULT = TypeAdapter(ResultHead)
_SOMETIMES = (
    "suite", "retry_of", "depth", "not_found", "answers", "files", "adopted", "run",
    "collected_by", "folder", "machine",
)  # fmt: skip
"""Fields that layout 1 keeps in ``metadata``."""


def validated(validate: Callable[[Any], T], value: Any) -> T:
    """Return what pydantic makes of a value. Raises ``ValueError`` with one line of text."""
    try:
        return validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None


def _document(kind: TypeAdapter[T], value: T) -> dict[str, Any]:
    # In pydantic's mode "json" a lone surrogate in a text would be lost.
    document: dict[str, Any] = kind.dump_python(value)
    some = {name: document.pop(name) for name in _SOMETIMES if name in document}
    return {**document, "metadata": {name: str(one) for name, one in some.items() if one}}


def _flat(document: Mapping[str, Any]) -> Mapping[str, Any]:
    some = document.get("metadata")
    if not isinstance(some, dict):
        raise ValueError("its metadata is missing")
    return {**{name: some[name] for name in _SOMETIMES if name in some}, **document}


def job_document(job: Job) -> dict[str, Any]:
    """Return a job as it stands in ``job.json``."""
    return _document(_JOB, job)


def job_from_document(document: Mapping[str, Any]) -> Job:
    """Return the job of a ``job.json``. Raises ``ValueError``."""
    return validated(_JOB.validate_python, _flat(document))


def intent_document(intent: Intent) -> dict[str, Any]:
    """Return a submission as it stands on disk."""
    return _document(_INTENT, intent)


def intent_from_document(document: Mapping[str, Any]) -> Intent:
    """Return the submission of a document. Raises ``ValueError``."""
    return validated(_INTENT.validate_python, _flat(document))


def owners_document(owners: Mapping[str, OwnerState]) -> dict[str, Any]:
    """Return what is remembered of owners as it stands on disk."""
    document: dict[str, Any] = _OWNERS.dump_python(dict(owners), exclude_defaults=True)
    return document


def owners_from_document(document: Mapping[str, Any]) -> dict[str, OwnerState]:
    """Return what is remembered of owners. Raises ``ValueError``."""
    return validated(_OWNERS.validate_python, document)


def refusals_document(refusals: Iterable[Refusal]) -> dict[str, Any]:
    """Return what batches refused as it stands on disk."""
    return {"refusals": _REFUSALS.dump_python(list(refusals), exclude_defaults=True)}


def refusals_from_document(document: Mapping[str, Any]) -> list[Refusal]:
    """Return what batches refused. Raises ``ValueError``."""
    return validated(_REFUSALS.validate_python, document.get("refusals"))


def _head(kind: TypeAdapter[T], data: bytes) -> T:
    try:
        return kind.validate_json(data)
    except ValidationError:
        # Its own parser is the faster one, and knows no lone surrogates.
        return kind.validate_python(json.loads(data))


def request_head(data: bytes) -> RequestHead:
    """Return the head of a line of ``requests.jsonl``. Raises ``ValueError``."""
    return _head(_REQUEST, data)


def result_head(data: bytes) -> ResultHead:
    """Return the head of a line of ``results.jsonl``. Raises ``ValueError``."""
    return _head(_RESULT, data)


def request_fields(head: RequestHead) -> dict[str, Any]:
    """Return the head of a line of ``requests.jsonl`` as it is written."""
    fields: dict[str, Any] = _REQUEST.dump_python(head, exclude_defaults=True)
    return fields


def result_fields(row: ResultRow, received_at: float, lane: str = "") -> dict[str, Any]:
    """Return the head of a line of ``results.jsonl`` as it is written."""
    fields = {
        "custom_id": row.custom_id,
        "status": row.status,
        "request_id": row.request_id,
        "received_at": received_at,
        "retryable": row.retryable,
    }
    more = {"failed": row.failed, "headers": dict(row.headers), "lane": lane}
    return fields | {name: value for name, value in more.items() if value}


def account(job: Job, heads: Iterable[ResultHead], keys: Iterable[str]) -> Finished:
    """Return the account of a job from the heads of its results; of one key a success counts.

    ``keys`` are those of its requests.
    """
    best: dict[str, ResultHead] = {}
    for head in heads:
        if head.key not in best or head.ok:
            best[head.key] = head
    bad = {key: head for key, head in best.items() if not head.ok}
    return Finished(
        job=job,
        ok=len(best) - len(bad),
        failed=len(bad),
        retryable={key: head.status for key, head in bad.items() if head.retryable},
        missing=tuple(key for key in keys if key not in best),
    )

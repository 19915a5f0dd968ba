"""Frozen data that every other module speaks in."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pytest_langasync.exceptions import ConfigurationError

__all__ = [
    "Answer",
    "AttemptOptions",
    "Call",
    "Credentials",
    "Job",
    "JobState",
    "JobStatus",
    "Refusal",
    "Request",
    "ResultRow",
    "Target",
    "canonical_json",
]

CUSTOM_ID_SEPARATOR = "-"


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, no ASCII escapes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def to_json(value: Any) -> bytes:
    """Return compact JSON in UTF-8, on one line.

    A lone surrogate, which UTF-8 cannot hold, is escaped.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def digest(value: Any) -> str:
    """Return 160 bits of the SHA-256 of the canonical JSON of ``value``, as 40 hex digits."""
    data = canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:40]


def is_success(status: int) -> bool:
    """Return whether an HTTP status is one of the 2xx."""
    return 200 <= status < 300


Headers = tuple[tuple[str, str], ...]
"""Names in lower case and values, sorted by name."""


@dataclass(frozen=True)
class Network:
    """The way that a call's own client takes to its host: held in memory, since a proxy's URL may
    hold a password. Plain data, so that another process can go the same way."""

    proxy: str = ""
    """URL of the proxy, or empty."""
    proxy_headers: Headers = ()
    verify: bool = True
    """Whether the host's certificate has to be good."""
    authorities: str = ""
    """Certificates of the authorities to be trusted, as PEM; empty: those that are usual."""
    uds: str = ""
    """Path of the socket that leads to the host, or empty."""
    local_address: str = ""


@dataclass(frozen=True)
class Credentials:
    """What lets a request in at its provider: held in memory, never stored, never shown.

    ``headers`` are those of the intercepted request that tell whose account it is charged to;
    ``others`` it carried besides, and go along: a header that differs for each call must not make
    an account, and so a job, for each. All names are in lower case. ``network`` is None where the
    way to the host is not known.
    """

    headers: Mapping[str, str] = field(repr=False)
    others: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    network: Network | None = field(default=None, repr=False, compare=False)

    @cached_property
    def account(self) -> str:
        """A digest that tells two accounts apart inside this process; never written down."""
        return digest(dict(self.headers))

    def __hash__(self) -> int:
        return hash(self.account)


@dataclass(frozen=True)
class LiveCredentials(Credentials):
    """Credentials in the process that made the call: its client can be asked again.

    ``renew`` returns what a call would carry now, in a provider's terms: tokens are short-lived,
    and a batch is polled for hours. ``tls`` is the client's own ``SSLContext``, with its
    certificates, or None.
    """

    renew: Callable[[], Credentials | None] = field(default=lambda: None, repr=False, compare=False)
    tls: Any = field(default=None, repr=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.account)


@dataclass(frozen=True)
class Target:
    """Where a request goes, and on whose account: one value, handed around whole.

    ``endpoint`` is the path below ``base_url``. ``headers`` are the batch-level headers that change
    the answer, such as those that turn betas on. ``credentials`` are empty for what was read from
    disk.
    """

    provider: str
    base_url: str
    endpoint: str
    headers: Headers = ()
    credentials: Credentials = field(default=Credentials({}), repr=False)

    @property
    def host(self) -> tuple[str, str]:
        """The provider and the base URL: what has a batch API, or has none."""
        return (self.provider, self.base_url)


@dataclass(frozen=True)
class Request:
    """One request to a model, with the body exactly as the SDK serialised it.

    ``body`` lacks only ``stream`` and its companions, which a batch cannot take.
    """

    target: Target
    body: Mapping[str, Any] = field(repr=False)
    model_in_path: str = field(default="", compare=False)
    """The model, where the endpoint names it and not the body."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What marks in the body stand for: in memory only, and no part of the identity."""

    @cached_property
    def identity(self) -> str:
        """The digest of everything that makes two requests the same; credentials are no part."""
        to = self.target
        return digest([to.provider, to.base_url, to.endpoint, list(to.headers), self.body])

    @property
    def model(self) -> str:
        """The model asked for, or an empty string where nothing names one."""
        model = self.body.get("model") or self.model_in_path
        return model if isinstance(model, str) else ""


@dataclass(frozen=True)
class Call:
    """A request made by one owner (a test, or a wide fixture), for the n-th time.

    ``key`` identifies its answer; ``streamed`` does not take part in it.
    """

    request: Request
    owner: str
    occurrence: int
    streamed: bool = field(default=False, compare=False)

    @cached_property
    def key(self) -> str:
        """The digest of (request, owner, occurrence), as 40 hex digits."""
        return digest([self.request.identity, self.owner, self.occurrence])


@dataclass(frozen=True)
class Refusal:
    """What no batch takes, although the endpoint has batches as a rule. An empty field is any."""

    provider: str
    base_url: str
    why: str
    """Completes the sentence "in real time because …"."""
    endpoint: str = ""
    model: str = ""
    features: str = ""
    """As ``Dialect.features`` names them."""
    key: str = ""
    """The one call that was refused."""


@dataclass(frozen=True)
class Answer:
    """A provider's reply to a call: status code and body, successes and errors alike.

    ``job_id`` is empty for an answer obtained in real time. ``received_at`` and ``bought_at`` are
    seconds since the epoch: when it was stored, and when its job was created.
    """

    key: str
    status: int
    body: Any = field(repr=False)
    job_id: str = ""
    request_id: str = ""
    bought_at: float = 0.0
    received_at: float = 0.0
    failed: bool = False
    """Whether it is no success although its status says so: the failure is in the body."""
    foreign: bool = False
    """Whether another run, or another cache, paid for it."""
    lane: str = ""
    """``flex`` or ``realtime`` where it is known; empty for what came with a job."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What the provider told besides, such as its rate limits; names in lower case."""

    @property
    def ok(self) -> bool:
        """True for a success."""
        return is_success(self.status) and not self.failed

    @property
    def source(self) -> str:
        """``batch``, ``flex`` or ``realtime``: how it was bought."""
        return "batch" if self.job_id else self.lane or "realtime"


ABOUT_THE_REQUEST = frozenset({400, 404, 410, 413, 415, 422})
"""Statuses of errors that stay the same until the request changes."""


class JobState(enum.StrEnum):
    """Where a job stands, the providers' status words reduced to what decides the next step."""

    RUNNING = "running"
    """Work goes on, or is being cancelled: poll again."""
    ENDED = "ended"
    """Nothing more will happen; rows, perhaps not all, can be read."""
    REJECTED = "rejected"
    """The provider refused the whole batch; nothing ran."""


@dataclass(frozen=True)
class JobStatus:
    """The answer to one poll."""

    state: JobState
    word: str
    """The provider's own word: ``in_progress``, ``finalizing``, ``expired``, …"""
    total: int = 0
    completed: int = 0
    failed: int = 0
    reason: str = ""
    """Why a batch was rejected, in the provider's words."""
    reason_code: str = ""
    """The provider's code for it, such as ``token_limit_exceeded``; empty where it gave none."""
    retry_after: float | None = None
    """Seconds that the provider asks to wait before the next poll."""
    output_refs: tuple[str, ...] = ()
    """Where the rows can be read: file IDs or a URL."""
    unready: bool = False
    """Whether it has ended, and where all of its rows can be read is still to be told."""
    input_ref: str = ""
    """The uploaded input file, where the provider has one."""
    nonce: str = ""
    """What the batch's metadata says about its submission and its suite, where it can carry any."""
    suite: str = ""


@dataclass(frozen=True)
class Job:
    """One provider batch, as written to ``job.json``. ``id`` is the provider's."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}

    id: str
    provider: str
    base_url: str
    endpoint: str
    model: str
    """The model of all its requests, or an empty string when they differ."""
    headers: tuple[tuple[str, str], ...]
    nonce: str
    created_at: float
    """Seconds since the epoch."""
    requests: int
    word: str = "submitted"
    """The provider's last known status word."""
    state: JobState = JobState.RUNNING
    input_ref: str = ""
    """The uploaded input file, where the provider has one."""
    ended_at: float | None = None
    """Seconds since the epoch."""
    reason: str = ""
    """Why the provider refused it, or why it is gone."""
    suite: str = ""
    """The suite that it was created for."""
    retry_of: str = ""
    """The ID of the job whose failed requests it sends again."""
    depth: int = 0
    """How many jobs before this one were sent for the same requests."""
    not_found: int = 0
    """How many polls in a row have found the job, or its results, gone."""
    answers: int = 0
    """How many results were stored when it ended."""
    files: str = ""
    """What became of its files at the provider: ``deleted``, ``not found``, ``not ours``; empty
    while they are left alone."""
    adopted: bool = False
    """Whether it was found at the provider: another cache had it made, or this one in a state that
    is lost."""
    run: str = ""
    """The run that submitted it."""
    collected_by: str = ""
    """The run in whose books its answers are paid."""
    folder: str = ""
    """A digest of the cache's path where it was submitted: a copy of that cache is another one."""
    machine: str = ""
    """A digest of the machine's name there."""

    @property
    def host(self) -> tuple[str, str]:
        """The provider and the base URL, as in ``Target``."""
        return (self.provider, self.base_url)


PRIORITIES = ("high", "normal", "low")
"""The order in which jobs are created."""


@dataclass(frozen=True)
class AttemptOptions:
    """How the calls of one attempt are sent."""

    realtime: bool = False
    """Whether its calls go out in place, one after the other as the test makes them."""
    lane: str = ""
    """How its calls get their answers, where that is not the run's own way."""
    priority: int = 1
    """0 high, 1 normal, 2 low: the order in which jobs are created."""
    max_retries: int | None = None
    """How often a failure that was not the request's fault is sent again; None takes the run's
    setting."""
    sample: str = ""
    """Sets the test's answers apart from those of other repeats of it, also where answers are
    shared."""

    @classmethod
    def of(cls, *, priority: str = "normal", max_retries: int | None = None) -> AttemptOptions:
        """Check what a person gave.

        Raises:
            ConfigurationError: a wrong value.
        """
        if priority not in PRIORITIES:
            raise ConfigurationError(f"priority={priority!r} is not one of 'high', 'normal', 'low'")
        if max_retries is not None and (
            isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0
        ):
            raise ConfigurationError(
                f"max_retries={max_retries!r} is not a whole number of 0 or more"
            )
        return cls(priority=PRIORITIES.index(priority), max_retries=max_retries)


@dataclass(frozen=True)
class ResultRow:
    """What a job returned for one ``custom_id``, in one shape for all providers.

    ``retryable`` says that the request itself was not at fault (rate limit, server error, expired,
    cancelled, not returned): sending it again may work.
    """

    custom_id: str
    status: int
    body: Any = field(repr=False)
    request_id: str = ""
    retryable: bool = False
    failed: bool = False
    """Whether it is no success although its status says so: the failure is in the body."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What the provider told besides, such as its rate limits; names in lower case."""

    @property
    def ok(self) -> bool:
        """True for a success."""
        return is_success(self.status) and not self.failed


def make_custom_id(nonce: str, key: str) -> str:
    """Join a nonce and an answer's key into a ``custom_id`` (at most 64 characters)."""
    return f"{nonce}{CUSTOM_ID_SEPARATOR}{key}"


def split_custom_id(custom_id: str) -> tuple[str, str]:
    """Return (nonce, key) of a ``custom_id``; both empty when it is not one of ours."""
    nonce, separator, key = custom_id.partition(CUSTOM_ID_SEPARATOR)
    if not separator or len(key) != 40 or set(key) - set("0123456789abcdef"):
        return "", ""
    return nonce, key


ANEW = frozenset({"host", "content-length", "transfer-encoding"})
"""Headers of a request that whoever sends it makes anew."""


@dataclass(frozen=True)
class Outgoing:
    """What is kept of a request, beside its body and its way, to send it later. Plain data, so that
    another process can send it."""

    method: str
    url: str = field(repr=False)
    """With its query, which may hold a key."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """All but its length and its host."""
    timeout: Mapping[str, float | None]
    """Seconds, by the names of httpx: ``connect``, ``read``, ``write``; None: for ever."""

    @classmethod
    def of(
        cls, method: str, url: str, headers: Mapping[str, str], timeout: Mapping[str, Any]
    ) -> Outgoing:
        """Make one of a finished request."""
        pairs = ((name.lower(), value) for name, value in headers.items())
        return cls(method, url, tuple(pair for pair in pairs if pair[0] not in ANEW), timeout)


@dataclass(frozen=True, slots=True)
class MissingCall:
    """A recorded call without an answer. Its body is in the store's spool (``Store.spooled``)."""

    key: str
    owner: str
    occurrence: int
    target: Target
    model: str
    size: int
    """Bytes of the body as JSON."""
    inputs: int = 1
    """How many inputs count towards the provider's limit for a batch."""
    options: AttemptOptions = AttemptOptions()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What marks in its body stand for, as in ``Request``."""
    outgoing: Outgoing | None = field(default=None, repr=False, compare=False)
    """What is needed to send it by itself; None: only whoever makes it can send it."""


EventKind = Literal[
    "gathered",
    "changed",
    "adopted",
    "left",
    "uploading",
    "submitted",
    "sending",
    "rerouted",
    "attached",
    "progress",
    "collected",
    "rejected",
    "retrying",
    "waiting",
    "cancelling",
    "trouble",
]


@dataclass(frozen=True)
class Event:
    """Something the person who waits would like to see.

    ``requests`` is the number of requests concerned; ``message`` is one line of plain text.
    """

    kind: EventKind
    provider: str = ""
    model: str = ""
    requests: int = 0
    job: Job | None = None
    status: JobStatus | None = None
    message: str = ""

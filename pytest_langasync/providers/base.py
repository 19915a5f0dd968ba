"""What the engine asks of a provider, with the answers that hold for most of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pytest_langasync.models import Credentials, Headers, JobStatus, Request, ResultRow
from pytest_langasync.providers.dialects.base import Dialect

__all__ = [
    "RATE_HEADERS",
    "Client",
    "Created",
    "Found",
    "Limits",
    "Provider",
    "Submission",
    "is_management",
    "is_one_of",
    "telling_headers",
]

BATCH = re.compile(r"\bbatch(es|ed|ing)?\b", re.IGNORECASE)
UNSUPPORTED = re.compile(
    r"\b(not|cannot|can't)\b.{0,40}\b(support|available|allow|enabled|permit|used)|unsupported",
    re.IGNORECASE,
)
OF_ONE_CALL = (
    *("accept", "b3:", "baggage:", "connection:", "content-", "cookie:", "elastic-apm-", "host:"),
    *("idempotency-key:", "newrelic:", "request-id:", "sentry-trace:", "traceparent:"),
    *("tracestate:", "transfer-encoding:", "uber-trace-id:", "user-agent:", "x-amzn-trace-id:"),
    *("x-b3-", "x-client-request-id:", "x-cloud-trace-context:", "x-correlation-id:"),
    *("x-datadog-", "x-idempotency-key:", "x-request-id:", "x-server-timeout:", "x-stainless-"),
)  # fmt: skip
"""Beginnings of headers that are about one call alone: no batch is sent with them."""
TELLING = ("x-ratelimit-", "anthropic-ratelimit-", "openai-processing-ms", "x-amzn-bedrock-")
"""Beginnings of the headers of an answer that are kept with it."""
RATE_HEADERS = ("x-ratelimit-{1}-{0}", "anthropic-ratelimit-{0}-{1}")
"""Headers of an answer that tell of (what is counted, its ``limit``, ``remaining``, ``reset``)."""
LETS_IN = ("authorization", "-auth", "api-key", "apikey", "-token", "virtual-key", "-secret")
"""Ends of the names of headers by which gateways let a call in."""


@dataclass(frozen=True)
class Limits:
    """What one batch may hold."""

    requests: int
    """Counts the inputs of embeddings, of which one request may hold many."""
    bytes: int
    one_model: bool
    """True where all requests of a batch must name the same model."""


@dataclass(frozen=True)
class Submission:
    """A batch about to be created; ``lines`` yields (custom_id, body) as often as asked."""

    nonce: str
    endpoint: str
    headers: tuple[tuple[str, str], ...]
    lines: Sequence[tuple[str, Mapping[str, Any]]] | Iterable[tuple[str, Mapping[str, Any]]]
    count: int
    suite: str = ""
    """Identifies the suite at the provider, where a batch can carry metadata."""
    secret: bool = False
    """Whether its lines hold secrets, which must not reach the disk."""


@dataclass(frozen=True)
class Created:
    """A batch that exists now."""

    job_id: str
    created_at: float
    input_ref: str = ""


@dataclass(frozen=True)
class Found:
    """A batch seen in the provider's list. ``nonce`` is empty where only its results can tell."""

    job_id: str
    created_at: float
    total: int
    nonce: str = ""
    suite: str = ""
    endpoint: str = ""
    model: str = ""
    input_ref: str = ""
    running: bool = True
    opaque: bool = False
    """Whether nothing but its results tells whose it is: the provider keeps no metadata."""


class Client(Protocol):
    """A provider's batch API for one base URL and one account.

    Times are those of this machine's clock; where the provider's differs, the client converts.
    Every method raises ``ConfigurationError`` for what a retry cannot cure (401, 403, no batch API
    at this base URL) and ``ProviderError`` for what it may.
    """

    def create(self, submission: Submission) -> Created:
        """Create the batch, once.

        Raises:
            CreateUnknownError: the create call was sent and its outcome is not known.
            CapacityError: the provider has no room for it now; nothing was created.
        """

    def status(self, job_id: str) -> JobStatus:
        """Poll once. Raises ``JobNotFoundError`` when the provider does not know the job."""

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield the rows of an ended job, in the provider's order, straight from the download."""

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation; a job that has already ended is no error."""

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        """Yield batches created at or after ``since`` (seconds since the epoch), newest first."""

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return the custom IDs that a job was given, or None where the provider cannot tell."""

    def has_batch_api(self) -> bool:
        """Return whether this base URL answers a list call the way the provider's API does."""

    def delete_files(self, refs: Iterable[str]) -> None:
        """Delete input and output files that are no longer needed; a missing one is no error."""

    def close(self) -> None:
        """Close connections."""


class Provider:
    """A provider. Its class attributes and methods are what another one changes.

    Only ``client`` has to be written: nothing else needs a network. See the guide "A provider of
    your own" for a whole one.
    """

    name = ""
    """Stored with every job and answer."""
    title = ""
    """As a person writes it."""
    dialects: tuple[Dialect, ...] = ()
    """The shapes of the endpoints that it can batch."""
    limits = Limits(requests=50_000, bytes=100_000_000, one_model=True)
    hosts: tuple[str, ...] = ()
    """Its own hosts, as patterns: those that are known to have its batch API."""
    spoken_elsewhere = False
    """Whether other hosts speak its protocol, too: gateways, servers of one's own."""
    base_url = ""
    """Where its SDK sends to by default."""
    base_url_variables: tuple[str, ...] = ()
    """Environment variables that name another base URL to its SDK."""
    key_variables: Mapping[str, str] = {}
    """Environment variables its SDK reads the key from, each with a placeholder."""
    account_headers: frozenset[str] = frozenset({"authorization"})
    """The headers, in lower case, that tell whose account a call is charged to."""
    job_headers: tuple[str, ...] = ()
    """Headers of a batch that change its answers, in lower case and sorted."""
    empty_query: frozenset[tuple[str, str]] = frozenset()
    """Parts of a call's query that say nothing which the rest of the call does not say."""
    query_keys: Mapping[str, str] = {}
    """Parameters of a call's query that hold a key, each with the header that says the same."""
    job_id_prefix = ""
    halves_batches = False
    """Whether it documents that a batch costs half of the price of every model."""
    free: tuple[str, ...] = ()
    """Ends of the paths of calls that it does not charge for."""

    def client(self, base_url: str, credentials: Credentials, job_headers: Headers) -> Client:
        """Return a client of the batch API, made from what the intercepted call carried."""
        raise NotImplementedError

    def key_headers(self, key: str) -> Mapping[str, str]:
        """Return the headers by which this key lets a request in."""
        return {"authorization": f"Bearer {key}"}

    def key(self) -> str:
        """Return the key that the environment holds, or an empty string."""
        return next((key for name in self.key_variables if (key := os.environ.get(name))), "")

    def lacks_key(self, error: BaseException) -> bool:
        """Return whether this is the SDK's complaint that it was given no key."""
        return False

    def is_official(self, base_url: str) -> bool:
        """Return whether the host is the provider's own, known to have the batch API."""
        parts = urlsplit(base_url)
        return parts.scheme == "https" and is_one_of(self.hosts, parts.hostname or "")

    def usual_base_url(self) -> str:
        """Return where its SDK sends to in this environment."""
        named = (os.environ.get(name) for name in self.base_url_variables)
        return next((url for url in named if url), self.base_url)

    def identity_headers(self, headers: Mapping[str, str]) -> Headers:
        """Return the batch-level headers that change the answer, sorted by name."""
        lowered = {name.lower(): value for name, value in headers.items()}
        return tuple((name, lowered[name]) for name in self.job_headers if lowered.get(name))

    def credentials(self, headers: Mapping[str, str], base_url: str) -> Credentials:
        """Return what of a call's headers, in lower case, goes along with a batch.

        On hosts that are not its own, what looks like a gateway's key counts to the account.
        """
        kept = {n: v for n, v in headers.items() if not f"{n}:".startswith(OF_ONE_CALL)}
        ends = () if self.is_official(base_url) else LETS_IN
        account = {n for n in kept if n in self.account_headers or n.endswith(ends)}
        return Credentials(
            {name: kept[name] for name in kept if name in account},
            {name: kept[name] for name in kept if name not in account},
        )

    def rejected(self, request: Request) -> str:
        """Return why this request can never be batched, or an empty string."""
        return ""

    def in_flex(self, request: Request) -> Mapping[str, Any] | None:
        """Return the body with which a request is sent in the flex tier; None: there is none."""
        return None

    def refuses_flex(self, status: int, body: Any) -> bool:
        """Return whether an answer says that this model has no flex tier."""
        return False

    def has_no_room(self, status: int, body: Any) -> bool:
        """Return whether an answer says that the flex tier has no room at the moment.

        Such a call is not charged, and is tried again.
        """
        error = body.get("error") if isinstance(body, Mapping) else None
        said = f"{error.get('code')} {error.get('message')}" if isinstance(error, Mapping) else ""
        unavailable = "unavailable" in said.lower().replace("_", " ")
        return status in (408, 498, 503) or (status == 429 and unavailable)

    def batch_refuses(
        self, status: int, error: Mapping[str, Any]
    ) -> Literal["", "model", "request"]:
        """Return what an error says that only a batch refuses: all of a model, or the request."""
        message = str(error.get("message") or "")
        if error.get("code") == "model_not_found" or (status == 404 and "model" in message.lower()):
            return "model"
        if BATCH.search(message) and UNSUPPORTED.search(message):
            return "model" if "model" in message.lower() else "request"
        return ""

    def line_bytes(self, custom_id: str, body_bytes: int) -> int:
        """Return an upper bound of what a request adds to the batch, in bytes."""
        longest = max((len(dialect.endpoint) for dialect in self.dialects), default=0)
        return len(custom_id) + longest + body_bytes + 100


def telling_headers(headers: Any) -> dict[str, str]:
    """Return what is kept of an answer's headers, with names in lower case."""
    found = headers.items() if isinstance(headers, Mapping) else ()
    pairs = ((str(name).lower(), value) for name, value in found)
    return {name: str(value) for name, value in pairs if name.startswith(TELLING)}


def is_management(endpoint: str) -> bool:
    """Return whether a stored endpoint is of a call by which objects are managed: it begins with
    its method."""
    return endpoint.startswith(("POST /", "GET /", "DELETE /", "PUT /", "PATCH /"))


def is_one_of(patterns: Iterable[str], host: str) -> bool:
    """Return whether a host name fits one of the patterns."""
    return any(fnmatchcase(host.lower(), pattern) for pattern in patterns)

"""What the engine asks of a provider. Each provider is one small file beside this one.

SDKs are imported inside the functions that need them: an inactive run loads none of them.

* In: requests to be batched, the account that their calls came with.
* Out: jobs, their status and rows, in one shape for all providers.
* May import: ``interception`` (its own calls go out untouched).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import Credentials, Job, JobStatus, Request, ResultRow, Target
from pytest_langasync.providers import dialects
from pytest_langasync.providers.dialects import Dialect

__all__ = [
    "Client",
    "Found",
    "Limits",
    "Provider",
    "Submission",
    "by_job_id",
    "by_name",
    "dialect",
    "dialect_of",
    "echoed",
    "providers",
    "set_placeholder_keys",
]


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


class Provider(Protocol):
    """The questions a provider's file answers without any network."""

    name: str
    limits: Limits
    dialects: tuple[Dialect, ...]
    """The shapes of the endpoints that it can batch."""
    job_id_prefix: str
    key_variables: Mapping[str, str]
    """Environment variables its SDK reads the key from, each with a placeholder."""

    def key_headers(self, key: str) -> Mapping[str, str]:
        """Return the headers by which this key lets a request in."""

    def lacks_key(self, error: BaseException) -> bool:
        """Return whether this is the SDK's complaint that it was given no key."""

    def is_official(self, base_url: str) -> bool:
        """Return whether the host is the provider's own, known to have the batch API."""

    def identity_headers(self, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the batch-level headers that change the answer, sorted by name."""

    def rejected(self, request: Request) -> str:
        """Return why this request can never be batched, or an empty string."""

    def line_bytes(self, custom_id: str, body_bytes: int) -> int:
        """Return an upper bound of what a request adds to the batch, in bytes."""

    def client(
        self, base_url: str, credentials: Credentials, job_headers: tuple[tuple[str, str], ...]
    ) -> Client:
        """Return a client of the batch API, made from what the intercepted call carried."""


def providers() -> tuple[Provider, ...]:
    """Return all providers, in the order in which a path is offered to them."""
    from pytest_langasync.providers.anthropic import ANTHROPIC
    from pytest_langasync.providers.openai import OPENAI

    return (OPENAI, ANTHROPIC)


def set_placeholder_keys() -> list[str]:
    """Set the key variables that are absent, so that clients can be made; return their names."""
    wanted = {name: value for one in providers() for name, value in one.key_variables.items()}
    absent = {name: value for name, value in wanted.items() if not os.environ.get(name)}
    os.environ.update(absent)
    return list(absent)


def lacking_key(error: BaseException | None) -> str:
    """Return the variable of the key that an SDK lacks, where ``error`` says so, or ''."""
    while error is not None:
        for provider in providers():
            if provider.lacks_key(error):
                return next(iter(provider.key_variables))
        error = error.__cause__  # not the context: what a test has handled is no complaint
    return ""


def by_name(name: str) -> Provider:
    """Return the provider of this name. Raises ``KeyError`` for an unknown one."""
    return {provider.name: provider for provider in providers()}[name]


def dialect(provider: str, endpoint: str) -> Dialect:
    """Return the shape that a provider's endpoint speaks, as well as it is known."""
    own = (one.dialects for one in providers() if one.name == provider)
    return dialects.dialect_of(endpoint, next(own, dialects.DIALECTS))


def dialect_of(where: Target | Job) -> Dialect:
    """Return the shape that is spoken there."""
    return dialect(where.provider, where.endpoint)


def echoed(body: Any) -> frozenset[str]:
    """Return what the body of an answer may repeat of its request, at its top."""
    every = (one for provider in providers() for one in provider.dialects)
    return next((one.echoed for one in every if one.echoed and one.is_answer(body)), frozenset())


def by_job_id(job_id: str) -> Provider:
    """Return the provider whose job IDs look like this. Raises ``ConfigurationError``."""
    for provider in providers():
        if job_id.startswith(provider.job_id_prefix):
            return provider
    known = ", ".join(f"{provider.job_id_prefix}…" for provider in providers())
    raise ConfigurationError(f"{job_id!r} is not a job ID of a known provider ({known})")

"""What goes into which batch, and how a batch that was sent is found again."""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_langasync._records import Intent
from pytest_langasync.config import Settings
from pytest_langasync.exceptions import JobNotFoundError, ProviderError
from pytest_langasync.models import Job, JobState, Pending, make_custom_id, split_custom_id
from pytest_langasync.providers import Client, Found, Limits, Provider

NONCE_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
NONCE_LENGTH = 12
LISTED = 1000
"""How many batches of a provider's list are looked at before giving up."""
WORDS = {
    429: "rate limit",
    500: "server error",
    503: "cancelled or unavailable",
    504: "expired or timed out",
    529: "overloaded",
}
SKEW = 300.0
"""How far the provider's clock may differ from ours, in seconds."""
LIMIT = re.compile(r"[Ll]imit: ([\d,]+) enqueued tokens")
BYTES_PER_TOKEN = 4

Place = tuple[str, str, str, str]
"""Where a provider counts what waits: its name, base URL, account and model."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that somebody waits for, and how often it has been sent in vain."""

    pending: Pending
    settled: Callable[[str], bool]
    """Whether the stored answer of its key counts."""
    retry_of: str = ""
    depth: int = 0


@dataclass(frozen=True)
class Policy:
    """How patiently to poll and how often to try again. Times are in seconds."""

    poll_interval: float = 60.0
    """The longest pause between two polls of a job."""
    first_poll: float = 1.0
    """The pause before the first poll; each further one is twice as long."""
    max_retries: int = 3
    """How often a failure that was not the request's fault is sent again."""
    lookups: int = 3
    """How often to look for a batch whose creation is in doubt before it counts as absent."""
    lookup_pause: float = 2.0
    adopt_since: float = 0.0
    """With an empty cache, jobs created before this moment (since the epoch) are not looked for."""
    tidy_before: float = 0.0
    """Files of jobs that ended before this moment are deleted at the provider; 0 keeps all."""

    @classmethod
    def of(cls, settings: Settings, started_at: float) -> Policy:
        """Return the policy of a run that began at ``started_at`` (since the epoch)."""
        return cls(
            poll_interval=settings.poll_interval,
            first_poll=0.02 if settings.sandbox else min(1.0, settings.poll_interval),
            max_retries=settings.max_retries,
            adopt_since=settings.oldest(started_at),
            tidy_before=0.0 if settings.keep_files else started_at,
        )


class Verdict(enum.Enum):
    """What a look at the provider says about a submission that was not found."""

    ABSENT = "absent"
    UNDECIDED = "undecided"


class Lines:
    """(custom_id, body) of each request, read from the spool as often as it is iterated."""

    def __init__(
        self, nonce: str, asks: Sequence[Ask], body: Callable[[str], Mapping[str, Any]]
    ) -> None:
        self._nonce, self._asks, self._body = nonce, asks, body

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for ask in self._asks:
            key = ask.pending.key
            yield make_custom_id(self._nonce, key), self._body(key)


def new_nonce() -> str:
    """Return 12 random letters and digits that tell our batch from every other."""
    return "".join(secrets.choice(NONCE_LETTERS) for _ in range(NONCE_LENGTH))


def place_of(pending: Pending) -> Place:
    """Return where this request waits."""
    return (pending.provider, pending.base_url, pending.credentials.account, pending.model)


class Room:
    """How much may wait at each place, as far as refusals have told."""

    def __init__(self) -> None:
        self._most: dict[Place, int] = {}

    def most(self, place: Place) -> int | None:
        """Return how many requests a batch may hold there, or None where all were taken so far."""
        return self._most.get(place)

    def refused(self, asks: Sequence[Ask], why: str, jobs: Iterable[Job]) -> bool:
        """Note that there was no room for a batch; return whether to try a smaller one at once.

        While another of ``jobs`` waits there, room will come by itself. So it will where the limit
        that the provider names is far above the batch: then others fill the room.
        """
        p = asks[0].pending
        waiting = (j for j in jobs if j.state is JobState.RUNNING and j.model in (p.model, ""))
        if any((j.provider, j.base_url) == (p.provider, p.base_url) for j in waiting):
            return False
        named = LIMIT.search(why)
        tokens = sum(ask.pending.size for ask in asks) // BYTES_PER_TOKEN
        if named and 4 * tokens < int(named[1].replace(",", "")):
            return False
        self._most[place_of(p)] = max(1, len(asks) // 2)
        return named is not None and len(asks) > 1


def plan(asks: Iterable[Ask], lookup: Callable[[str], Provider], room: Room) -> list[list[Ask]]:
    """Group requests that may share a batch, split at the provider's limits, by priority."""
    groups: dict[tuple[Any, ...], list[Ask]] = {}
    for ask in asks:
        limits = lookup(ask.pending.provider).limits
        groups.setdefault(_group(ask, limits), []).append(ask)
    ordered = sorted(groups.items(), key=lambda item: item[0][0])
    return [chunk for _, group in ordered for chunk in _split(group, lookup, room)]


def _group(ask: Ask, limits: Limits) -> tuple[Any, ...]:
    p = ask.pending
    model = p.model if limits.one_model else ""
    return (
        p.priority, p.provider, p.base_url, p.credentials.account, p.endpoint, p.headers, model,
        ask.retry_of, ask.depth,
    )  # fmt: skip


def _split(
    group: Sequence[Ask], lookup: Callable[[str], Provider], room: Room
) -> Iterator[list[Ask]]:
    provider = lookup(group[0].pending.provider)
    limits, most = provider.limits, room.most(place_of(group[0].pending))
    chunk: list[Ask] = []
    left, inputs = limits.bytes, limits.requests
    for ask in group:
        custom_id = make_custom_id("x" * NONCE_LENGTH, ask.pending.key)
        size = provider.line_bytes(custom_id, ask.pending.size)
        if chunk and (size > left or ask.pending.inputs > inputs or len(chunk) == most):
            yield chunk
            chunk, left, inputs = [], limits.bytes, limits.requests
        chunk.append(ask)
        left, inputs = left - size, inputs - ask.pending.inputs
    yield chunk


def one_model(asks: Iterable[Ask]) -> str:
    """Return the model that all requests name, or an empty string."""
    models = {ask.pending.model for ask in asks}
    return models.pop() if len(models) == 1 else ""


def look(client: Client, intent: Intent, known: Iterable[str]) -> Found | Verdict:
    """Look for a submission among the provider's batches.

    A running batch of the same size, of which nothing but its results can tell, leaves it
    undecided. ``known`` are the jobs that belong to other submissions.

    Raises:
        ProviderError: the list could not be read, or is too long to be sure.
    """
    known, seen, undecided = set(known), 0, False
    for found in client.find(intent.created_at - SKEW, LISTED):
        seen += 1
        if found.job_id in known:
            continue
        if found.nonce:
            if found.nonce == intent.nonce:
                return found
        elif found.total in (0, intent.count):
            nonces = _nonces(client, found.job_id)
            if nonces is not None and intent.nonce in nonces:
                return found
            undecided = undecided or (nonces is None and found.running)
    if seen >= LISTED:
        raise ProviderError("too many recent batches to tell whether a submission is among them")
    return Verdict.UNDECIDED if undecided else Verdict.ABSENT


def _nonces(client: Client, job_id: str) -> frozenset[str] | None:
    try:
        ids = client.input_ids(job_id)
    except JobNotFoundError:
        return frozenset()
    return None if ids is None else frozenset(split_custom_id(custom_id)[0] for custom_id in ids)


def error_body(provider: str, status: int, code: str, message: str) -> dict[str, Any]:
    """Return an error in the shape in which the provider's real-time endpoint gives it."""
    kind = {404: "not_found_error"}.get(status, "invalid_request_error")
    if provider == "anthropic":
        kind = kind if status < 500 else "api_error"
        error: dict[str, Any] = {"type": kind, "message": message}
        return {"type": "error", "error": error, "request_id": None}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code or None}}


def why_again(status: int) -> str:
    """Say in words why a request that failed for no fault of its own is sent again."""
    return f"{WORDS.get(status, 'failed')} ({status})"

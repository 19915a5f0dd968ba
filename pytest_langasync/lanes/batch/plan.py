"""What goes into which batch."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_langasync.cache.secret_places import with_secrets
from pytest_langasync.lanes.batch import QueuedRequest
from pytest_langasync.models import Job, JobState, MissingCall, make_custom_id
from pytest_langasync.providers import Limits, Provider

NONCE_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
NONCE_LENGTH = 12
LIMIT = re.compile(r"[Ll]imit: ([\d,]+) enqueued tokens")
BYTES_PER_TOKEN = 4

Place = tuple[str, str, str, str]
"""Where a provider counts what waits: its name, base URL, account and model."""


class Lines:
    """(custom_id, body) of each request, read from the spool as often as it is iterated."""

    def __init__(
        self, nonce: str, asks: Sequence[QueuedRequest], body: Callable[[str], Mapping[str, Any]]
    ) -> None:
        self._nonce, self._asks, self._body = nonce, asks, body

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for ask in self._asks:
            key, secrets = ask.pending.key, ask.pending.secrets
            yield make_custom_id(self._nonce, key), with_secrets(self._body(key), secrets)


def new_nonce() -> str:
    """Return 12 random letters and digits that tell our batch from every other."""
    return "".join(secrets.choice(NONCE_LETTERS) for _ in range(NONCE_LENGTH))


def place_of(pending: MissingCall) -> Place:
    """Return where this request waits."""
    return (*pending.target.host, pending.target.credentials.account, pending.model)


class Room:
    """How much may wait at each place, as far as refusals have told."""

    def __init__(self) -> None:
        self._most: dict[Place, int] = {}

    def most(self, place: Place) -> int | None:
        """Return how many requests a batch may hold there, or None where all were taken so far."""
        return self._most.get(place)

    def refused(self, asks: Sequence[QueuedRequest], why: str, jobs: Iterable[Job]) -> bool:
        """Note that there was no room for a batch; return whether to try a smaller one at once.

        While another of ``jobs`` waits there, room will come by itself. So it will where the limit
        that the provider names is far above the batch: then others fill the room.
        """
        p = asks[0].pending
        waiting = (j for j in jobs if j.state is JobState.RUNNING and j.model in (p.model, ""))
        if any(j.host == p.target.host for j in waiting):
            return False
        named = LIMIT.search(why)
        tokens = sum(ask.pending.size for ask in asks) // BYTES_PER_TOKEN
        if named and 4 * tokens < int(named[1].replace(",", "")):
            return False
        self._most[place_of(p)] = max(1, len(asks) // 2)
        return named is not None and len(asks) > 1


def plan(
    asks: Iterable[QueuedRequest], lookup: Callable[[str], Provider], room: Room
) -> list[list[QueuedRequest]]:
    """Group requests that may share a batch, split at the provider's limits, by priority."""
    groups: dict[tuple[Any, ...], list[QueuedRequest]] = {}
    for ask in asks:
        limits = lookup(ask.pending.target.provider).limits
        groups.setdefault(_group(ask, limits), []).append(ask)
    ordered = sorted(groups.items(), key=lambda item: item[0][0])
    return [chunk for _, group in ordered for chunk in _split(group, lookup, room)]


def _group(ask: QueuedRequest, limits: Limits) -> tuple[Any, ...]:
    p = ask.pending
    model = p.model if limits.one_model else ""
    return (p.options.priority, p.target, model, ask.retry_of, ask.depth)


def _split(
    group: Sequence[QueuedRequest], lookup: Callable[[str], Provider], room: Room
) -> Iterator[list[QueuedRequest]]:
    provider = lookup(group[0].pending.target.provider)
    limits, most = provider.limits, room.most(place_of(group[0].pending))
    chunk: list[QueuedRequest] = []
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


def one_model(asks: Iterable[QueuedRequest]) -> str:
    """Return the model that all requests name, or an empty string."""
    models = {ask.pending.model for ask in asks}
    return models.pop() if len(models) == 1 else ""

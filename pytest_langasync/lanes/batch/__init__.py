"""The batch lane: each call is bought once, through a provider's batch job, killed or not.

``plan`` groups calls, ``submit`` notes and creates jobs, ``recover`` finds what was bought before,
``poll`` watches, ``outcomes`` says what the end of a job means, ``tidy`` removes old files, and
``batcher`` ties them together. This module holds the values that they share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_langasync.models import Job, MissingCall, Target

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Store
    from pytest_langasync.config import Settings
    from pytest_langasync.providers import Client


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request that somebody waits for, and how often it has been sent in vain."""

    pending: MissingCall
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
    patience: float = 60.0
    """How long to look for a batch whose creation is in doubt before it counts as absent."""
    adopt: float = 86400.0
    """How old jobs may be that the cache does not know and whose answers are used."""
    adopt_since: float = 0.0
    """Those created before this moment (since the epoch) are not looked for."""
    tidy: bool = True
    """Whether files that nobody needs any more are deleted at the provider."""

    @classmethod
    def of(cls, settings: Settings, started_at: float) -> Policy:
        """Return the policy of a run that began at ``started_at`` (since the epoch)."""
        return cls(
            poll_interval=settings.poll_interval,
            first_poll=0.02 if settings.sandbox else min(1.0, settings.poll_interval),
            max_retries=settings.max_retries,
            patience=0.0 if settings.sandbox else min(60.0, settings.poll_interval),
            adopt=settings.adopt,
            adopt_since=settings.oldest(started_at),
            tidy=not settings.keep_files,
        )


class Clients:
    """One client for each host, account and set of headers, whatever the endpoint.

    A client is made from an intercepted call's target alone: no base URL and no header that was
    read from disk ever meets a key, since a cache may come from a stranger.
    """

    def __init__(self, connect: Callable[[Target], Client]) -> None:
        self._connect = connect
        self._clients: dict[Target, Client] = {}

    def of(self, target: Target) -> Client:
        """Return the client of where a call goes to."""
        place = replace(target, endpoint="")
        if place not in self._clients:
            self._clients[place] = self._connect(place)
        return self._clients[place]

    def at(self, host: tuple[str, str]) -> list[Client]:
        """Return the clients of all accounts in use at a host."""
        return [client for target, client in self._clients.items() if target.host == host]

    def clocks(self) -> dict[str, float]:
        """Return by how many seconds this machine's clock is ahead, for each base URL in use."""
        return {
            target.base_url: getattr(client, "clock_ahead", 0.0)
            for target, client in self._clients.items()
        }

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def under_way(store: Store, call: MissingCall) -> Job | None:
    """Return the running job that a call is part of.

    A job that a stranger wrote may name another place: nobody is asked about it there.
    """
    job = store.in_flight(call.key)
    return job if job is not None and job.host == call.target.host else None

"""What is at the provider already: submissions that a crash left behind, jobs of a lost cache."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_langasync.exceptions import (
    CacheError,
    ConfigurationError,
    JobNotFoundError,
    LangasyncError,
    ProviderError,
)
from pytest_langasync.lanes.batch import Clients, Policy, QueuedRequest, under_way
from pytest_langasync.models import Event, EventKind, Job, MissingCall, Target, split_custom_id
from pytest_langasync.providers import Client, Found

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Intent
    from pytest_langasync.lanes import RunContext

KEPT = 30 * 86400.0
"""How long providers keep a batch's results, in seconds."""
LISTED = 1000
"""How many batches of a provider's list are looked at before giving up."""
SKEW = 3600.0
"""How far the provider's clock may differ from ours, in seconds."""
FIRST_PAUSE = 2.0
"""Seconds between the first two looks for a submission; each further pause is twice as long."""
DOUBT = (
    "a submission is in doubt, and nothing of it is bought before the provider can tell; to give "
    "it up: python -m pytest_langasync doctor"
)
SUITE_JOBS = 50
"""How many recent jobs of this suite are looked into."""
MINUTE = 60.0
OPAQUE_REQUESTS = 10_000
"""How large a batch may be whose results are read only to learn whose it is."""
FEW = 100
"""A running batch of so many requests may hold what is wanted, however little that is. A larger one
does so where it holds from half to twice as many."""
UNKNOWN = (
    "{} ({} requests) runs there, began after the newest job that this cache knows, and only its "
    "results can tell whose it is: nothing is bought before it has ended. --langasync-adopt=0 buys "
    "at once"
)
OLD = (
    "{} jobs of this suite that this cache does not know, the newest {} old: their answers are not "
    "used. --langasync-adopt=30d takes them"
)

Failures = list[tuple[LangasyncError, list[QueuedRequest]]]


class Verdict(enum.Enum):
    """What a look at the provider says about a submission that was not found."""

    ABSENT = "absent"
    UNDECIDED = "undecided"


class Search:
    """Looks for what was bought, before it is bought again. Call it with the cache's lock held."""

    def __init__(self, context: RunContext, policy: Policy, clients: Clients) -> None:
        self._context = context
        self._store = context.store
        self._policy = policy
        self._clients = clients
        self._recent: dict[tuple[str, str, str], list[Found]] = {}
        self._ids: dict[str, frozenset[str]] = {}
        """The custom IDs of our shape in jobs that were read."""
        self._told: set[str] = set()

    # Submissions

    def recover(
        self, asks: list[QueuedRequest], failures: Failures
    ) -> tuple[list[QueuedRequest], list[QueuedRequest]]:
        """Settle the open submissions that hold a wanted request.

        Returns what may go on, and what has to wait because the provider cannot tell yet.
        """
        undecided: list[QueuedRequest] = []
        for intent in self._store.open_submissions():
            concerned = self._concerned(asks, intent)
            if not concerned:
                continue
            try:
                verdict = self._settle(intent, concerned[0].pending)
            except (ConfigurationError, ProviderError) as error:
                failures.append((error, concerned))
            else:
                if verdict is not Verdict.UNDECIDED:
                    continue
                undecided += concerned
            held = {ask.pending.key for ask in concerned}
            asks = [ask for ask in asks if ask.pending.key not in held]
        return asks, undecided

    def _concerned(self, asks: list[QueuedRequest], intent: Intent) -> list[QueuedRequest]:
        """Return what an open submission holds, or may hold where its requests are damaged."""
        keys = self._store.intents.keys(intent.nonce)
        place = (intent.meta.provider, intent.meta.base_url)
        there = [ask for ask in asks if ask.pending.target.host == place]
        held = [ask for ask in there if ask.pending.key in keys]
        if len(keys) >= intent.count:
            return held
        return held + [ask for ask in there if ask.pending.key not in keys]

    def _settle(self, intent: Intent, pending: MissingCall) -> Found | Verdict:
        found = self.look(intent, self._clients.of(pending.target))
        if isinstance(found, Found):
            self.promote(intent, found)
        elif found is Verdict.ABSENT:
            self._store.intents.drop(intent.nonce)
        return found

    def look(self, intent: Intent, client: Client) -> Found | Verdict:
        """Look for a submission, again and again while it may still come to be listed."""
        known = [job.id for job in self._store.jobs()]
        context, pause = self._context, FIRST_PAUSE
        # One that was noted long ago is listed by now; when it was sent since then, nobody knows.
        fresh = context.clock() - intent.created_at < 10 * self._policy.patience
        end = context.timer() + (self._policy.patience if fresh else 0.0)
        while True:
            found = look(client, intent, known, context.clock())
            left = end - context.timer()
            if found is not Verdict.ABSENT or left <= 0:
                return found
            text = "its creation was not confirmed: looking for it at the provider"
            meta = intent.meta
            context.notify(Event("waiting", meta.provider, meta.model, intent.count, message=text))
            context.sleep(min(pause, left))
            pause *= 2

    def promote(self, intent: Intent, found: Found) -> Job:
        """Enter a submission that was found, or has just succeeded, as a job."""
        return self._store.promote(intent.nonce, intent.job(found.job_id, found.input_ref))

    # Jobs that the cache does not know

    def suite(
        self, asks: Sequence[QueuedRequest], failures: Failures
    ) -> tuple[list[QueuedRequest], list[QueuedRequest]]:
        """Look for wanted requests among this suite's jobs.

        The cache may be lost, or older than the jobs (restored by CI, or damaged). Each wave looks
        again: an answer may lead to requests that were bought long ago. Returns what may go on, and
        what has to wait for a running batch that may hold it.
        """
        groups: dict[tuple[str, str, str], list[QueuedRequest]] = {}
        if self._policy.adopt and self._context.suite:
            for ask in asks:
                if under_way(self._store, ask.pending) is None:
                    groups.setdefault(_account(ask.pending), []).append(ask)
        held: set[str] = set()
        waiting: list[QueuedRequest] = []
        for group in groups.values():
            try:
                if self._take_in(group):
                    waiting += [ask for ask in group if not under_way(self._store, ask.pending)]
            except CacheError:
                raise
            except (ConfigurationError, ProviderError) as error:
                failures.append((error, group))
                held |= {ask.pending.key for ask in group}
        held |= {ask.pending.key for ask in waiting}
        return [ask for ask in asks if ask.pending.key not in held], waiting

    def _take_in(self, group: Sequence[QueuedRequest]) -> bool:
        """Take in the jobs that hold a wanted request; return whether to wait for running ones."""
        wanted = {ask.pending.key for ask in group}
        pending, many = group[0].pending, len(group)
        host = pending.target.host
        client = self._clients.of(pending.target)
        adopted: list[tuple[Found, frozenset[str]]] = []
        running: list[Found] = []
        for found in self._suite_jobs(pending, client):
            if not wanted:
                break
            if found.opaque and found.running:
                if many / 2 <= found.total <= max(2 * many, FEW):
                    running.append(found)
            elif (known := self._store.job(found.job_id)) is None or known.host != host:
                ids = self._input_ids(found.job_id, client)
                held = {split_custom_id(custom_id)[1] for custom_id in ids}
                if held & wanted:
                    wanted -= held
                    adopted.append((found, ids))
        for found, ids in reversed(adopted):  # of two jobs with a request the newest counts
            self._adopt(_job_of(found, pending.target, _nonce_of(ids)), ids)
        if not wanted:
            return False
        for found in running:
            self._tell("waiting", pending, UNKNOWN.format(found.job_id, found.total))
        return bool(running)

    def _input_ids(self, job_id: str, client: Client) -> frozenset[str]:
        if job_id not in self._ids:
            ours = (cid for cid in client.input_ids(job_id) or () if split_custom_id(cid)[1])
            self._ids[job_id] = frozenset(ours)
        return self._ids[job_id]

    def _tell(self, kind: EventKind, pending: MissingCall, message: str) -> None:
        """Tell something once in a run."""
        if message not in self._told:
            self._told.add(message)
            self._context.notify(Event(kind, pending.target.provider, message=message))

    def _adopt(self, job: Job, ids: Iterable[str] | None) -> Job:
        job = self._store.adopt(job, ids)
        age = _spelled(self._context.clock() - job.created_at)
        message = f"bought {age} ago, not by this cache: its answers count as cached, at $0 here"
        self._context.notify(
            Event("adopted", job.provider, job.model, job.requests, job, message=message)
        )
        return job

    def _suite_jobs(self, pending: MissingCall, client: Client) -> list[Found]:
        """Return this suite's recent jobs that the cache has never heard of, newest first.

        Where a provider's batches do not tell whose they are, those since the newest that the cache
        knows: a cache that CI restored may be older than its last jobs.
        """
        place = _account(pending)
        if place not in self._recent:
            host = pending.target.host
            # What a stranger made of a job of ours is no reason to buy it again.
            known = {job.id for job in self._store.jobs() if job.host == host}
            open_ = {intent.nonce for intent in self._store.open_submissions()}
            newest = self._newest(host)
            since = self._policy.adopt_since  # the provider counts in whole seconds

            def may_be_ours(found: Found) -> bool:
                if not found.opaque:
                    ours = found.suite == self._context.suite and bool(found.nonce)
                    return ours and found.nonce not in open_
                recent = newest is not None and found.created_at + MINUTE >= newest
                return recent and found.total <= OPAQUE_REQUESTS

            now = self._context.clock()
            listed = client.find(max(now - KEPT, since))
            new = (f for f in listed if f.job_id not in known and f.created_at >= since)
            found = list(itertools.islice(filter(may_be_ours, new), SUITE_JOBS))
            young = [one for one in found if one.created_at >= now - self._policy.adopt]
            if any(one.opaque and one.running for one in young):
                return young  # looked for again until its results tell
            self._recent[place] = young
            old = [one for one in found if one not in young and not one.opaque]
            if old:
                age = _spelled(now - max(one.created_at for one in old))
                self._tell("left", pending, OLD.format(len(old), age))
        return self._recent[place]

    def _newest(self, host: tuple[str, str]) -> float | None:
        """Return when the newest job was created that the cache knows: there, or else anywhere."""
        jobs = self._store.jobs()
        here = [job.created_at for job in jobs if job.host == host]
        return max(here or [job.created_at for job in jobs], default=None)

    def adopt(self, job_id: str, target: Target) -> Job:
        """Take in a job known by its ID alone. Raises as ``Batcher.attach`` does."""
        client, now = self._clients.of(target), self._context.clock()
        try:
            status = client.status(job_id)
            ids = client.input_ids(job_id)
        except JobNotFoundError as error:
            raise ConfigurationError(str(error)) from error
        listed = (f for f in client.find(now - KEPT) if f.job_id == job_id)
        found = next(listed, Found(job_id, now, status.total, endpoint=target.endpoint))
        job = _job_of(found, replace(target, headers=()), _nonce_of(ids or ()))
        return self._adopt(job, ids)


def _spelled(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(0.0, seconds):.0f} seconds"


def _account(pending: MissingCall) -> tuple[str, str, str]:
    return (*pending.target.host, pending.target.credentials.account)


def _nonce_of(custom_ids: Iterable[str]) -> str:
    """Return the one nonce of a job's requests, or an empty string."""
    nonces = {split_custom_id(custom_id)[0] for custom_id in custom_ids} - {""}
    return nonces.pop() if len(nonces) == 1 else ""


def _job_of(found: Found, target: Target, nonce: str) -> Job:
    return Job(
        id=found.job_id,
        provider=target.provider,
        base_url=target.base_url,
        endpoint=found.endpoint,
        model=found.model,
        headers=target.headers,
        nonce=found.nonce or nonce,
        created_at=found.created_at,
        requests=found.total,
        input_ref=found.input_ref,
        suite=found.suite,
    )


def look(client: Client, intent: Intent, known: Iterable[str], now: float) -> Found | Verdict:
    """Look once for a submission among the provider's batches.

    A running batch of the same size, of which nothing but its results can tell, leaves it
    undecided. ``known`` are the jobs that belong to other submissions.

    Raises:
        ProviderError: the list could not be read, or is too long to be sure.
    """
    known, seen, undecided = set(known), 0, False
    # The clock may have been set back since it was noted.
    for found in client.find(min(intent.created_at, now) - SKEW, LISTED):
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

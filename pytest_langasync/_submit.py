"""Buying each request once: intents, creation, and the search for what a crash left behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytest_langasync._plan import (
    Ask,
    Lines,
    Place,
    Policy,
    Room,
    Verdict,
    look,
    new_nonce,
    one_model,
    place_of,
    plan,
)
from pytest_langasync._records import RequestMeta
from pytest_langasync._tidy import tidy
from pytest_langasync.exceptions import (
    CacheError,
    CapacityError,
    ConfigurationError,
    CreateUnknownError,
    JobNotFoundError,
    LangasyncError,
    ProviderError,
)
from pytest_langasync.models import Credentials, Event, Job, JobState, Pending, split_custom_id
from pytest_langasync.providers import Client, Found, Provider, Submission, by_name
from pytest_langasync.store import Intent, Store

KEPT = 30 * 86400.0
"""How long providers keep a batch's results, in seconds."""
SUITE_JOBS = 50
"""How many recent jobs of this suite are looked at when the cache is empty."""

Headers = tuple[tuple[str, str], ...]
Connect = Callable[[str, str, Credentials, Headers], Client]


def connect_to(provider: str, base_url: str, credentials: Credentials, headers: Headers) -> Client:
    """Return the provider's own client."""
    return by_name(provider).client(base_url, credentials, headers)


@dataclass
class Placed:
    """What became of requests that could not be sent."""

    full: list[Ask] = field(default_factory=list)
    undecided: list[Ask] = field(default_factory=list)
    failures: list[tuple[LangasyncError, list[Ask]]] = field(default_factory=list)


class Watcher(Protocol):
    """Told of each job in which somebody waits for a request."""

    def __call__(
        self, job: Job, credentials: Credentials, asks: Iterable[Ask], *, fresh: bool
    ) -> None: ...


class Submitter:
    """Puts requests into jobs: running ones, found ones, new ones."""

    def __init__(
        self,
        store: Store,
        suite: str,
        policy: Policy,
        notify: Callable[[Event], None],
        connect: Connect,
        lookup: Callable[[str], Provider],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        watch: Watcher,
    ) -> None:
        self._store = store
        self._suite = suite
        self._policy = policy
        self._notify = notify
        self._connect = connect
        self._lookup = lookup
        self._clock = clock
        self._sleep = sleep
        self._watch = watch
        self._clients: dict[tuple[str, str, str, Headers], Client] = {}
        self._recent: dict[tuple[str, str, str], list[Found]] = {}
        self._room = Room()

    def client(
        self, name: str, base_url: str, credentials: Credentials, headers: Headers
    ) -> Client:
        """Return the one client of this provider, base URL, account and headers."""
        place = (name, base_url, credentials.account, headers)
        if place not in self._clients:
            self._clients[place] = self._connect(name, base_url, credentials, headers)
        return self._clients[place]

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def tidy(self) -> None:
        """Delete files at the providers in use that earlier runs needed."""
        clients: dict[tuple[str, str], list[Client]] = {}
        for (name, base_url, _, _), client in self._clients.items():
            clients.setdefault((name, base_url), []).append(client)
        if self._policy.tidy_before:
            tidy(self._store, clients, self._policy.tidy_before)

    def place(self, asks: Iterable[Ask]) -> Placed:
        """Put each request into a job, under the lock of the cache."""
        placed = Placed()
        wanted = {ask.pending.key: ask for ask in asks}

        def on_wait() -> None:
            message = "another process is submitting"
            self._notify(Event("waiting", requests=len(wanted), message=message))

        with self._store.lock(on_wait):
            self._store.refresh()
            left = [ask for ask in wanted.values() if not ask.settled(ask.pending.key)]
            left = self._guarded(left, placed, self._search_suite)
            left = self._recover(left, placed)
            self._buy(self._attach_unread(self._attach(left), placed), placed)
        return placed

    def _attach_unread(self, asks: list[Ask], placed: Placed) -> list[Ask]:
        """Wait for running jobs whose requests are not known, before anything is bought there."""
        running = (job for job in self._store.jobs() if job.state is JobState.RUNNING)
        unread = [job for job in running if not self._store.contents_known(job.id)]
        others: list[Ask] = []
        for ask in asks:
            p = ask.pending
            jobs = [j for j in unread if (j.provider, j.base_url) == (p.provider, p.base_url)]
            for job in jobs:
                self._watch(job, p.credentials, (), fresh=False)
            (placed.undecided if jobs else others).append(ask)
        return others

    def _attach(self, asks: Iterable[Ask]) -> list[Ask]:
        """Wait for the jobs in which requests are under way; return the others."""
        others: list[Ask] = []
        by_job: dict[tuple[str, str], list[Ask]] = {}
        for ask in asks:
            job = self._store.in_flight(ask.pending.key)
            if job is None:
                others.append(ask)
            else:
                by_job.setdefault((job.id, ask.pending.credentials.account), []).append(ask)
        for (job_id, _), group in by_job.items():
            if job := self._store.job(job_id):
                self._watch(job, group[0].pending.credentials, group, fresh=False)
        return others

    def _buy(self, asks: Iterable[Ask], placed: Placed) -> None:
        full: set[Place] = set()
        for chunk in plan(asks, self._lookup, self._room):
            p = chunk[0].pending
            if place_of(p) in full:
                placed.full += chunk
                continue
            try:
                if self._create(chunk) is Verdict.UNDECIDED:
                    placed.undecided += chunk
                if self._room.most(place_of(p)):  # one at a time: the next is tried later
                    full.add(place_of(p))
            except CapacityError as error:
                full.add(place_of(p))
                placed.full += chunk
                self.no_room(chunk, str(error))
                self._notify(Event("waiting", p.provider, p.model, len(chunk), message=str(error)))
            except (ConfigurationError, ProviderError) as error:
                placed.failures.append((error, chunk))

    def no_room(self, asks: Sequence[Ask], why: str) -> bool:
        """Note that a batch found no room; return whether to try a smaller one at once."""
        return self._room.refused(asks, why, self._store.jobs())

    # One batch

    def _create(self, asks: Sequence[Ask]) -> Verdict | None:
        """Create one batch, noted before and after; UNDECIDED when it may or may not exist."""
        p = asks[0].pending
        client = self.client(p.provider, p.base_url, p.credentials, p.headers)
        intent = self._intend(asks)
        submission = Submission(
            nonce=intent.nonce,
            endpoint=p.endpoint,
            headers=p.headers,
            lines=Lines(intent.nonce, asks, self._store.spooled),
            count=len(asks),
            suite=self._suite,
        )
        self._notify(Event("uploading", p.provider, intent.meta.model, len(asks)))
        for _ in range(2):
            try:
                created = client.create(submission)
            except CreateUnknownError:
                found = self._look(intent, client)
                if found is Verdict.UNDECIDED:
                    return Verdict.UNDECIDED
                if found is Verdict.ABSENT:
                    continue
                job = self._promote(intent, found)
            except (ConfigurationError, ProviderError):
                self._store.drop_intent(intent.nonce)
                raise
            else:
                job = self._promote(
                    intent,
                    Found(created.job_id, created.created_at, 0, input_ref=created.input_ref),
                )
            self._watch(job, p.credentials, asks, fresh=True)
            return None
        raise ProviderError(
            f"{p.provider} did not answer when a batch of {len(asks)} requests was created; "
            "the next run looks for it before it buys anything again"
        )

    def _intend(self, asks: Sequence[Ask]) -> Intent:
        first, p = asks[0], asks[0].pending
        meta = RequestMeta(p.provider, p.base_url, p.endpoint, p.headers, one_model(asks))
        facts = {"suite": self._suite, "retry_of": first.retry_of, "depth": str(first.depth or "")}
        metadata = {name: value for name, value in facts.items() if value}
        intent = Intent(new_nonce(), meta, self._clock(), len(asks), metadata)
        self._store.write_intent(intent, (ask.pending for ask in asks))
        return intent

    def _promote(self, intent: Intent, found: Found) -> Job:
        meta = intent.meta
        job = Job(
            id=found.job_id,
            provider=meta.provider,
            base_url=meta.base_url,
            endpoint=meta.endpoint,
            model=meta.model,
            headers=meta.headers,
            nonce=intent.nonce,
            # Our own clock, so that it can be compared with the beginning of a run.
            created_at=intent.created_at,
            requests=intent.count,
            input_ref=found.input_ref,
            metadata=intent.metadata,
        )
        return self._store.promote(intent.nonce, job)

    def _look(self, intent: Intent, client: Client) -> Found | Verdict:
        """Look for a submission, more than once: a provider's list may lag behind."""
        known = [job.id for job in self._store.jobs()]
        for number in range(self._policy.lookups):
            if number:
                self._sleep(self._policy.lookup_pause * number)
            found = look(client, intent, known)
            if found is not Verdict.ABSENT:
                return found
        return Verdict.ABSENT

    # What is at the provider already

    def _recover(self, asks: list[Ask], placed: Placed) -> list[Ask]:
        """Settle the open submissions that hold a wanted request; return what may go on."""
        for intent in self._store.intents():
            concerned = self._concerned(asks, intent)
            if not concerned:
                continue
            try:
                verdict = self._settle(intent, concerned[0].pending)
            except (ConfigurationError, ProviderError) as error:
                placed.failures.append((error, concerned))
            else:
                if verdict is not Verdict.UNDECIDED:
                    continue
                placed.undecided += concerned
            held = {ask.pending.key for ask in concerned}
            asks = [ask for ask in asks if ask.pending.key not in held]
        return asks

    def _concerned(self, asks: list[Ask], intent: Intent) -> list[Ask]:
        """Return what an open submission holds, or may hold where its requests are damaged."""
        keys = self._store.intent_keys(intent.nonce)
        held = [ask for ask in asks if ask.pending.key in keys]
        if len(keys) >= intent.count:
            return held
        place = (intent.meta.provider, intent.meta.base_url)
        there = (ask for ask in asks if (ask.pending.provider, ask.pending.base_url) == place)
        return held + [ask for ask in there if ask.pending.key not in keys]

    def _settle(self, intent: Intent, pending: Pending) -> Found | Verdict:
        meta = intent.meta
        client = self.client(meta.provider, meta.base_url, pending.credentials, meta.headers)
        found = self._look(intent, client)
        if isinstance(found, Found):
            self._promote(intent, found)
        elif found is Verdict.ABSENT:
            self._store.drop_intent(intent.nonce)
        return found

    def _guarded(
        self, asks: list[Ask], placed: Placed, act: Callable[[Pending, set[str]], None]
    ) -> list[Ask]:
        """Act once for each place where something is wanted; return the asks of the others."""
        groups: dict[tuple[str, str, str], list[Ask]] = {}
        for ask in asks:
            p = ask.pending
            groups.setdefault((p.provider, p.base_url, p.credentials.account), []).append(ask)
        for group in groups.values():
            try:
                act(group[0].pending, {ask.pending.key for ask in group})
            except CacheError:
                raise
            except (ConfigurationError, ProviderError) as error:
                placed.failures.append((error, group))
        failed = {ask.pending.key for _, group in placed.failures for ask in group}
        return [ask for ask in asks if ask.pending.key not in failed]

    def _search_suite(self, pending: Pending, keys: set[str]) -> None:
        """Look for wanted requests in this suite's recent jobs, where the cache knew none of them.

        Each wave looks again: an answer may lead to requests that were bought long ago.
        """
        p, wanted = pending, {key for key in keys if self._store.in_flight(key) is None}
        client = self.client(p.provider, p.base_url, p.credentials, p.headers)
        adopted: list[tuple[Found, frozenset[str]]] = []
        for found in self._suite_jobs(pending, client):
            if not wanted:
                break
            ids = None if self._store.job(found.job_id) else client.input_ids(found.job_id)
            held = {split_custom_id(custom_id)[1] for custom_id in ids or ()}
            if ids and held & wanted:
                wanted -= held
                adopted.append((found, ids))
        for found, ids in reversed(adopted):  # of two jobs with a request the newest counts
            self._store.adopt(_job_of(found, p.provider, p.base_url, p.headers), ids)

    def _suite_jobs(self, pending: Pending, client: Client) -> list[Found]:
        """Return this suite's recent jobs, newest first; none where the cache knows any job."""
        p = pending
        place = (p.provider, p.base_url, p.credentials.account)
        if place not in self._recent:
            known = any((j.provider, j.base_url) == place[:2] for j in self._store.jobs())
            if known or not self._suite or self._store.intents():
                return []
            oldest = self._policy.adopt_since  # the provider counts in whole seconds
            listed = client.find(max(self._clock() - KEPT, oldest))
            ours = (f for f in listed if f.suite == self._suite and f.nonce)
            recent = itertools.islice(ours, SUITE_JOBS)
            self._recent[place] = [f for f in recent if f.created_at >= oldest]
        return self._recent[place]

    def adopt(
        self, job_id: str, name: str, base_url: str, credentials: Credentials, endpoint: str
    ) -> Job:
        """Take in a job known by its ID alone. Raises as ``Batcher.attach`` does."""
        client = self.client(name, base_url, credentials, ())
        try:
            status = client.status(job_id)
            ids = client.input_ids(job_id)
        except JobNotFoundError as error:
            raise ConfigurationError(f"{name} does not know the job {job_id}: {error}") from error
        listed = (f for f in client.find(self._clock() - KEPT) if f.job_id == job_id)
        found = next(listed, Found(job_id, self._clock(), status.total, endpoint=endpoint))
        nonces = {split_custom_id(custom_id)[0] for custom_id in ids or ()} - {""}
        job = _job_of(found, name, base_url, (), nonces.pop() if len(nonces) == 1 else "")
        return self._store.adopt(job, ids)


def _job_of(found: Found, name: str, base_url: str, headers: Headers, nonce: str = "") -> Job:
    return Job(
        id=found.job_id,
        provider=name,
        base_url=base_url,
        endpoint=found.endpoint,
        model=found.model,
        headers=headers,
        nonce=found.nonce or nonce,
        created_at=found.created_at,
        requests=found.total,
        input_ref=found.input_ref,
        metadata={"suite": found.suite} if found.suite else {},
    )

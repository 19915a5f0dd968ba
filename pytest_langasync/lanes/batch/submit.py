"""Buying each request once: into a running job, into one that was found, or into a new one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pytest_langasync.cache.records import Intent, RequestMeta
from pytest_langasync.exceptions import (
    CapacityError,
    ConfigurationError,
    CreateUnknownError,
    NoBatchApiError,
    ProviderError,
)
from pytest_langasync.lanes.batch import Clients, Policy, QueuedRequest, under_way
from pytest_langasync.lanes.batch.plan import (
    Lines,
    Place,
    Room,
    new_nonce,
    one_model,
    place_of,
    plan,
)
from pytest_langasync.lanes.batch.recover import Failures, Search, Verdict
from pytest_langasync.lanes.refusals import NO_BATCH_API
from pytest_langasync.models import Event, Job, JobState, Target
from pytest_langasync.providers import Found, Submission

if TYPE_CHECKING:
    from pytest_langasync.lanes import RunContext


@dataclass
class Placed:
    """What became of requests that could not be sent."""

    full: list[QueuedRequest] = field(default_factory=list)
    undecided: list[QueuedRequest] = field(default_factory=list)
    """A submission in doubt may hold them."""
    unknown: list[QueuedRequest] = field(default_factory=list)
    """A running batch that nobody knows may hold them."""
    failures: Failures = field(default_factory=list)


class Watcher(Protocol):
    """Told of each job in which somebody waits for a request."""

    def __call__(
        self, job: Job, target: Target, asks: Iterable[QueuedRequest], *, fresh: bool
    ) -> None: ...


class Submitter:
    """Puts requests into jobs: running ones, found ones, new ones."""

    def __init__(
        self, context: RunContext, policy: Policy, clients: Clients, watch: Watcher
    ) -> None:
        self._context = context
        self._store = context.store
        self._notify = context.notify
        self._clients = clients
        self._watch = watch
        self._room = Room()
        self._search = Search(context, policy, clients)

    def place(self, asks: Iterable[QueuedRequest]) -> Placed:
        """Put each request into a job, under the lock of the cache."""
        placed = Placed()
        wanted = {ask.pending.key: ask for ask in asks}

        def on_wait() -> None:
            message = "another process is submitting"
            self._notify(Event("waiting", requests=len(wanted), message=message))

        with self._store.lock(on_wait):
            left = self._found(wanted.values(), placed)
            self._buy(self._attach_unread(self._attach(left), placed), placed)
        return placed

    def look_up(self, asks: Iterable[QueuedRequest]) -> Placed:
        """Wait for what of these requests was bought already; buy nothing."""
        placed = Placed()
        with self._store.lock():
            self._attach_unread(self._attach(self._found(asks, placed)), placed)
        return placed

    def adopt(self, job_id: str, target: Target) -> Job:
        """Take in a job known by its ID alone. Raises as ``Batcher.attach`` does."""
        return self._search.adopt(job_id, target)

    def _found(self, asks: Iterable[QueuedRequest], placed: Placed) -> list[QueuedRequest]:
        """Return the requests without an answer, once all is known that was bought of them."""
        self._store.refresh()
        left = [ask for ask in asks if not ask.settled(ask.pending.key)]
        left, unknown = self._search.suite(left, placed.failures)
        placed.unknown += unknown
        left, undecided = self._search.recover(left, placed.failures)
        placed.undecided += undecided
        return left

    def _attach_unread(self, asks: list[QueuedRequest], placed: Placed) -> list[QueuedRequest]:
        """Wait for running jobs whose requests are not known, before anything is bought there."""
        running = (job for job in self._store.jobs() if job.state is JobState.RUNNING)
        unread = [job for job in running if not self._store.contents_known(job.id)]
        others: list[QueuedRequest] = []
        for ask in asks:
            p = ask.pending
            jobs = [job for job in unread if job.host == p.target.host]
            for job in jobs:
                self._watch(job, p.target, (), fresh=False)
            (placed.undecided if jobs else others).append(ask)
        return others

    def _attach(self, asks: Iterable[QueuedRequest]) -> list[QueuedRequest]:
        """Wait for the jobs in which requests are under way; return the others."""
        others: list[QueuedRequest] = []
        by_job: dict[tuple[str, str], list[QueuedRequest]] = {}
        for ask in asks:
            job = under_way(self._store, ask.pending)
            if job is None:
                others.append(ask)
            else:
                by_job.setdefault((job.id, ask.pending.target.credentials.account), []).append(ask)
        for (job_id, _), group in by_job.items():
            if job := self._store.job(job_id):
                self._watch(job, group[0].pending.target, group, fresh=False)
        return others

    def _buy(self, asks: Iterable[QueuedRequest], placed: Placed) -> None:
        full: set[Place] = set()
        for chunk in plan(asks, self._context.lookup, self._room):
            p, refusals = chunk[0].pending, self._context.refusals
            if refusals is not None and refusals.of_missing(p):
                continue
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
                where = (p.target.provider, p.model, len(chunk))
                self._notify(Event("waiting", *where, message=str(error)))
            except NoBatchApiError as error:
                if refusals is None:
                    placed.failures.append((error, chunk))
                else:  # it lists batches, and takes none
                    refusals.add_host(p.target, NO_BATCH_API)
            except (ConfigurationError, ProviderError) as error:
                placed.failures.append((error, chunk))

    def no_room(self, asks: Sequence[QueuedRequest], why: str) -> bool:
        """Note that a batch found no room; return whether to try a smaller one at once."""
        return self._room.refused(asks, why, self._store.jobs())

    # One batch

    def _create(self, asks: Sequence[QueuedRequest]) -> Verdict | None:
        """Create one batch, noted before and after; UNDECIDED when it may or may not exist."""
        p = asks[0].pending
        client = self._clients.of(p.target)
        intent = self._intend(asks)
        submission = Submission(
            nonce=intent.nonce,
            endpoint=p.target.endpoint,
            headers=p.target.headers,
            lines=Lines(intent.nonce, asks, self._store.spooled),
            count=len(asks),
            suite=self._context.suite,
            secret=any(ask.pending.secrets for ask in asks),
        )
        self._notify(Event("uploading", p.target.provider, intent.meta.model, len(asks)))
        for _ in range(2):
            try:
                created = client.create(submission)
            except CreateUnknownError:
                found = self._search.look(intent, client)
                if found is Verdict.UNDECIDED:
                    return Verdict.UNDECIDED
                if found is Verdict.ABSENT:
                    continue
                job = self._search.promote(intent, found)
            except (ConfigurationError, ProviderError):
                self._store.intents.drop(intent.nonce)
                raise
            else:
                job = self._search.promote(
                    intent,
                    Found(created.job_id, created.created_at, 0, input_ref=created.input_ref),
                )
            self._watch(job, p.target, asks, fresh=True)
            return None
        raise ProviderError(
            f"{p.target.provider} did not answer when a batch of {len(asks)} requests was created; "
            "the next run looks for it before it buys anything again"
        )

    def _intend(self, asks: Sequence[QueuedRequest]) -> Intent:
        first, p = asks[0], asks[0].pending
        to = p.target
        meta = RequestMeta(to.provider, to.base_url, to.endpoint, to.headers, one_model(asks))
        intent = Intent(
            nonce=new_nonce(),
            meta=meta,
            created_at=self._context.clock(),
            count=len(asks),
            suite=self._context.suite,
            retry_of=first.retry_of,
            depth=first.depth,
        )
        return self._store.write_intent(intent, (ask.pending for ask in asks))

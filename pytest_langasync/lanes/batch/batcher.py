"""Batches: submit what is missing, once; watch, collect, send again what was not at fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_langasync.exceptions import (
    ConfigurationError,
    JobNotFoundError,
    LangasyncError,
    ProviderError,
    ResultsNotReadyError,
    raise_as_one,
)
from pytest_langasync.lanes.batch import Clients, Policy, QueuedRequest
from pytest_langasync.lanes.batch.outcomes import (
    CAPACITY_CODES,
    guilty,
    in_vain,
    names_a_line,
    why_again,
)
from pytest_langasync.lanes.batch.poll import (
    GONE_AFTER,
    NEWBORN,
    UNREADY_POLLS,
    Polled,
    Poller,
    Watch,
)
from pytest_langasync.lanes.batch.recover import DOUBT
from pytest_langasync.lanes.batch.submit import Submitter
from pytest_langasync.lanes.batch.tidy import tidy
from pytest_langasync.models import (
    Event,
    EventKind,
    Job,
    JobState,
    JobStatus,
    MissingCall,
    Refusal,
    ResultRow,
    Target,
)
from pytest_langasync.providers import dialect_of

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Finished, StoredRequest
    from pytest_langasync.lanes import RunContext

__all__ = ["Batcher", "Policy"]


FULL = "not sent: the provider has no room for more at the moment"
IN_DOUBT = "in a submission whose outcome is open: python -m pytest_langasync doctor"
UNKNOWN = "not bought: a running batch that this cache does not know may hold them"


WRONG = 300.0
"""Seconds by which a clock may be wrong before a person is told."""


class Batcher:
    """Sends recorded calls through batches and stores what they return."""

    def __init__(self, context: RunContext, policy: Policy) -> None:
        self.retries: list[tuple[str, str, int]] = []
        """What was sent again: (ID of the job that failed, reason, number of requests)."""
        self._context = context
        self._store = context.store
        self._policy = policy
        self._notify = context.notify
        self._timer = context.timer
        self._clients = Clients(context.connect)
        self._submitter = Submitter(context, policy, self._clients, self._watch)
        self._poller = Poller(context, policy)
        self._queue: dict[str, QueuedRequest] = {}
        self._why_queued: dict[str, str] = {}
        self._queue_due = 0.0
        self._doubtful: set[str] = set()
        self._clocks_told: set[str] = set()
        self._errors: list[LangasyncError] = []
        self._cancelled = False

    @property
    def running(self) -> list[Job]:
        """The jobs that are being waited for, oldest first."""
        jobs = (watch.job for watch in self._poller.watches.values())
        return sorted(jobs, key=lambda job: job.created_at)

    def status(self, job_id: str) -> JobStatus | None:
        """Return what the last poll in this process said about a job that still runs."""
        watch = self._poller.watches.get(job_id)
        return watch.status if watch else None

    def why_queued(self, keys: Iterable[str]) -> str:
        """Say why some of these cannot be sent yet; an empty string where none is held back."""
        whys = (self._why_queued.get(key, "") for key in keys if key in self._queue)
        return next(filter(None, whys), "")

    def submit(self, missing_calls: Sequence[MissingCall], valid: Callable[[str], bool]) -> None:
        """Buy what is missing, each key once; attach to the jobs where it is under way.

        ``valid`` says whether the stored answer of a key counts; it is asked with the lock held.

        Raises:
            ConfigurationError: of one group; all other groups have been submitted.
            ProviderError: likewise, when no group had a ConfigurationError.
            CacheError: the cache cannot be written.
        """
        failures = self._place([QueuedRequest(pending, valid) for pending in missing_calls])
        tidy(self._context, self._policy, self._clients)
        raise_as_one([error for error, _ in failures])

    def look_up(
        self, missing_calls: Sequence[MissingCall], valid: Callable[[str], bool]
    ) -> frozenset[str]:
        """Wait for what of these was bought already (by a run whose cache is lost?); buy nothing.

        Returns the keys of which nobody can say yet. Raises as ``submit`` does.
        """
        placed = self._submitter.look_up(
            [QueuedRequest(pending, valid) for pending in missing_calls]
        )
        self._doubt(placed.undecided)
        raise_as_one([error for error, _ in placed.failures])
        return frozenset(ask.pending.key for ask in placed.undecided + placed.unknown)

    def attach(self, job_id: str, target: Target) -> Job:
        """Wait for a job known by its ID, also when the cache has never heard of it.

        It is looked for where ``target`` leads to.

        Raises:
            ConfigurationError: the provider does not know the job, or it is of another one.
            ProviderError: the provider could not be asked.
        """
        job = self._store.job(job_id) or self._submitter.adopt(job_id, target)
        if job.host != target.host:
            raise ConfigurationError(
                f"{job_id} is a job at {job.base_url}, and no call of this run goes there"
            )
        if job.state is JobState.RUNNING:
            self._watch(job, target, (), fresh=False)
        return job

    def wait(self, timeout: float | None = None) -> bool:
        """Poll until everything has ended, or for ``timeout`` seconds; 0 polls each job once.

        Returns True when nothing is left to wait for. Jobs outlive the wait, and Ctrl-C.

        Raises:
            ConfigurationError: a key was refused; the other jobs were waited for.
            CacheError: the cache cannot be written; what was bought stays at the provider.
        """
        deadline = None if timeout is None else self._timer() + timeout
        while self._poller.watches or self._queue:
            if deadline is not None and self._timer() >= deadline:
                for last in self._poller.last_round():
                    self._handle(last)
                self._flush_due()
                break
            self._flush_due()
            if not (self._poller.watches or self._queue):
                break  # another process, or a job whose requests were unread, had the answers
            self._context.tick()
            times = [deadline, self._queue_due if self._queue else None]
            polled = self._poller.step(min((t for t in times if t is not None), default=None))
            if polled is not None:
                self._handle(polled)
        errors, self._errors = self._errors, []
        raise_as_one(errors)
        return not (self._poller.watches or self._queue)

    def cancel_all(self) -> None:
        """Ask the providers to cancel; ``wait`` then collects what had been done."""
        self._cancelled = True
        self._queue.clear()
        for watch in [watch for watch in self._poller.watches.values() if watch.asks]:
            self._tell("cancelling", watch)
            self._cancel(watch)
            watch.due, watch.pause = self._timer(), self._policy.first_poll

    def _cancel(self, watch: Watch) -> None:
        try:
            watch.client.cancel(watch.job.id)
        except LangasyncError as error:
            self._trouble(watch, error)

    def close(self) -> None:
        """Close connections. Jobs go on at the provider."""
        self._clients.close()

    # Submitting

    def _place(
        self, asks: Iterable[QueuedRequest]
    ) -> list[tuple[LangasyncError, list[QueuedRequest]]]:
        placed = self._submitter.place(asks)
        self._compare_clocks()
        self._enqueue(placed.full, self._policy.poll_interval * 5, FULL)
        self._doubt(placed.undecided)
        self._enqueue(placed.undecided, self._policy.poll_interval, IN_DOUBT)
        self._enqueue(placed.unknown, self._policy.poll_interval, UNKNOWN)
        return placed.failures

    def _compare_clocks(self) -> None:
        """Tell once that this machine's clock is wrong: ages are, too, and what depends on them."""
        for base_url, ahead in self._clients.clocks().items():
            if abs(ahead) > WRONG and base_url not in self._clocks_told:
                self._clocks_told.add(base_url)
                way = "ahead of" if ahead > 0 else "behind"
                text = f"this machine's clock is {abs(ahead) / 60:,.0f} minutes {way} {base_url}'s"
                self._notify(Event("trouble", message=text))

    def _doubt(self, asks: Sequence[QueuedRequest]) -> None:
        """Tell once that requests may have been bought already, which nobody can say yet."""
        new = {ask.pending.key for ask in asks} - self._doubtful
        self._doubtful |= new
        if new:
            p = asks[0].pending
            self._notify(Event("waiting", p.target.provider, p.model, len(new), message=DOUBT))

    def _enqueue(self, asks: Iterable[QueuedRequest], delay: float, why: str = "") -> None:
        queued = {ask.pending.key: ask for ask in asks}
        self._why_queued.update(dict.fromkeys(queued, why))
        if queued:
            due = self._timer() + delay
            self._queue_due = min(self._queue_due, due) if self._queue else due
            self._queue.update(queued)

    def _flush_due(self) -> None:
        if self._queue and self._queue_due <= self._timer():
            self._flush()

    def _flush(self) -> None:
        """Try once more to send what could not be sent; trouble leaves it in the queue."""
        asks, self._queue = list(self._queue.values()), {}
        for error, left in self._place(asks):
            if isinstance(error, ProviderError):
                self._notify(Event("trouble", requests=len(left), message=str(error)))
                self._enqueue(left, self._policy.poll_interval)
            else:
                self._errors.append(error)

    def _watch(
        self, job: Job, target: Target, asks: Iterable[QueuedRequest], *, fresh: bool
    ) -> None:
        watch = self._poller.watches.get(job.id)
        if watch is None:
            client = self._clients.of(target)
            pause = self._policy.first_poll
            due = self._timer() + (pause if fresh else 0.0)
            watch = self._poller.watches[job.id] = Watch(job, client, due, pause)
            self._tell("submitted" if fresh else "attached", watch)
        watch.asks.update((ask.pending.key, ask) for ask in asks)

    # Polls

    def _handle(self, polled: Polled) -> None:
        watch = polled.watch
        if polled.error is not None:
            self._handle_error(watch, polled.error)
        elif polled.finished is not None:
            self._ended(watch, polled.finished)
        elif polled.status is not None and polled.status.state is JobState.REJECTED:
            self._rejected(watch, polled.status)
        elif polled.status is not None:
            self._running(watch, polled.status)

    def _handle_error(self, watch: Watch, error: BaseException) -> None:
        if isinstance(error, ConfigurationError):
            self._poller.watches.pop(watch.job.id, None)
            self._errors.append(error)
        elif isinstance(error, JobNotFoundError):
            self._not_found(watch, error)
        elif isinstance(error, ResultsNotReadyError) and watch.unready + 1 >= UNREADY_POLLS:
            self._poller.watches.pop(watch.job.id, None)
            text = f"{error}. Nothing of it is bought again; a later run collects it"
            self._errors.append(ResultsNotReadyError(text))
        elif isinstance(error, ProviderError):
            watch.unready += isinstance(error, ResultsNotReadyError)
            self._trouble(watch, error)
            self._poller.reschedule(watch)
        else:
            raise error

    def _running(self, watch: Watch, status: JobStatus) -> None:
        if status.word != watch.job.word or watch.job.not_found:
            watch.job = replace(watch.job, word=status.word, not_found=0)
            self._store.update_job(watch.job)
        watch.trouble = ""
        if status != watch.status:
            watch.status = status
            self._tell("progress", watch)
        if self._cancelled and watch.asks and "cancel" not in status.word:
            self._cancel(watch)  # it was refused, or its loss not noticed
        self._poller.reschedule(watch, status.retry_after or 0.0)

    # What becomes of a job

    def _not_found(self, watch: Watch, error: JobNotFoundError) -> None:
        """Believe only after several polls that a job, or a part of its results, is gone."""
        job, age = watch.job, self._context.clock() - watch.job.created_at
        if job.not_found + 1 < GONE_AFTER:
            self._trouble(watch, error)
            if age >= NEWBORN:
                # On disk, so that runs which poll but once come to a conclusion, too.
                watch.job = replace(job, not_found=job.not_found + 1)
                self._store.update_job(watch.job)
            self._poller.reschedule(watch)
        else:
            self._ended(watch, self._store.finish(job, (), word="gone", reason=str(error)))

    def _trouble(self, watch: Watch, error: LangasyncError) -> None:
        if watch.trouble != str(error):  # once is enough
            watch.trouble = str(error)
            self._tell("trouble", watch, message=watch.trouble)

    def _ended(self, watch: Watch, finished: Finished) -> None:
        job = watch.job = finished.job
        self._poller.watches.pop(job.id, None)
        self._queue_due = 0.0
        if job.state is JobState.REJECTED and not self._store.contents_known(job.id):
            # Another process saw that there was no room.
            self._enqueue(watch.asks.values(), self._policy.poll_interval, FULL)
            return
        self._tell("collected", watch, requests=finished.ok + finished.failed)
        again: list[tuple[QueuedRequest, str]] = []
        lost: list[StoredRequest] = []
        requests = {request.key: request for request in self._store.requests_in(job.id)}
        refused = self._refused_rows(watch, finished)
        if self._in_vain(watch, finished):
            refused |= watch.asks.keys()
        for key, ask in watch.asks.items():
            if key in refused:
                continue
            reason = self._why_again(key, finished)
            if not reason:
                continue
            if not self._cancelled and job.depth < self._tries(ask):
                again.append((ask, reason))
            elif key in finished.missing and not self._cancelled:
                lost.append(requests[key])
        if lost:
            text = f"the provider returned no result for this request (job {job.id})"
            self._answer(job, lost, 500, "not_returned", text, retryable=True)
        self._send_again(job, again)

    def _in_vain(self, watch: Watch, finished: Finished) -> bool:
        """Whether the same would come back if a job were sent again."""
        if finished.ok or finished.missing or watch.job.word == "gone":
            return False
        dialect, complaints = dialect_of(watch.job), []
        for key in watch.asks:
            answer = self._store.answer(key)
            if answer is None or key not in finished.retryable:
                return False
            message = dialect.error_of(answer.body).get("message")
            complaints.append((answer.status, str(message or "")))
        return in_vain(complaints, watch.job.depth)

    def _refused_rows(self, watch: Watch, finished: Finished) -> frozenset[str]:
        """Note what the rows say that only a batch refuses; return the keys that it is about."""
        refusals = self._context.refusals
        if refusals is None or finished.failed <= len(finished.retryable):
            return frozenset()
        found: dict[str, Refusal] = {}
        provider = self._context.lookup(watch.job.provider)
        for key, ask in watch.asks.items():
            answer = self._store.answer(key)
            if answer is None or answer.ok or answer.job_id != watch.job.id:
                continue
            error = dialect_of(watch.job).error_of(answer.body)
            if kind := provider.batch_refuses(answer.status, error):
                found[key] = self._refusal(ask.pending, kind, str(error.get("message") or ""))
        # What a call makes use of is known where it is made, and not of one that waits.
        these = (Refusal(one.provider, one.base_url, one.why, key=k) for k, one in found.items())
        refusals.add([*found.values(), *these])
        return frozenset(found)

    def _refuses_all(self, watch: Watch, status: JobStatus) -> bool:
        """Whether a batch was refused for what real time may take; then that is noted."""
        code, refusals = status.reason_code, self._context.refusals
        if refusals is None:
            return False
        http, error = 404 if code == "model_not_found" else 400, {"code": code}
        provider = self._context.lookup(watch.job.provider)
        kind = provider.batch_refuses(http, {**error, "message": status.reason})
        if kind != "model":
            return False
        asks = watch.asks.values()
        refusals.add(self._refusal(ask.pending, kind, status.reason) for ask in asks)
        return True

    def _refusal(self, call: MissingCall, kind: str, message: str) -> Refusal:
        to = call.target
        why = f"its batches refuse {call.model or 'its model'}"
        if kind == "model":
            return Refusal(*to.host, why, to.endpoint, call.model)
        said = (
            f" ({' '.join(message.split())[:120]})" if self._context.settings.store_prompts else ""
        )
        features = dialect_of(to).features(self._store.spooled(call.key))
        why = f"its batches refuse such requests{said}"
        return Refusal(*to.host, why, to.endpoint, call.model, features)

    def _why_again(self, key: str, finished: Finished) -> str:
        """Return the reason to send a request again, or an empty string."""
        if key in finished.retryable:
            return why_again(finished.retryable[key])
        entry = self._store.peek(key)
        if key in finished.missing or entry is None:
            return "gone" if finished.job.word == "gone" else "missing"
        return ""

    def _send_again(self, job: Job, again: Sequence[tuple[QueuedRequest, str]]) -> None:
        if not again:
            return
        for reason, count in sorted(Counter(reason for _, reason in again).items()):
            self.retries.append((job.id, reason, count))
            message = f"{count} sent again: {reason}"
            self._notify(Event("retrying", job.provider, job.model, count, job, None, message))

        def settled(key: str) -> bool:
            entry = self._store.peek(key)
            return (
                entry is not None
                and entry.file.job_id != job.id
                and entry.age >= (job.created_at, 0.0)
            )

        for ask, _ in again:
            self._queue[ask.pending.key] = QueuedRequest(
                ask.pending, settled, job.id, job.depth + 1
            )
        self._queue_due = 0.0
        self._flush()

    def _rejected(self, watch: Watch, status: JobStatus) -> None:
        job = watch.job
        self._poller.watches.pop(job.id, None)
        requests = self._store.requests_in(job.id)
        full = status.reason_code in CAPACITY_CODES
        watch.job = self._store.finish(
            job, (), word=status.word, state=JobState.REJECTED, reason=status.reason
        ).job
        if full:
            self._store.forget_requests(job.id)
            self._tell("waiting", watch, message=status.reason)
            asks = list(watch.asks.values())
            at_once = bool(asks) and self._submitter.no_room(asks, status.reason)
            self._enqueue(asks, 0.0 if at_once else self._policy.poll_interval * 5, FULL)
            return
        self._tell("rejected", watch, message=status.reason)
        if self._refuses_all(watch, status):
            return
        answered, code = guilty(status, requests, again=self._may_resend(watch))
        # A refusal of the whole batch that names none of its requests says nothing about any of
        # them: it serves one verdict, and the next run asks again.
        for_all = code == 400 and not names_a_line(status)
        self._answer(
            job, answered, code, status.reason_code, status.reason,
            retryable=code >= 500 or for_all,
        )  # fmt: skip
        named = {request.key for request in answered}
        others = [ask for key, ask in watch.asks.items() if key not in named]
        self._send_again(watch.job, [(ask, status.reason_code) for ask in others])

    def _may_resend(self, watch: Watch) -> bool:
        return not self._cancelled and all(
            watch.job.depth < self._tries(ask) for ask in watch.asks.values()
        )

    def _answer(
        self,
        job: Job,
        requests: Iterable[StoredRequest],
        status: int,
        code: str,
        text: str,
        *,
        retryable: bool = False,
    ) -> None:
        """Store an error that the provider gave for the whole job, or did not give at all."""
        job = self._store.job(job.id) or job
        body = dialect_of(job).error_body(status, text, code=code or None)
        rows = (ResultRow(r.custom_id, status, body, retryable=retryable) for r in requests)
        self._store.finish(job, rows, word=job.word, state=job.state, reason=job.reason)

    def _tries(self, ask: QueuedRequest) -> int:
        own = ask.pending.options.max_retries
        return self._policy.max_retries if own is None else own

    def _tell(
        self, kind: EventKind, watch: Watch, *, requests: int | None = None, message: str = ""
    ) -> None:
        job = watch.job
        count = job.requests if requests is None else requests
        self._notify(Event(kind, job.provider, job.model, count, job, watch.status, message))

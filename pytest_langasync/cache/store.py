"""The cache on disk: jobs, answers, intents and locks. Nothing is created until the first write."""

from __future__ import annotations

import contextlib
import platform
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_langasync.cache import files, records
from pytest_langasync.cache.folders import Folders, History, LiveRuns, Owners, RefusalNotes
from pytest_langasync.cache.index import Entry, Index, merge
from pytest_langasync.cache.intents import Intents
from pytest_langasync.cache.records import (
    Finished,
    Intent,
    OwnerState,
    RequestHead,
    RequestMeta,
    ResultFile,
)
from pytest_langasync.cache.requests import Echoed, Requests, StoredRequest
from pytest_langasync.cache.secret_places import SecretPlaces
from pytest_langasync.cache.spool import Spool
from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import CacheError
from pytest_langasync.models import (
    Answer,
    Call,
    Job,
    JobState,
    MissingCall,
    ResultRow,
    digest,
    make_custom_id,
    split_custom_id,
)

__all__ = [
    "Finished", "Intent", "OwnerState", "RequestMeta", "Store", "StoredRequest",
]  # fmt: skip

REALTIME_NONCE = "realtime"
AHEAD = 60.0
"""Seconds by which the clocks of two processes may differ."""


class Store:
    """Answers, jobs and submissions under one directory, shared by any number of processes.

    ``clock`` returns seconds since the epoch; ``started_at`` is when the run began of which this
    process is a part, where it is part of one. With ``redacted`` only digests of requests are kept,
    and of answers not what they repeat: it names what that may be. Every writing method raises
    ``CacheError``. Methods may be called from several threads; ``lock`` belongs to the thread that
    takes it.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], float] = CLOCK.now,
        redacted: Echoed | None = None,
        started_at: float = 0.0,
        secret_places: SecretPlaces | None = None,
    ) -> None:
        self.root = root
        self.run = f"{round(started_at * 1e6):x}" if started_at else ""
        """Names the run: the same in all its processes, another for every other run."""
        self._started_at = started_at
        self._folder = digest(str(root.resolve()))[:16]
        self._machine = digest(platform.node())[:16]
        self._folders = Folders(root)
        self.intents = Intents(self._folders)
        self.owners = Owners(self._folders)
        self.history = History(self._folders)
        self.refusals = RefusalNotes(self._folders)
        self._clock = clock
        self._guard = threading.RLock()
        self._spool = Spool()
        self.secret_places = secret_places or SecretPlaces()
        self._secrets: dict[str, Mapping[str, str]] = {}
        """Of recorded calls, by key."""
        self._live = LiveRuns(self._folders)
        self._index = Index(self._folders.report, self._present)
        self._jobs: dict[str, Job] = {}
        self._seen: dict[Path, object] = {}
        self._in_flight: dict[str, str] = {}
        self._mendable: set[Path] = set()
        """Documents of jobs that lack a whole copy of themselves."""
        self._lost: set[Path] = set()
        """Folders of jobs that cannot be read."""
        self._requests = Requests(self._folders, redacted=redacted)
        self._realtime = root / "realtime" / f"{self.run}-{secrets.token_hex(6)}".lstrip("-")
        self._submit_lock: Any = None

    @property
    def problems(self) -> list[str]:
        """Damage found on disk, one line each, for the person to see."""
        return self._folders.problems

    def folder(self, name: str) -> Path:
        """Return a folder of the cache, created when it is missing. Raises ``CacheError``."""
        return self._folders.dir(name)

    # Opening and reading

    def open(self) -> None:
        """Check that the directory can be used, and read what it holds.

        Raises:
            CacheError: not a directory, not writable, or written by a newer version.
        """
        self._folders.check()
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes wrote; cheap when nothing changed."""
        with self._guard:
            for folder in self._folders.inside("jobs"):
                self._load_job(folder)
            for folder in self._folders.inside("realtime"):
                path = folder / "results.jsonl"
                if self._changed(path, files.signature(path)):
                    run = folder.name.rpartition("-")[0]
                    file = ResultFile(path, "", 0.0, foreign=run not in ("", self.run))
                    self._index.load(file, growing=True)
                    self._requests.forget()

    def answer(self, key: str) -> Answer | None:
        """Return the newest answer to a call, successes and errors alike.

        A failure whose request is being sent again is no answer yet.
        """
        with self._guard:
            entry = self._index.get(key)
            if entry is None or (entry.retryable and key in self._in_flight):
                return None
            return self._index.answer(key)

    def peek(self, key: str) -> Entry | None:
        """Return the facts of the newest answer without reading its body."""
        with self._guard:
            return self._index.get(key)

    def in_flight(self, key: str) -> Job | None:
        """Return the running job that this call is part of."""
        with self._guard:
            job_id = self._in_flight.get(key)
            return self._jobs[job_id] if job_id else None

    def received_since(self, moment: float) -> list[str]:
        """Return the keys of the answers stored at ``moment`` (since the epoch) or later."""
        with self._guard:
            return self._index.received_since(moment)

    def jobs(self) -> list[Job]:
        """Return all known jobs, oldest first."""
        with self._guard:
            return sorted(self._jobs.values(), key=lambda job: (job.created_at, job.id))

    def job(self, job_id: str) -> Job | None:
        """Return the job of this ID."""
        with self._guard:
            return self._jobs.get(job_id)

    # Recorded calls, before they are sent

    def spool(self, pending: MissingCall, body: Mapping[str, Any]) -> None:
        """Keep the body of a recorded call, outside memory, until the process ends."""
        self._spool.add(pending.key, body)
        if pending.secrets:
            self._secrets[pending.key] = pending.secrets

    def spooled(self, key: str) -> Mapping[str, Any]:
        """Return the body of a recorded call. Raises ``KeyError``."""
        body: Mapping[str, Any] = self._spool.get(key)
        return body

    def close(self) -> None:
        """Release what is held in memory and in temporary files."""
        self._spool.close()
        self._live.end()

    # Submitting

    @contextlib.contextmanager
    def lock(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock of this cache for a whole submission; it dies with its process.

        What a crash left half done is completed first. ``on_wait`` is called once when another
        process holds the lock.
        """
        from filelock import FileLock, Timeout

        self._folders.prepare()
        if self._submit_lock is None:
            self._submit_lock = FileLock(self.root / "submit.lock", mode=0o600)
        with files.writing(self.root):
            try:
                self._submit_lock.acquire(timeout=0)
            except Timeout:
                if on_wait is not None:
                    on_wait()
                self._submit_lock.acquire()
        try:
            self._settle()
            yield
        finally:
            self._submit_lock.release()

    def _settle(self) -> None:
        self.refresh()
        known = {job.nonce: job for job in self.jobs() if job.nonce}
        for nonce in known.keys() & set(self.intents.nonces()):
            self.promote(nonce, known[nonce])
        self.intents.sweep()
        for path in sorted(self._mendable):
            with contextlib.suppress(*files.DAMAGE):
                files.write_twice(path, files.read_either(path, dict, self._folders.report))
            self._load_job(path.parent)

    def write_intent(self, intent: Intent, missing_calls: Iterable[MissingCall]) -> Intent:
        """Note a submission durably, with its requests taken from the spool.

        Returns it with what tells whose it is.
        """
        self._live.begin(self.run)
        intent = replace(intent, run=self.run, folder=self._folder, machine=self._machine)
        self.intents.write(intent, self._requests.lines(intent.nonce, missing_calls, self.spooled))
        return intent

    def open_submissions(self) -> list[Intent]:
        """Return the submissions whose outcome is open.

        Raises:
            CacheError: something was bought of which no file can be read: nothing may be bought.
        """
        for problem in self.losses():
            raise CacheError(problem)
        return list(self.intents)

    def losses(self) -> list[str]:
        """Return a line for each submission and job whose files are all damaged."""
        lines = self.intents.lost()
        for folder in sorted(self._lost):
            requests = files.scan(folder / "requests.jsonl", records.request_head)
            if any(line and self.peek(line.head.key) is None for line in requests):
                lines.append(
                    f"job {folder.name} cannot be read, and not all of its answers are here. "
                    "Nothing is bought before it is taken in again (pytest --langasync-resume="
                    f"{folder.name}) or {folder} is removed"
                )
        return lines

    def promote(self, nonce: str, job: Job) -> Job:
        """Turn an intent into a job. After a crash in the middle, do it again."""
        folder = self._folders.job_dir(job.id)
        files.write_twice(folder / "job.json", records.job_document(job))
        source = self._folders.intent_requests(nonce)
        if source.exists():
            with files.writing(source):
                source.replace(folder / "requests.jsonl")
                files.sync_dir(folder)
                files.sync_dir(source.parent)
        self.intents.drop(nonce)
        self._load_job(folder)
        return self._jobs[job.id]

    # Jobs

    def adopt(self, job: Job, custom_ids: Iterable[str] | None = None) -> Job:
        """Take in a job known by its ID; ``custom_ids`` are its requests where they are known."""
        job = replace(job, adopted=True)
        folder = self._folders.job_dir(job.id)
        # What a damaged job was known to have asked tells more than the provider can.
        if custom_ids is not None and not (folder / "requests.jsonl").exists():
            known = ((custom_id, split_custom_id(custom_id)[1]) for custom_id in sorted(custom_ids))
            heads = (RequestHead(custom_id, key, "", 0) for custom_id, key in known if key)
            lines = (files.encode_line(records.request_fields(head), None) for head in heads)
            files.write_lines(folder / "requests.jsonl", lines)
        files.write_twice(folder / "job.json", records.job_document(job))
        self._load_job(folder)
        return self._jobs[job.id]

    def update_job(self, job: Job) -> None:
        """Write a job's new status."""
        folder = self._folders.job_dir(job.id)
        files.write_twice(folder / "job.json", records.job_document(job))
        self._load_job(folder)

    def finish(
        self,
        job: Job,
        rows: Iterable[ResultRow],
        *,
        word: str = "ended",
        state: JobState = JobState.ENDED,
        reason: str = "",
    ) -> Finished:
        """Store what a job returned, all of it or, when ``rows`` raises, nothing.

        Rows stored before stay. Of several rows of one request the first success wins.
        """
        path, now = self._folders.job_dir(job.id) / "results.jsonl", self._clock()
        asked = {request.custom_id: request for request in self.requests_in(job.id)}

        def line(row: ResultRow) -> bytes | None:
            if not _belongs(row.custom_id, job, asked.keys()):
                return None
            secrets = self._secrets.get(split_custom_id(row.custom_id)[1], {})
            body = self.secret_places.take_from_answer(row.body, secrets)
            body = self._requests.answer(body, asked.get(row.custom_id))
            return files.encode_line(records.result_fields(row, now), body)

        answers, unknown = merge(path, rows, line)
        ended = replace(
            job, state=state, word=word, reason=reason, answers=answers,
            ended_at=job.ended_at or now,
            collected_by=job.collected_by or self._payer(job),
        )  # fmt: skip
        self.update_job(ended)
        return replace(self.outcome(job.id), unknown=unknown)

    def _payer(self, job: Job) -> str:
        """Return the run in whose books a job is paid that is being collected now.

        It is the run that submitted it while that is at work: this one has attached to its job.
        """
        return job.run if job.run != self.run and self._live.alive(job.run) else self.run

    def _foreign(self, job: Job) -> bool:
        """Return whether another run, or another cache, pays for a job."""
        elsewhere = job.adopted or job.folder not in ("", self._folder)
        return elsewhere or job.collected_by not in ("", self.run)

    def submitted_here(self, job: Job) -> bool:
        """Return whether this very cache submitted a job, not one of which it is a copy."""
        return not job.adopted and (job.folder, job.machine) == (self._folder, self._machine)

    def _present(self, moment: float) -> float:
        """Return a moment that was stored, or the beginning of the run where it is to come."""
        if moment <= self._clock() + AHEAD:
            return moment
        self._folders.report(
            f"{self.root}: answers are dated in the future (this machine's clock was ahead then, "
            "or is behind now): they count as bought just before this run"
        )
        return (self._started_at or self._clock()) - 0.001

    def outcome(self, job_id: str) -> Finished:
        """Return the account of a job from what is stored. Raises ``KeyError``."""
        path = self._folders.job_path(job_id) / "results.jsonl"
        heads = (line.head for line in files.scan(path, records.result_head) if line)
        keys = (request.key for request in self.requests_in(job_id))
        return records.account(self._jobs[job_id], heads, keys)

    def answers_in(self, job_id: str) -> Iterator[tuple[str, int, Any]]:
        """Yield (``custom_id``, status, body) of each answer that a job returned."""
        path = self._folders.job_path(job_id) / "results.jsonl"
        for line in files.scan(path, records.result_head):
            if line and (row := files.read_line(path, line.offset, line.length, bytes)):
                yield line.head.custom_id, line.head.status, row[1]

    def forget_job(self, job_id: str) -> None:
        """Remove a job with its requests and answers. Raises ``CacheError``."""
        files.remove_folder(self._folders.job_path(job_id))

    def requests_in(self, job_id: str) -> list[StoredRequest]:
        """Return the requests of a job in the order in which they were sent."""
        with self._guard:
            job = self._jobs.get(job_id)
            return self._requests.of_job(job) if job else []

    def contents_known(self, job_id: str) -> bool:
        """Return whether all requests of a job are known, not only its ID."""
        job = self.job(job_id)
        if job is None or not self._requests.path(job).exists():
            return False
        return len(self.requests_in(job_id)) >= job.requests

    def forget_requests(self, job_id: str) -> None:
        """Give back the disk space of the requests of a job in which nothing ran."""
        files.remove(self._folders.job_path(job_id) / "requests.jsonl")
        with self._guard:
            self._requests.forget(job_id)

    def forget_texts(self, before: float) -> int:
        """Remove large texts that no request has, written before then; call it with the lock."""
        return self._requests.forget_texts(before)

    # Real time

    def add_realtime(self, call: Call, owner: str, answer: Answer) -> None:
        """Store an answer to a call that was sent in place, at once and durably.

        ``owner`` is whose request it is; ``call.owner`` may be empty where samples are shared.
        """
        head = RequestHead(
            make_custom_id(REALTIME_NONCE, call.key), call.key, owner, call.occurrence,
            meta=RequestMeta.of(call.request),
        )  # fmt: skip
        self._add_direct(head, call.request.body, answer, retryable=False)

    def add_direct(self, call: MissingCall, answer: Answer, *, retryable: bool) -> None:
        """Store an answer to a recorded call that was sent by itself, at once and durably.

        ``retryable`` says of an error that the request was not at fault.
        """
        to = call.target
        meta = RequestMeta(to.provider, to.base_url, to.endpoint, to.headers, call.model)
        head = RequestHead(
            make_custom_id(REALTIME_NONCE, call.key), call.key, call.owner, call.occurrence,
            meta=meta,
        )  # fmt: skip
        self._add_direct(head, self.spooled(call.key), answer, retryable=retryable)

    def _add_direct(
        self, head: RequestHead, request_body: Mapping[str, Any], answer: Answer, *, retryable: bool
    ) -> None:
        received = answer.received_at or self._clock()
        body = self._requests.answer(answer.body, request_body)
        row = ResultRow(
            head.custom_id,
            answer.status,
            body,
            answer.request_id,
            retryable,
            failed=answer.failed,
            headers=answer.headers,
        )
        result = files.encode_line(records.result_fields(row, received, answer.lane), body)
        path = self._realtime / "results.jsonl"
        self._folders.prepare()
        line = self._requests.line(head, request_body)
        with self._guard:
            files.make_private_dir(self._realtime)
            files.append(self._realtime / "requests.jsonl", line, durable=False)
            place = files.append(path, result)
            file = ResultFile(path, "", 0.0)
            entry = Entry(file, place, len(result), row.status, retryable, received, row.failed)
            self._index.add(head.key, entry)
            self._seen[path] = files.signature(path)
            self._requests.forget()

    def forget_realtime(self, before: float) -> int:
        """Remove files of answers at list price, all of which came before then (since the epoch).

        Returns how many answers there were. Raises ``CacheError``.
        """
        forgotten = 0
        for folder in self._folders.inside("realtime"):
            lines = files.scan(folder / "results.jsonl", records.result_head)
            times = [line.head.received_at for line in lines if line]
            if max(times or [folder.stat().st_mtime]) < before:
                files.remove_folder(folder)
                forgotten += len(times)
        return forgotten

    # Requests on disk

    def requests_of(self, owner: str) -> list[StoredRequest]:
        """Return the stored requests of a test (or wide fixture), oldest first."""
        with self._guard:
            self._requests.read(self._jobs.values(), self.intents)
            return self._requests.of_owner(owner)

    def request(self, key: str) -> StoredRequest | None:
        """Return the newest stored request of a key."""
        with self._guard:
            self._requests.read(self._jobs.values(), self.intents)
            return self._requests.of_key(key)

    def request_body(self, key: str) -> Any:
        """Return the stored body of a call, or None."""
        found = self.request(key)
        return found.body() if found else None

    # Inside

    def _changed(self, path: Path, state: object) -> bool:
        changed = self._seen.get(path) != state
        self._seen[path] = state
        return changed

    def _load_job(self, folder: Path) -> None:
        # job.json first: it is written last, so that what it promises is there.
        path = folder / "job.json"
        names = (path, files.copy_of(path), folder / "results.jsonl", folder / "requests.jsonl")
        state = tuple(files.signature(name) for name in names)
        with self._guard:
            if not any(state[0] + state[1]) or not self._changed(folder, state):
                return
            self._mendable.discard(path)
            self._lost.discard(folder)

            def damaged(problem: str) -> None:
                self._folders.report(problem)
                self._mendable.add(path)

            try:
                job = files.read_either(path, records.job_from_document, damaged)
                if files.safe_name(job.id) != folder.name:
                    raise ValueError("it is of another job")
            except files.DAMAGE as error:
                self._folders.report(f"{path}: damaged ({error}), without a whole copy")
                self._lost.add(folder)
                # Whatever else is lost, what was bought is an answer.
                self._index.load(ResultFile(folder / "results.jsonl", folder.name, 0.0))
                return
            results = folder / "results.jsonl"
            bought_at = self._present(job.created_at)
            whole = self._index.load(ResultFile(results, job.id, bought_at, self._foreign(job)))
            if job.state is JobState.ENDED and whole < job.answers:
                gone = job.files == "deleted"
                again = "bought" if gone else "collected"
                self._folders.report(f"{results}: answers are missing; they are {again} again")
                # Where it has not been tidied up, the provider still has what the disk lost.
                job = job if gone else replace(job, state=JobState.RUNNING)
            if job.state is JobState.RUNNING and not any(state[1]):
                self._mendable.add(path)  # written by an earlier version, or cut off in between
            self._track(job)

    def _track(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._requests.forget(job.id)
        for key in [key for key, job_id in self._in_flight.items() if job_id == job.id]:
            del self._in_flight[key]
        if job.state is JobState.RUNNING:
            self._in_flight.update((request.key, job.id) for request in self.requests_in(job.id))


def _belongs(custom_id: str, job: Job, expected: Collection[str]) -> bool:
    """Return whether a row answers a request of this job."""
    if custom_id in expected:
        return True
    nonce, key = split_custom_id(custom_id)
    if len(expected) >= job.requests > 0:
        return False
    # Some or all requests are not known here: an ID made by us is as good.
    return bool(key) and (nonce == job.nonce or not job.nonce)

"""The requests in a cache: of each job, and by the test that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from sys import intern
from typing import Any

from pytest_langasync.cache import files, records, redaction
from pytest_langasync.cache.intents import Intents
from pytest_langasync.cache.records import StoredRequest
from pytest_langasync.cache.texts import Texts
from pytest_langasync.models import Job, MissingCall, make_custom_id

Echoed = Callable[[Any], frozenset[str]]
"""Names what the body of an answer may repeat of its request, at its top."""


class Requests:
    """Request heads by job and, once asked for, by owner. Bodies stay on disk.

    Where ``redacted`` only digests of the bodies are written, and no answer repeats any of them.
    """

    def __init__(self, disk: Intents, *, redacted: Echoed | None = None) -> None:
        self._disk = disk
        self._redacted = redacted
        self._texts = Texts(disk.root / "texts")
        self._by_job: dict[str, dict[str, StoredRequest]] = {}
        self._by_owner: dict[str, list[StoredRequest]] | None = None
        self._by_key: dict[str, StoredRequest] = {}

    def line(
        self, custom_id: str, key: str, owner: str, occurrence: int, body: Any, **more: Any
    ) -> bytes:
        """Return a line of ``requests.jsonl``; its large texts are stored then."""
        body, texts = self._texts.pack(body if self._redacted is None else redaction.digests(body))
        if texts:
            more["texts"] = texts
        return records.request_line(custom_id, key, owner, occurrence, body, **more)

    def answer(self, body: Any, request: StoredRequest | Mapping[str, Any] | None) -> Any:
        """Return the body of an answer as it is stored: without prompts, without their echo."""
        if self._redacted is None:
            return body
        asked = request.body() if isinstance(request, StoredRequest) else request
        return redaction.without_echo(body, asked, self._redacted(body))

    def lines(
        self, nonce: str, missing_calls: Iterable[MissingCall], body: Callable[[str], Any]
    ) -> Iterator[bytes]:
        """Yield the lines of a submission; ``body`` returns the body of a key."""
        for p in missing_calls:
            yield self.line(make_custom_id(nonce, p.key), p.key, p.owner, p.occurrence, body(p.key))

    def forget_texts(self, before: float) -> int:
        """Remove large texts that no request has, written before then; return how many."""
        root = self._disk.root
        patterns = ("jobs/*/requests.jsonl", "realtime/*/requests.jsonl", "intents/*.jsonl")
        lines = (line for p in patterns for path in root.glob(p) for line in files.scan(path))
        used = {name for line in lines if line for name in line.head.get("texts", ())}
        return self._texts.forget(used, before)

    def forget(self, job_id: str = "") -> None:
        """Read again what was known of a job, and of all owners."""
        self._by_job.pop(job_id, None)
        self._by_owner = None

    def path(self, job: Job) -> Path:
        """Return where the requests of a job lie: beside its intent after a crash in between."""
        path = self._disk.job_path(job.id) / "requests.jsonl"
        return path if path.exists() or not job.nonce else self._disk.intent_requests(job.nonce)

    def of_job(self, job: Job) -> list[StoredRequest]:
        """Return the requests of a job in the order in which they were sent."""
        if job.id not in self._by_job:
            self._by_job[job.id] = {request.key: request for request in self._scan_job(job)}
        return list(self._by_job[job.id].values())

    def of_owner(self, owner: str, jobs: Iterable[Job]) -> list[StoredRequest]:
        """Return the requests of an owner, oldest first."""
        return list(self._owners(jobs).get(owner, ()))

    def of_key(self, key: str, jobs: Iterable[Job]) -> StoredRequest | None:
        """Return the newest request of a key, or None."""
        self._owners(jobs)
        return self._by_key.get(key)

    def _owners(self, jobs: Iterable[Job]) -> dict[str, list[StoredRequest]]:
        if self._by_owner is None:
            requests = [request for job in jobs for request in self._scan_job(job)]
            for folder in self._disk.folders("realtime"):
                requests += self._scan(folder / "requests.jsonl", "", 0.0, None)
            for intent in self._disk.open_intents():
                path = self._disk.intent_requests(intent.nonce)
                requests += self._scan(path, "", intent.created_at, intent.meta)
            requests.sort(key=lambda request: request.bought_at)
            self._by_owner, self._by_key = {}, {}
            for request in requests:
                self._by_owner.setdefault(request.owner, []).append(request)
                # A job adopted by its ID has no owners and no bodies to show.
                if request.owner or request.key not in self._by_key:
                    self._by_key[request.key] = request
        return self._by_owner

    def _scan_job(self, job: Job) -> Iterator[StoredRequest]:
        return self._scan(self.path(job), job.id, job.created_at, records.job_meta(job))

    def _scan(
        self, path: Path, job_id: str, bought_at: float, meta: records.RequestMeta | None
    ) -> Iterator[StoredRequest]:
        for line in files.scan(path):
            if line is None:
                # A running process may be in the middle of the last line of its real-time file.
                if meta is not None:
                    self._disk.report(f"{path}: a damaged line")
                continue
            head = line.head
            yield StoredRequest(
                key=head["key"],
                owner=intern(head["owner"]),
                occurrence=head["occurrence"],
                job_id=job_id,
                bought_at=bought_at or path.stat().st_mtime,
                meta=meta or records.meta_from_document(head["meta"]),
                custom_id=head["custom_id"],
                path=path,
                offset=line.offset,
                length=line.length,
                texts=self._texts,
            )

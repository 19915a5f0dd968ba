"""The requests in a cache: of each job, and by the test that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

from pytest_langasync.cache import files, records, redaction
from pytest_langasync.cache.folders import Folders
from pytest_langasync.cache.records import Intent, RequestHead, RequestMeta
from pytest_langasync.cache.texts import Texts
from pytest_langasync.models import Job, MissingCall, make_custom_id

Echoed = Callable[[Any], frozenset[str]]
"""Names what the body of an answer may repeat of its request, at its top."""


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request on disk. ``bought_at`` is in seconds since the epoch; ``job_id`` may be empty."""

    key: str
    owner: str
    occurrence: int
    job_id: str
    bought_at: float
    meta: RequestMeta
    custom_id: str
    path: Path
    offset: int
    length: int
    texts: Texts
    """Where the large texts of its body are."""

    def body(self) -> Any:
        """Read the body (or its digests), or None when it was not stored or is damaged."""
        found = files.read_line(self.path, self.offset, self.length, records.request_head)
        if not found or found[0].key != self.key:
            return None
        return self.texts.unpack(found[1], found[0].texts)


class Requests:
    """Request heads by job and, once asked for, by owner. Bodies stay on disk.

    Where ``redacted`` only digests of the bodies are written, and no answer repeats any of them.
    """

    def __init__(self, folders: Folders, *, redacted: Echoed | None = None) -> None:
        self._folders = folders
        self._redacted = redacted
        self._texts = Texts(folders.root / "texts")
        self._by_job: dict[str, dict[str, StoredRequest]] = {}
        self._by_owner: dict[str, list[StoredRequest]] | None = None
        self._by_key: dict[str, StoredRequest] = {}

    def line(self, head: RequestHead, body: Any) -> bytes:
        """Return a line of ``requests.jsonl``; its large texts are stored then."""
        body, texts = self._texts.pack(body if self._redacted is None else redaction.digests(body))
        fields = records.request_fields(head)
        return files.encode_line({**fields, "texts": texts} if texts else fields, body)

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
            head = RequestHead(make_custom_id(nonce, p.key), p.key, p.owner, p.occurrence)
            yield self.line(head, body(p.key))

    def forget_texts(self, before: float) -> int:
        """Remove large texts that no request has, written before then; return how many."""
        patterns = ("jobs/*/requests.jsonl", "realtime/*/requests.jsonl", "intents/*.jsonl")
        paths = (path for pattern in patterns for path in self._folders.root.glob(pattern))
        lines = (line for path in paths for line in files.scan(path, records.request_head))
        used = {name for line in lines if line for name in line.head.texts}
        return self._texts.forget(used, before)

    def forget(self, job_id: str = "") -> None:
        """Read again what was known of a job, and of all owners."""
        self._by_job.pop(job_id, None)
        self._by_owner = None

    def path(self, job: Job) -> Path:
        """Return where the requests of a job lie: beside its intent after a crash in between."""
        path = self._folders.job_path(job.id) / "requests.jsonl"
        return path if path.exists() or not job.nonce else self._folders.intent_requests(job.nonce)

    def of_job(self, job: Job) -> list[StoredRequest]:
        """Return the requests of a job in the order in which they were sent."""
        if job.id not in self._by_job:
            self._by_job[job.id] = {request.key: request for request in self._scan_job(job)}
        return list(self._by_job[job.id].values())

    def read(self, jobs: Iterable[Job], intents: Iterable[Intent]) -> None:
        """Read all requests, unless nothing changed since they were read."""
        if self._by_owner is not None:
            return
        requests = [request for job in jobs for request in self._scan_job(job)]
        for folder in self._folders.inside("realtime"):
            requests += self._scan(folder / "requests.jsonl", "", 0.0, None)
        for intent in intents:
            path = self._folders.intent_requests(intent.nonce)
            requests += self._scan(path, "", intent.created_at, intent.meta)
        requests.sort(key=lambda request: request.bought_at)
        self._by_owner, self._by_key = {}, {}
        for request in requests:
            self._by_owner.setdefault(request.owner, []).append(request)
            # A job adopted by its ID has no owners and no bodies to show.
            if request.owner or request.key not in self._by_key:
                self._by_key[request.key] = request

    def of_owner(self, owner: str) -> list[StoredRequest]:
        """Return the requests of an owner, oldest first, as they were read."""
        return list((self._by_owner or {}).get(owner, ()))

    def of_key(self, key: str) -> StoredRequest | None:
        """Return the newest request of a key, or None, as they were read."""
        return self._by_key.get(key)

    def _scan_job(self, job: Job) -> Iterator[StoredRequest]:
        return self._scan(self.path(job), job.id, job.created_at, RequestMeta.of(job))

    def _scan(
        self, path: Path, job_id: str, bought_at: float, meta: RequestMeta | None
    ) -> Iterator[StoredRequest]:
        for line in files.scan(path, records.request_head):
            known = meta or (line.head.meta if line else None)
            if line is None or known is None:
                # A running process may be in the middle of the last line of its real-time file.
                if meta is not None:
                    self._folders.report(f"{path}: a damaged line")
                continue
            yield StoredRequest(
                key=line.head.key,
                owner=intern(line.head.owner),
                occurrence=line.head.occurrence,
                job_id=job_id,
                bought_at=bought_at or path.stat().st_mtime,
                meta=known,
                custom_id=line.head.custom_id,
                path=path,
                offset=line.offset,
                length=line.length,
                texts=self._texts,
            )

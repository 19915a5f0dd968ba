"""Submissions under way: noted before a batch is created, dropped when its job is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_langasync.cache import files, records
from pytest_langasync.cache.folders import Folders


class Intents:
    """The folder ``intents``: NONCE.json, its copy, and NONCE.requests.jsonl.

    Whoever writes or drops one holds the lock of the cache; reading changes nothing.
    """

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._place = folders.root / "intents"

    def _path(self, nonce: str) -> Path:
        return self._place / f"{files.safe_name(nonce)}.json"

    def write(self, intent: records.Intent, lines: Iterable[bytes]) -> None:
        """Write a submission with the lines of its requests. Raises ``CacheError``."""
        self._folders.dir("intents")
        files.write_lines(self._folders.intent_requests(intent.nonce), lines)
        files.write_twice(self._path(intent.nonce), records.intent_document(intent))

    def nonces(self) -> list[str]:
        """Return the nonces of all submissions under way, readable or not."""
        plain = {path.name.removesuffix(files.COPY) for path in self._place.glob("*")}
        return sorted(name.removesuffix(".json") for name in plain if name.endswith(".json"))

    def __iter__(self) -> Iterator[records.Intent]:
        """Yield the submissions under way; one that cannot be read is reported and left out."""
        for nonce in self.nonces():
            path = self._path(nonce)
            try:
                yield files.read_either(path, records.intent_from_document, self._folders.report)
            except FileNotFoundError:
                continue  # another process has settled it by now
            except files.DAMAGE as error:
                self._folders.report(f"{path}: damaged ({error}), without a whole copy")

    def lost(self) -> list[str]:
        """Return a line for each submission of which neither file can be read."""
        lost = set(self.nonces()) - {intent.nonce for intent in self}
        return [
            f"submission {nonce} cannot be read, nor what it may have bought. Nothing is bought "
            f"before it is given up: python -m pytest_langasync doctor --forget {nonce}"
            for nonce in sorted(lost)
        ]

    def keys(self, nonce: str) -> frozenset[str]:
        """Return the keys of the requests of an open submission, as far as they can be read."""
        lines = files.scan(self._folders.intent_requests(nonce), records.request_head)
        return frozenset(line.head.key for line in lines if line)

    def drop(self, nonce: str) -> None:
        """Remove an intent whose batch does not exist, or is a job by now."""
        path = self._path(nonce)
        for one in (path, files.copy_of(path), self._folders.intent_requests(nonce)):
            files.remove(one)

    def sweep(self) -> None:
        """Remove requests that were written for a submission which then was not noted."""
        known = {self._folders.intent_requests(nonce) for nonce in self.nonces()}
        for path in self._place.glob("*.requests.jsonl"):
            if path not in known:
                files.remove(path)

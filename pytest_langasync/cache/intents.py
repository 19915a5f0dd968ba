"""Submissions under way: noted before a batch is created, dropped when its job is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_langasync.cache import files, records
from pytest_langasync.cache.folders import Disk

REQUESTS = ".requests.jsonl"


class Intents(Disk):
    """The folder ``intents``: NONCE.json, its copy, and NONCE.requests.jsonl.

    Whoever writes or drops one holds the lock of the cache; reading changes nothing.
    """

    def intent_requests(self, nonce: str) -> Path:
        """Return where the requests of a submission lie while it is under way."""
        return self.root / "intents" / f"{files.safe_name(nonce)}{REQUESTS}"

    def _intent(self, nonce: str) -> Path:
        return self.root / "intents" / f"{files.safe_name(nonce)}.json"

    def note(self, intent: records.Intent, lines: Iterable[bytes]) -> None:
        """Write a submission with the lines of its requests."""
        self.dir("intents")
        files.write_lines(self.intent_requests(intent.nonce), lines)
        files.write_twice(self._intent(intent.nonce), records.intent_document(intent))

    def nonces(self) -> list[str]:
        """Return the nonces of all submissions under way, readable or not."""
        names = (path.name for path in (self.root / "intents").glob("*"))
        plain = {name.removesuffix(files.COPY) for name in names}
        return sorted(name.removesuffix(".json") for name in plain if name.endswith(".json"))

    def open_intents(self) -> Iterator[records.Intent]:
        """Yield the submissions under way; one that cannot be read is reported and left out."""
        for nonce in self.nonces():
            try:
                yield self._read(nonce)
            except FileNotFoundError:
                continue  # another process has settled it by now
            except files.DAMAGE as error:
                self.report(f"{self._intent(nonce)}: damaged ({error}), without a whole copy")

    def _read(self, nonce: str) -> records.Intent:
        return files.read_either(self._intent(nonce), records.intent_from_document, self.report)

    def lost_intents(self) -> list[str]:
        """Return a line for each submission of which neither file can be read."""
        lost = set(self.nonces()) - {intent.nonce for intent in self.open_intents()}
        return [
            f"submission {nonce} cannot be read, nor what it may have bought. Nothing is bought "
            f"before it is given up: python -m pytest_langasync doctor --forget {nonce}"
            for nonce in sorted(lost)
        ]

    def intent_keys(self, nonce: str) -> frozenset[str]:
        """Return the keys of the requests of an open submission, as far as they can be read."""
        lines = files.scan(self.intent_requests(nonce))
        return frozenset(line.head["key"] for line in lines if line)

    def drop_intent(self, nonce: str) -> None:
        """Remove an intent whose batch does not exist, or is a job by now."""
        path = self._intent(nonce)
        for one in (path, files.copy_of(path), self.intent_requests(nonce)):
            files.remove(one)

    def sweep_intents(self) -> None:
        """Remove requests that were written for a submission which then was not noted."""
        known = {self.intent_requests(nonce) for nonce in self.nonces()}
        for path in (self.root / "intents").glob(f"*{REQUESTS}"):
            if path not in known:
                files.remove(path)

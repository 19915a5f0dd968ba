"""The in-memory index of a cache: where the newest answer to each key lies."""

from __future__ import annotations

from collections.abc import Callable

from pytest_langasync.cache import files
from pytest_langasync.cache.records import Entry, ResultFile
from pytest_langasync.models import Answer, split_custom_id


class Index:
    """Answers by key. Bodies stay on disk; heads are read once per file."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._entries: dict[str, Entry] = {}
        self._report = report

    def get(self, key: str) -> Entry | None:
        """Return the newest entry of a key."""
        return self._entries.get(key)

    def load(self, file: ResultFile, *, growing: bool = False) -> int:
        """Take in a results file and return how many whole lines it holds.

        Within a file the first success of a key wins. ``growing`` says that another process may be
        in the middle of its last line.
        """
        found: dict[str, Entry] = {}
        whole = damaged = 0
        for line in files.scan(file.path):
            if line is None:
                damaged += 1
                continue
            whole += 1
            head = line.head
            key = split_custom_id(head["custom_id"])[1]
            entry = Entry(
                file, line.offset, line.length, head["status"], head["retryable"],
                head["received_at"],
            )  # fmt: skip
            if key not in found or (entry.ok and not found[key].ok):
                found[key] = entry
        if damaged and not (growing and damaged == 1 and files.ends_torn(file.path)):
            self._report(f"{file.path}: {damaged} damaged line(s), treated as not returned")
        for key, entry in found.items():
            self.add(key, entry)
        return whole

    def add(self, key: str, entry: Entry) -> None:
        """Take in one entry, unless a newer one of another file is known."""
        known = self._entries.get(key)
        if known is None or known.file.path == entry.file.path or known.age <= entry.age:
            self._entries[key] = entry

    def received_since(self, moment: float) -> list[str]:
        """Return the keys whose newest answer came at ``moment`` or later."""
        return [key for key, entry in self._entries.items() if entry.received_at >= moment]

    def answer(self, key: str) -> Answer | None:
        """Read the newest answer of a key; None when there is none, or it is damaged by now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        found = files.read_line(entry.file.path, entry.offset, entry.length)
        if found is None or split_custom_id(found[0]["custom_id"])[1] != key:
            self._report(f"{entry.file.path}: a damaged line, treated as not returned")
            self._entries.pop(key, None)
            return None
        head, body = found
        return Answer(
            key=key,
            status=entry.status,
            body=body,
            job_id=entry.file.job_id,
            request_id=head["request_id"],
            bought_at=entry.age[0],
            received_at=entry.received_at,
        )

"""The results files of a cache: where the newest answer to each key lies, and adding to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_langasync.cache import files, records
from pytest_langasync.cache.records import ResultFile
from pytest_langasync.models import Answer, ResultRow, is_success


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the newest answer to a key lies."""

    file: ResultFile
    offset: int
    length: int
    status: int
    retryable: bool
    received_at: float
    failed: bool = False

    @property
    def age(self) -> tuple[float, float]:
        """(bought, received), in seconds since the epoch: the greater, the newer."""
        return (self.file.bought_at or self.received_at, self.received_at)

    @property
    def ok(self) -> bool:
        """True for a success."""
        return is_success(self.status) and not self.failed


class Index:
    """Answers by key. Bodies stay on disk; heads are read once per file."""

    def __init__(self, report: Callable[[str], None], present: Callable[[float], float]) -> None:
        """``present`` returns a time that was stored, or an earlier one where it is to come."""
        self._entries: dict[str, Entry] = {}
        self._report = report
        self._present = present

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
        for line in files.scan(file.path, records.result_head):
            if line is None:
                damaged += 1
                continue
            whole += 1
            head, key = line.head, line.head.key
            place, facts = (line.offset, line.length), (head.status, head.retryable)
            received_at = self._present(head.received_at)
            entry = Entry(file, *place, *facts, received_at, head.failed)
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
        found = files.read_line(entry.file.path, entry.offset, entry.length, records.result_head)
        if found is None or found[0].key != key:
            self._report(f"{entry.file.path}: a damaged line, treated as not returned")
            self._entries.pop(key, None)
            return None
        head, body = found
        return Answer(
            key=key,
            status=entry.status,
            body=body,
            job_id=entry.file.job_id,
            request_id=head.request_id,
            bought_at=entry.age[0],
            received_at=entry.received_at,
            failed=entry.failed,
            foreign=entry.file.foreign,
            lane=head.lane,
            headers=head.headers,
        )


def merge(
    path: Path, rows: Iterable[ResultRow], line: Callable[[ResultRow], bytes | None]
) -> tuple[int, int]:
    """Add rows to a results file, all of them or, when ``rows`` raises, none.

    Rows stored before stay; of several rows of one request the first success wins. ``line`` returns
    None for a row of no known request. Returns how many requests have a row by now, and how many
    rows were left out as unknown. Raises ``CacheError``.
    """
    done: dict[str, bool] = {}
    unknown = 0
    with files.replacing(path) as file:
        for kept in files.scan(path, records.result_head):
            if kept is not None:
                done[kept.head.custom_id] = kept.head.ok
                file.write(files.raw_line(path, kept))
        for row in rows:
            ok = row.ok
            if row.custom_id in done and (done[row.custom_id] or not ok):
                continue
            written = line(row)
            if written is None:
                unknown += 1
            else:
                done[row.custom_id] = ok
                file.write(written)
    return len(done), unknown

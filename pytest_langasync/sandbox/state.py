"""The sandbox's memory: one SQLite file and a folder of blobs, shared by all its processes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pytest_langasync.sandbox.faults import BatchFault, HttpFault, Limits, load, parse_faults

__all__ = ["Bought", "State", "dumps"]

_TABLES = """
CREATE TABLE IF NOT EXISTS files (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, data TEXT);
CREATE TABLE IF NOT EXISTS batches (
  seq INTEGER PRIMARY KEY, id TEXT UNIQUE, provider TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS ledger (
  seq INTEGER PRIMARY KEY, at REAL, provider TEXT, endpoint TEXT, job_id TEXT, custom_id TEXT,
  attempt INTEGER, status INTEGER, body TEXT, headers TEXT);
CREATE TABLE IF NOT EXISTS exchanges (seq INTEGER PRIMARY KEY, at REAL, method TEXT, path TEXT);
CREATE TABLE IF NOT EXISTS faults (seq INTEGER PRIMARY KEY, kind TEXT, spec TEXT, seen INTEGER);
CREATE TABLE IF NOT EXISTS samples (digest TEXT PRIMARY KEY, n INTEGER);
"""
_LEDGER = (
    "seq", "at", "provider", "endpoint", "job_id", "custom_id", "attempt", "status", "body",
    "headers",
)  # fmt: skip
_F = TypeVar("_F", HttpFault, BatchFault)
Bought = tuple[float, str, str, str, str, int, int, str, str]
"""A row of the ledger, in the order of its columns."""


def dumps(value: Any) -> bytes:
    """Return ``value`` as UTF-8 JSON, characters raw as the providers send them."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8 form; as a backslash escape it is valid JSON.
    return text.encode("utf-8", "backslashreplace")


class State:
    """Everything the sandbox knows. Safe between threads and between processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            directory / "sandbox.db", timeout=60, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        # Survives a killed process; only a power cut could lose what was written last.
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock of all processes."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def reset(self) -> None:
        """Forget everything, faults included."""
        with self.transaction() as db:
            for table in ("files", "batches", "ledger", "exchanges", "faults", "samples"):
                db.execute(f"DELETE FROM {table}")
        for path in self.blobs.iterdir():
            path.unlink(missing_ok=True)

    # Blobs: the bytes of files, inputs and results

    def write_blob(self, name: str, data: bytes) -> None:
        """Write a blob in one step, for all processes to see."""
        temporary = self.blobs / f"{name}.{uuid.uuid4().hex}.tmp"
        temporary.write_bytes(data)
        os.replace(temporary, self.blobs / name)

    def blob(self, name: str) -> Path:
        """Return where a blob is; the name is one that the sandbox made."""
        return self.blobs / name

    # Files and batches

    def add_file(self, data: Mapping[str, Any], content: bytes) -> None:
        """Store a file object and its content."""
        self.write_blob(data["id"], content)
        with self._lock:
            values = (data["id"], json.dumps(data))
            self._db.execute("INSERT INTO files (id, data) VALUES (?, ?)", values)

    def file(self, file_id: str) -> dict[str, Any] | None:
        """Return a file object, or None."""
        rows = self._rows("SELECT data FROM files WHERE id = ?", file_id)
        return json.loads(rows[0][0]) if rows else None

    def files(self) -> list[dict[str, Any]]:
        """Return all file objects, newest first."""
        return [
            json.loads(row[0]) for row in self._rows("SELECT data FROM files ORDER BY seq DESC")
        ]

    def delete_file(self, file_id: str) -> None:
        """Forget a file and its content."""
        self._rows("DELETE FROM files WHERE id = ?", file_id)
        self.blob(file_id).unlink(missing_ok=True)

    def add_batch(self, batch: Mapping[str, Any]) -> None:
        """Store a new batch."""
        self._rows(
            "INSERT INTO batches (id, provider, data) VALUES (?, ?, ?)",
            batch["id"], batch["provider"], json.dumps(batch),
        )  # fmt: skip

    def batch(self, batch_id: str, provider: str) -> dict[str, Any] | None:
        """Return a batch of this provider, or None."""
        query = "SELECT data FROM batches WHERE id = ? AND provider = ?"
        rows = self._rows(query, batch_id, provider)
        return json.loads(rows[0][0]) if rows else None

    def batch_ids(self, provider: str) -> list[str]:
        """Return the IDs of a provider's batches, newest first."""
        query = "SELECT id FROM batches WHERE provider = ? ORDER BY seq DESC"
        return [row[0] for row in self._rows(query, provider)]

    def running(self, provider: str) -> list[dict[str, Any]]:
        """Return the batches of a provider that have not ended."""
        query = """SELECT data FROM batches WHERE provider = ?
                   AND json_extract(data, '$.phase') != 'ended'"""
        return [json.loads(row[0]) for row in self._rows(query, provider)]

    def update_batch(
        self,
        batch_id: str,
        change: Callable[[dict[str, Any]], None],
        bought: Sequence[Bought] = (),
    ) -> dict[str, Any]:
        """Change a batch, and enter what was bought with it, in one transaction."""
        with self.transaction() as db:
            row = db.execute("SELECT data FROM batches WHERE id = ?", (batch_id,)).fetchone()
            batch: dict[str, Any] = json.loads(row[0])
            change(batch)
            values = (json.dumps(batch), batch_id)
            db.execute("UPDATE batches SET data = ? WHERE id = ?", values)
            _enter(db, bought)
        return batch

    def delete_batch(self, batch_id: str) -> None:
        """Forget a batch."""
        self._rows("DELETE FROM batches WHERE id = ?", batch_id)

    # Accounts

    def buy(self, bought: Sequence[Bought]) -> None:
        """Enter requests into the ledger."""
        with self._lock:
            _enter(self._db, bought)

    def attempts(self, digests: Sequence[str]) -> list[int]:
        """Return for each body how often it was asked for before, counting these at once."""
        query = """INSERT INTO samples VALUES (?, 1)
                   ON CONFLICT (digest) DO UPDATE SET n = n + 1 RETURNING n - 1"""
        with self.transaction() as db:
            return [db.execute(query, (d,)).fetchone()[0] for d in digests]

    def ledger(self) -> list[dict[str, Any]]:
        """Return every request that was executed, oldest first."""
        entries = [
            dict(zip(_LEDGER, row, strict=True))
            for row in self._rows("SELECT * FROM ledger ORDER BY seq")
        ]
        for entry in entries:
            entry |= {"body": json.loads(entry["body"]), "headers": json.loads(entry["headers"])}
        return entries

    def log(self, method: str, path: str) -> None:
        """Enter an HTTP exchange."""
        query = "INSERT INTO exchanges (at, method, path) VALUES (?, ?, ?)"
        self._rows(query, time.time(), method, path)

    def exchanges(self) -> list[dict[str, Any]]:
        """Return every HTTP exchange, oldest first."""
        rows = self._rows("SELECT * FROM exchanges ORDER BY seq")
        return [dict(zip(("seq", "at", "method", "path"), row, strict=True)) for row in rows]

    # Faults

    def set_faults(self, faults: Mapping[str, Any]) -> None:
        """Replace all faults. Raises ``ValueError`` for an unknown kind or field."""
        parsed = parse_faults(faults)
        with self.transaction() as db:
            db.execute("DELETE FROM faults")
            query = "INSERT INTO faults (kind, spec, seen) VALUES (?, ?, 0)"
            db.executemany(query, [(kind, json.dumps(spec)) for kind, spec in parsed])

    def limits(self) -> Limits:
        """Return the queue limits in force."""
        rows = self._rows("SELECT spec FROM faults WHERE kind = 'limits'")
        return load(Limits, json.loads(rows[-1][0])) if rows else Limits()

    def http_fault(self, what: str) -> HttpFault | None:
        """Return the fault of this exchange, counting it."""
        return self._next("http", HttpFault, what)

    def batch_fault(self, provider: str) -> BatchFault:
        """Return how a new batch turns out, counting it."""
        return self._next("batch", BatchFault, provider) or BatchFault()

    def _next(self, kind: str, load_as: type[_F], what: str) -> _F | None:
        query = "SELECT seq, spec, seen FROM faults WHERE kind = ? ORDER BY seq"
        if not self._rows(query, kind):
            return None
        found: _F | None = None
        with self.transaction() as db:
            for seq, spec, seen in db.execute(query, (kind,)).fetchall():
                fault = load(load_as, json.loads(spec))
                if not fault.matches(what):
                    continue
                db.execute("UPDATE faults SET seen = seen + 1 WHERE seq = ?", (seq,))
                turn = seen + 1 - fault.nth
                if found is None and turn >= 0 and (not fault.count or turn < fault.count):
                    found = fault
        return found


def _enter(db: sqlite3.Connection, bought: Sequence[Bought]) -> None:
    query = """INSERT INTO ledger
        (at, provider, endpoint, job_id, custom_id, attempt, status, body, headers)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
    db.executemany(query, bought)

"""The folders of a cache, and the small documents in them: what owners and runs remember."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_langasync.cache import files, records
from pytest_langasync.cache.records import OwnerState
from pytest_langasync.exceptions import CacheError
from pytest_langasync.models import Refusal

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")
VERSION = 1
INSIDE = ("chains", "intents", "jobs", "live", "provider", "realtime", "runs", "sandbox", "texts")
"""The folders that a cache may hold."""


class Folders:
    """Where everything lies under ``root``; folders appear with the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        """Damage found on disk, one line each, for the person to see."""
        self._prepared = False

    def report(self, line: str) -> None:
        """Add a line to ``problems``, once."""
        if line not in self.problems:
            self.problems.append(line)

    def prepare(self) -> None:
        """Create the directory with what marks it. Raises ``CacheError``."""
        if self._prepared:
            return
        files.make_private_dir(self.root)
        if not (self.root / ".gitignore").exists():
            files.write_lines(self.root / ".gitignore", [b"*\n"])
        if self._version() is None:
            files.write_lines(self.root / "version", [b"%d\n" % VERSION])
        self._prepared = True

    def _version(self) -> int | None:
        """Return the version of what is here, or None where no number says so."""
        path = self.root / "version"
        try:
            return int(files.read_whole(path, files.SMALL))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.report(f"{path}: damaged; taken to be {VERSION}")
            return None

    def check(self) -> None:
        """Raise ``CacheError`` for a directory that is not writable, of a newer version, or with
        links inside, which would lead its readers and writers elsewhere."""
        place = next(p for p in (self.root, *self.root.parents) if p.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise CacheError(f"the cache directory {self.root} is not writable")
        if place != self.root:
            try:  # some folders take nothing, whatever their mode says
                tempfile.TemporaryDirectory(dir=place).cleanup()
            except OSError as error:
                text = f"the cache directory {self.root} cannot be made: {error.strerror or error}"
                raise CacheError(text) from None
        for path in (self.root / name for name in (*INSIDE, "submit.lock", "state.lock")):
            if path.is_symlink():
                raise files.refused(path, "is a symbolic link")
        if (self._version() or 0) > VERSION:
            raise CacheError(
                f"the cache in {self.root} was written by a newer version of pytest-langasync: "
                "upgrade, or choose another cache directory"
            )

    def dir(self, name: str) -> Path:
        """Return a folder of the cache, created when it is missing."""
        self.prepare()
        files.make_private_dir(self.root / name)
        return self.root / name

    def job_path(self, job_id: str) -> Path:
        """Return the folder of a job, whether it exists or not."""
        return self.root / "jobs" / files.safe_name(job_id)

    def job_dir(self, job_id: str) -> Path:
        """Return the folder of a job, created when it is missing."""
        self.dir("jobs")
        files.make_private_dir(self.job_path(job_id))
        return self.job_path(job_id)

    def intent_requests(self, nonce: str) -> Path:
        """Return where the requests of a submission lie while it is under way."""
        return self.root / "intents" / f"{files.safe_name(nonce)}.requests.jsonl"

    def inside(self, name: str) -> list[Path]:
        """Return the folders inside one of the cache's folders, sorted.

        Raises:
            CacheError: one of them is a link.
        """
        found: list[Path] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / name) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise files.refused(Path(entry.path), "is a symbolic link")
                if entry.is_dir():
                    found.append(Path(entry.path))
        return sorted(found)


class LiveRuns:
    """Which runs are at work: each holds a lock in ``live`` that dies with its process."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._own: BaseFileLock | None = None

    def _path(self, run: str) -> Path:
        return self._folders.root / "live" / f"{files.safe_name(run)}.lock"

    def begin(self, run: str) -> None:
        """Say that a run is at work, until ``end``. Raises ``CacheError``."""
        from filelock import FileLock, Timeout

        if self._own is None and run:
            for path in self._folders.dir("live").glob("*.lock"):
                self.alive(path.stem)  # takes away what a killed run left
            lock = FileLock(self._path(run), mode=0o600)
            # A second process of the same run need not hold it, too.
            with files.writing(self._path(run)), contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                self._own = lock

    def alive(self, run: str) -> bool:
        """Return whether a run is at work in another process of this machine."""
        from filelock import FileLock, Timeout

        path = self._path(run)
        if not run or not path.exists() or path.is_symlink():
            return False
        try:
            with FileLock(path, timeout=0, mode=0o600):
                path.unlink(missing_ok=True)
        except Timeout:
            return True
        except OSError:
            pass
        return False

    def end(self) -> None:
        """Say that the run is over."""
        if self._own is not None:
            with contextlib.suppress(OSError):
                Path(self._own.lock_file).unlink(missing_ok=True)
            self._own.release()
            self._own = None


class Owners:
    """What is remembered of each owner between runs: the document ``state.json``."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._path = folders.root / "state.json"

    def read(self) -> dict[str, OwnerState]:
        """Return it; nothing where it is damaged, which is reported."""
        try:
            return records.owners_from_document(files.read_document(self._path, files.LARGE))
        except FileNotFoundError:
            return {}
        except files.DAMAGE as error:
            self._folders.report(f"{self._path}: damaged ({error})")
            return {}

    def update(self, changes: Mapping[str, OwnerState | None]) -> None:
        """Merge changes into what is remembered; None forgets an owner. Raises ``CacheError``."""
        from filelock import FileLock

        self._folders.prepare()
        lock = self._path.with_suffix(".lock")
        with files.writing(lock), FileLock(lock, mode=0o600):
            owners = {**self.read(), **changes}
            kept = {owner: state for owner, state in owners.items() if state is not None}
            files.write_document(self._path, records.owners_document(kept))


class RefusalNotes:
    """What batches refused, although real time takes it: the document ``refusals.json``."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._path = folders.root / "refusals.json"

    def read(self) -> list[Refusal]:
        """Return them; nothing where they are damaged, which is reported."""
        try:
            return records.refusals_from_document(files.read_document(self._path, files.LARGE))
        except FileNotFoundError:
            return []
        except files.DAMAGE as error:
            self._folders.report(f"{self._path}: damaged ({error})")
            return []

    def write(self, refusals: Iterable[Refusal]) -> None:
        """Replace them. Raises ``CacheError``."""
        self._folders.prepare()
        files.write_document(self._path, records.refusals_document(refusals))


class History:
    """What runs did and cost: a document for each in ``runs``, which sort by their time."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._runs = folders.root / "runs"

    def add(self, run_id: str, run: Mapping[str, Any]) -> None:
        """Store what a run did and cost. Raises ``CacheError``."""
        files.write_document(self._folders.dir("runs") / f"{files.safe_name(run_id)}.json", run)

    def ids(self) -> list[str]:
        """Return the IDs of the stored runs, newest first."""
        return sorted((path.stem for path in self._runs.glob("*.json")), reverse=True)

    def __iter__(self) -> Iterator[Any]:
        """Yield the stored documents as they are, newest first."""
        return self.read(lambda document: document)

    def read(self, parse: Callable[[Any], T]) -> Iterator[T]:
        """Yield the stored runs, newest first; a damaged one is reported and left out.

        ``parse`` makes a run of a document, and raises ``ValueError`` where it is none.
        """
        for run_id in self.ids():
            path = self._runs / f"{run_id}.json"
            try:
                yield parse(files.read_document(path, files.LARGE))
            except files.DAMAGE as error:
                self._folders.report(f"{path}: damaged ({error})")

    def forget(self, before: float) -> int:
        """Remove the runs stored before then (seconds since the epoch); return how many."""
        paths = [self._runs / f"{run_id}.json" for run_id in self.ids()]
        old = [path for path in paths if path.stat().st_mtime < before]
        for path in old:
            files.remove(path)
        return len(old)

"""The folders of a cache, and the small documents in them: what owners and runs remember."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_langasync.cache import files
from pytest_langasync.exceptions import CacheError

VERSION = 1


class Disk:
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
            return int(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.report(f"{path}: damaged; taken to be {VERSION}")
            return None

    def check(self) -> None:
        """Raise ``CacheError`` for a directory that is not writable or of a newer version."""
        place = next(p for p in (self.root, *self.root.parents) if p.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise CacheError(f"the cache directory {self.root} is not writable")
        if place != self.root:
            try:  # some folders take nothing, whatever their mode says
                tempfile.TemporaryDirectory(dir=place).cleanup()
            except OSError as error:
                text = f"the cache directory {self.root} cannot be made: {error.strerror or error}"
                raise CacheError(text) from None
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
        self.prepare()
        files.make_private_dir(self.job_path(job_id))
        return self.job_path(job_id)

    def folders(self, name: str) -> list[Path]:
        """Return the folders inside one of the cache's folders, sorted."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / name) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
        return []

    def owner_state(self) -> dict[str, dict[str, Any]]:
        """Return what is remembered about each owner between runs."""
        path = self.root / "state.json"
        try:
            return files.read_document(path) if path.exists() else {}
        except ValueError as error:
            self.report(f"{path}: damaged ({error})")
            return {}

    def update_owner_state(self, changes: Mapping[str, dict[str, Any] | None]) -> None:
        """Merge changes into what is remembered; None forgets an owner."""
        from filelock import FileLock

        self.prepare()
        lock = self.root / "state.lock"
        with files.writing(lock), FileLock(lock, mode=0o600):
            state: dict[str, Any] = {**self.owner_state(), **changes}
            kept = {owner: value for owner, value in state.items() if value is not None}
            files.write_document(self.root / "state.json", kept)

    def write_run(self, run_id: str, run: Mapping[str, Any]) -> None:
        """Store what a run did and cost. IDs that sort by time keep ``runs`` in order."""
        files.write_document(self.dir("runs") / f"{files.safe_name(run_id)}.json", run)

    def run_ids(self) -> list[str]:
        """Return the IDs of the stored runs, newest first."""
        return sorted((path.stem for path in (self.root / "runs").glob("*.json")), reverse=True)

    def runs(self) -> Iterator[dict[str, Any]]:
        """Yield the stored runs, newest first; a damaged one is reported and left out."""
        for run_id in self.run_ids():
            path = self.root / "runs" / f"{run_id}.json"
            try:
                yield files.read_document(path)
            except (OSError, ValueError) as error:
                self.report(f"{path}: damaged ({error})")

    def forget_realtime(self, before: float) -> int:
        """Remove files of answers at list price, all of which came before then (since the epoch).

        Returns how many answers there were.
        """
        forgotten = 0
        for folder in self.folders("realtime"):
            lines = files.scan(folder / "results.jsonl")
            times = [line.head["received_at"] for line in lines if line]
            if max(times or [folder.stat().st_mtime]) < before:
                files.remove_folder(folder)
                forgotten += len(times)
        return forgotten

    def forget_runs(self, before: float) -> int:
        """Remove the runs stored before then (seconds since the epoch); return how many."""
        paths = [self.root / "runs" / f"{run_id}.json" for run_id in self.run_ids()]
        old = [path for path in paths if path.stat().st_mtime < before]
        for path in old:
            files.remove(path)
        return len(old)

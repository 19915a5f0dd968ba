"""Bodies of recorded calls, kept out of memory until they are sent."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pytest_langasync import _files


class Spool:
    """A nameless temporary file of JSON bodies by key; gone when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None
        self._size = 0

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, key: str, body: Mapping[str, Any]) -> None:
        """Keep a body; one already kept under this key stays. Raises ``CacheError``."""
        with self._lock, _files.writing(Path(tempfile.gettempdir())):
            if key in self._places:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the spool)
            data = _files.dump(body)
            self._file.seek(self._size)
            self._file.write(data)
            self._places[key] = (self._size, len(data))
            self._size += len(data)

    def get(self, key: str) -> Any:
        """Return the body of a key. Raises ``KeyError``."""
        with self._lock:
            offset, length = self._places[key]
            assert self._file is not None
            self._file.seek(offset)
            return json.loads(self._file.read(length))

    def close(self) -> None:
        """Give the disk space back."""
        with self._lock:
            self._places.clear()
            if self._file is not None:
                self._file.close()
                self._file = None
                self._size = 0

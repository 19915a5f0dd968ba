"""Bodies of recorded calls, kept out of memory until they are sent, as far as there is room."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, Any

from pytest_langasync.models import to_json


class Spool:
    """A nameless temporary file of JSON bodies by key; gone when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._held: dict[str, bytes] = {}
        """What the disk had no room for."""
        self._file: IO[bytes] | None = None
        self._size = 0

    def __contains__(self, key: str) -> bool:
        return key in self._places or key in self._held

    def add(self, key: str, body: Mapping[str, Any]) -> None:
        """Keep a body; one already kept under this key stays."""
        with self._lock:
            if key in self:
                return
            data = to_json(body)
            try:
                written = self._write(data)
            except OSError:
                written = 0
            if written == len(data):
                self._places[key] = (self._size, written)
                self._size += written
            else:
                self._held[key] = data

    def _write(self, data: bytes) -> int:
        if self._file is None:
            # It lives as long as the spool. Unbuffered: a write that fails is to fail here.
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._file.seek(self._size)
        return self._file.write(data)

    def get(self, key: str) -> Any:
        """Return the body of a key. Raises ``KeyError``."""
        with self._lock:
            if key in self._held:
                return json.loads(self._held[key])
            offset, length = self._places[key]
            assert self._file is not None
            self._file.seek(offset)
            return json.loads(self._file.read(length))

    def close(self) -> None:
        """Give the disk space back."""
        with self._lock:
            self._places.clear()
            self._held.clear()
            if self._file is not None:
                self._file.close()
                self._file = None
                self._size = 0

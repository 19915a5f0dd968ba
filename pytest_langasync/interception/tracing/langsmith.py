"""LangSmith: what tracers post waits until the end of the attempt."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

from pytest_langasync.interception.patches import Patches

__all__ = ["LangSmith"]


class LangSmith:
    """Holds what tracers post to LangSmith until the end of the attempt."""

    def __init__(self) -> None:
        self.patches = Patches()
        self._lock = threading.Lock()
        self._active = False
        self._held: list[Callable[[], None]] = []
        self._open: set[str] = set()
        self._dropped: set[str] = set()

    def patch(self) -> None:
        client = getattr(sys.modules.get("langsmith.client"), "Client", None)
        if client is not None:
            self.patches.put(client, "create_run", self._make_held)
            self.patches.put(client, "update_run", self._make_held)

    def begin(self) -> None:
        self._active = True

    def end(self, *, final: bool) -> None:
        with self._lock:
            self._active = False
            held, self._held = self._held, []
            if not final:
                self._dropped |= self._open
            self._open.clear()
        if final:
            for post in held:
                post()

    def _make_held(self, original: Callable[..., None]) -> Callable[..., None]:
        updates = original.__name__ == "update_run"

        def method(client: Any, *args: Any, **kwargs: Any) -> None:
            run_id = (args or (kwargs.get("run_id"),))[0] if updates else kwargs.get("id")
            with self._lock:
                if not self._dropped.isdisjoint({str(run_id), str(kwargs.get("parent_run_id"))}):
                    return
                if self._active:
                    if kwargs.get("end_time"):
                        self._open.discard(str(run_id))
                    elif run_id is not None:
                        self._open.add(str(run_id))
                    self._held.append(
                        functools.partial(
                            original,
                            client,
                            *[_snapshot(value) for value in args],
                            **{key: _snapshot(value) for key, value in kwargs.items()},
                        )
                    )
                    return
            original(client, *args, **kwargs)

        return method


def _snapshot(value: Any) -> Any:
    """Copy inputs and outputs, which the code under test may change before the run is posted."""
    return sys.modules["langsmith.utils"].deepish_copy(value) if isinstance(value, dict) else value

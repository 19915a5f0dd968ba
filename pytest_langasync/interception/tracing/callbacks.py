"""LangChain: the events of a root run wait, at their dispatch, until it ends."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_langasync.interception.patches import Patches
from pytest_langasync.interception.tracing.base import (
    LETTING_OUT,
    Memory,
    Parked,
    is_live,
    letting_out,
)

__all__ = ["Callbacks"]


@dataclass(frozen=True)
class _Event:
    """One dispatch, as ``handle_event`` receives it."""

    handlers: list[Any]
    name: str
    ignore: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass
class _Root:
    run_id: Any
    name: str
    runs: set[Any] = field(default_factory=set)
    events: list[_Event] = field(default_factory=list)


class Callbacks:
    """Holds the events of a root run where LangChain dispatches them to its handlers."""

    def __init__(self, parked: Parked, memory: Memory) -> None:
        self.patches = Patches()
        self._parked, self._memory = parked, memory
        self._lock = threading.Lock()
        self._active = False
        self._roots: dict[Any, _Root] = {}
        """The root of each run under way, by run ID."""
        self._dropped: set[Any] = set()
        self._dispatch: Callable[..., None] | None = None

    def patch(self) -> None:
        module = sys.modules.get("langchain_core.callbacks.manager")
        if module is not None and hasattr(module, "ahandle_event"):
            self._dispatch = module.handle_event
            self.patches.put(module, "handle_event", self._make_sync)
            self.patches.put(module, "ahandle_event", self._make_async)

    def begin(self) -> None:
        self._active = True

    def end(self, *, final: bool) -> None:
        with self._lock:
            self._active = False
            left = {id(root): root for root in self._roots.values()}.values()
            if not final:
                self._dropped.update(self._roots)
            self._roots.clear()
        if final and self._dispatch:
            with letting_out():
                for root in left:
                    for event in self._admitted(root):
                        self._dispatch(
                            event.handlers, event.name, event.ignore, *event.args, **event.kwargs
                        )

    def _make_sync(self, original: Callable[..., None]) -> Callable[..., None]:
        def handle_event(
            handlers: list[Any], name: str, ignore: str | None, /, *args: Any, **kwargs: Any
        ) -> None:
            live, due = self._take(_Event(handlers, name, ignore, args, kwargs))
            original(live, name, ignore, *args, **kwargs)
            with letting_out():
                for event in due:
                    original(event.handlers, event.name, event.ignore, *event.args, **event.kwargs)

        return handle_event

    def _make_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def ahandle_event(
            handlers: list[Any], name: str, ignore: str | None, /, *args: Any, **kwargs: Any
        ) -> None:
            live, due = self._take(_Event(handlers, name, ignore, args, kwargs))
            await original(live, name, ignore, *args, **kwargs)
            with letting_out():
                for event in due:
                    await original(
                        event.handlers, event.name, event.ignore, *event.args, **event.kwargs
                    )

        return ahandle_event

    def _take(self, event: _Event) -> tuple[list[Any], list[_Event]]:
        """Return the handlers to call at once, and the events to deliver now."""
        run_id = event.kwargs.get("run_id")
        if run_id is None or LETTING_OUT.get():
            return event.handlers, []
        live = [handler for handler in event.handlers if is_live(handler)]
        held = [handler for handler in event.handlers if not is_live(handler)]
        with self._lock:
            parent = event.kwargs.get("parent_run_id")
            if run_id in self._dropped or parent in self._dropped:
                self._dropped.add(run_id)
                return live, []
            root = self._root_of(run_id, parent, event) if self._active else None
            if root is None:
                return event.handlers, []
            root.events.append(_Event(held, event.name, event.ignore, event.args, event.kwargs))
            if run_id != root.run_id or not event.name.endswith(("_end", "_error")):
                return live, []
            for run in root.runs:
                self._roots.pop(run, None)
        return live, [] if self._parked() else self._admitted(root)

    def _root_of(self, run_id: Any, parent: Any, event: _Event) -> _Root | None:
        root = self._roots.get(run_id) or self._roots.get(parent)
        if root is None:
            if not event.name.endswith("_start"):
                return None
            root = _Root(run_id, f"{event.name} {event.kwargs.get('name')}")
        root.runs.add(run_id)
        self._roots[run_id] = root
        return root

    def _admitted(self, root: _Root) -> list[_Event]:
        admitted = self._memory.filter(root.name)
        return [
            _Event(
                [handler for handler in event.handlers if admitted(handler)],
                event.name,
                event.ignore,
                event.args,
                event.kwargs,
            )
            for event in root.events
        ]

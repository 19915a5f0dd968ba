"""OpenAI Agents SDK: the events of a trace wait, where they are handed out, until it ends."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_langasync.interception.patches import Patches
from pytest_langasync.interception.tracing.base import Memory, Parked, is_live

__all__ = ["AgentTraces"]

EVENTS = ("on_trace_start", "on_span_start", "on_span_end", "on_trace_end")

_HandOut = Callable[[Any, Any], None]
_Event = tuple[_HandOut, Any, list[Any], Any]
"""How it is handed out, the processor of processors, those that wait for it, the trace or span."""


@dataclass
class _Trace:
    name: str
    events: list[_Event] = field(default_factory=list)


class AgentTraces:
    """Holds what ``SynchronousMultiTracingProcessor`` hands to the processors of the provider.

    Every trace and span of the SDK passes there (noticed by ``test_agents_leave_one_trace``).
    """

    def __init__(self, parked: Parked, memory: Memory) -> None:
        self.patches = Patches()
        self._parked, self._memory = parked, memory
        self._lock = threading.Lock()
        self._active = False
        self._open: dict[str, _Trace] = {}
        self._dropped: set[str] = set()

    def patch(self) -> None:
        module = sys.modules.get("agents.tracing.provider")
        owner = getattr(module, "SynchronousMultiTracingProcessor", None)
        for name in EVENTS if owner is not None else ():
            self.patches.put(owner, name, self._make)

    def begin(self) -> None:
        self._active = True

    def end(self, *, final: bool) -> None:
        with self._lock:
            self._active = False
            left = list(self._open.values())
            if not final:
                self._dropped.update(self._open)
            self._open.clear()
        if final:
            for trace in left:
                self._let_out(trace)

    def _make(self, original: _HandOut) -> _HandOut:
        name = original.__name__

        def event(processor: Any, thing: Any) -> None:
            """Hand a trace or span to those that must act at once; hold it for the others."""
            with self._lock:
                if thing.trace_id in self._dropped:
                    if name == "on_trace_end":
                        self._dropped.discard(thing.trace_id)
                    return
                if name == "on_trace_start" and self._active:
                    self._open[thing.trace_id] = _Trace(thing.name)
                trace = self._open.get(thing.trace_id)
                if trace is not None:
                    held = [one for one in processor._processors if not is_live(one)]
                    trace.events.append((original, processor, held, thing))
                    if name == "on_trace_end":
                        del self._open[thing.trace_id]
            if trace is None:
                original(processor, thing)
                return
            original(_only(processor, [p for p in processor._processors if is_live(p)]), thing)
            if name == "on_trace_end" and not self._parked():
                self._let_out(trace)

        return event

    def _let_out(self, trace: _Trace) -> None:
        admitted = self._memory.filter(trace.name)
        for hand_out, processor, held, thing in trace.events:
            hand_out(_only(processor, [one for one in held if admitted(one)]), thing)


def _only(processor: Any, chosen: list[Any]) -> Any:
    """Return a processor of processors like this one, with these processors only."""
    other = type(processor)()
    other.set_processors(chosen)
    return other

"""OpenTelemetry: ended spans wait until the attempt has none open in their trace."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_langasync.interception.patches import Patches
from pytest_langasync.interception.tracing.base import Memory, Parked

__all__ = ["Spans"]


@dataclass
class _Trace:
    """The spans of one trace that were started in this attempt."""

    name: str
    open: int = 0
    ended: list[tuple[Any, Any]] = field(default_factory=list)
    """(the provider's span processor, the span), in the order in which they ended."""


class Spans:
    """Holds ended spans at the door of a provider's span processors."""

    def __init__(self, parked: Parked, memory: Memory) -> None:
        self.patches = Patches()
        self._parked, self._memory = parked, memory
        self._lock = threading.Lock()
        self._active = False
        self._traces: dict[int, _Trace] = {}
        self._open: dict[int, _Trace] = {}
        self._dropped: set[int] = set()
        self._shown: list[tuple[Any, Any]] = []

    def patch(self) -> None:
        module = sys.modules.get("opentelemetry.sdk.trace")
        for name in ("SynchronousMultiSpanProcessor", "ConcurrentMultiSpanProcessor"):
            processor = getattr(module, name, None)
            if processor is not None:
                self.patches.put(processor, "on_start", self._make_on_start)
                self.patches.put(processor, "on_end", self._make_on_end)

    def begin(self) -> None:
        self._active = True

    def end(self, *, final: bool) -> None:
        with self._lock:
            self._active = False
            left = list(self._traces.values())
            if not final:
                self._dropped.update(self._open)
            self._traces.clear()
            self._open.clear()
            shown, self._shown = self._shown, []
        if final:
            for trace in left:
                self._let_out(trace)
        else:
            _take_back(shown)

    def _make_on_start(self, original: Callable[..., None]) -> Callable[..., None]:
        def on_start(processor: Any, span: Any, *args: Any, **kwargs: Any) -> None:
            with self._lock:
                if self._active and span.context.span_id not in self._open:
                    trace = self._traces.setdefault(span.context.trace_id, _Trace(span.name))
                    trace.open += 1
                    self._open[span.context.span_id] = trace
            original(processor, span, *args, **kwargs)

        return on_start

    def _make_on_end(self, original: Callable[..., None]) -> Callable[..., None]:
        def on_end(processor: Any, span: Any) -> None:
            span_id = span.context.span_id
            with self._lock:
                if span_id in self._dropped:
                    self._dropped.discard(span_id)
                    return
                trace = self._open.pop(span_id, None)
                if trace is not None:
                    trace.ended.append((processor, span))
                    trace.open -= 1
                    if trace.open:
                        return
                    self._traces.pop(span.context.trace_id, None)
            if trace is None:
                original(processor, span)
            elif not self._parked():
                self._let_out(trace)

        return on_end

    def _let_out(self, trace: _Trace) -> None:
        admitted = self._memory.filter(trace.name)
        for parent, span in trace.ended:
            for processor in parent._span_processors:
                exporter = getattr(processor, "span_exporter", processor)
                if _can_take_back(processor, exporter):
                    self._shown.append((exporter, span))
                elif not admitted(exporter):
                    continue
                processor.on_end(span)


def _can_take_back(processor: Any, exporter: Any) -> bool:
    simple = type(processor).__name__ == "SimpleSpanProcessor"
    return simple and all(hasattr(exporter, name) for name in ("_finished_spans", "_lock"))


def _take_back(shown: list[tuple[Any, Any]]) -> None:
    """Remove spans from the in-memory exporters they were shown to."""
    gone = {id(span) for _, span in shown}
    for exporter in {id(exporter): exporter for exporter, _ in shown}.values():
        with exporter._lock:
            kept = [span for span in exporter._finished_spans if id(span) not in gone]
            exporter._finished_spans.clear()
            exporter._finished_spans.extend(kept)

"""A parked attempt leaves no trace: one finished trace per test, no errored run.

While an attempt of a test is under way, what it tells tracing libraries is held back, and let out
or dropped once it is known whether the attempt was cut short. Four libraries are served, each only
if something else has imported it:

* **OpenTelemetry SDK**: ended spans wait until the attempt has no open span left in their trace.
* **LangChain callbacks**: the events of a root run wait until it ends.
* **OpenAI Agents SDK**: the events of a trace wait until it ends.
* **LangSmith**: runs wait until the end of the attempt.

The first three are let out as early as this because a test may assert on what it received. They are
dropped when the attempt has parked by then, for it will be repeated. A handler or exporter that
outlives the attempts of a test gets each root run once, told apart by name and ordinal; one made
inside an attempt gets all of them. An ``InMemorySpanExporter`` gets all of them too, and those of a
cut-short attempt are taken out of it again.

What cannot be suppressed, or comes otherwise than in real time:

* what a library received before it was imported at the start of an attempt (``refresh``);
* OpenTelemetry metrics and log records, ``SpanProcessor.on_start``, LangSmith feedback, and
  handlers called by anything but ``langchain_core``;
* handlers and processors see an event only when its root run or trace ends: their own clocks and
  context variables do not show the event's, and one that raises to prevent a call raises after it;
* those that must act at once (LangChain's own streaming, LangSmith's tracer, and those that write
  OpenTelemetry spans) are called at once; what they write is held back where it goes out;
* a module-level handler that a test resets at its start misses what earlier attempts brought it.
"""

from __future__ import annotations

from pytest_langasync.interception.tracing.agents import AgentTraces
from pytest_langasync.interception.tracing.base import Adapter, Memory, Parked
from pytest_langasync.interception.tracing.callbacks import Callbacks
from pytest_langasync.interception.tracing.langsmith import LangSmith
from pytest_langasync.interception.tracing.spans import Spans

__all__ = ["TraceBuffer"]


class TraceBuffer:
    """Holds back what attempts tell tracing libraries. One attempt at a time, of any threads.

    ``parked`` tells whether the attempt under way has met a call without an answer. Without an
    attempt everything passes straight through.
    """

    def __init__(self, parked: Parked) -> None:
        self._memory = Memory()
        self._installed = False
        self._adapters: tuple[Adapter, ...] = (
            Spans(parked, self._memory),
            Callbacks(parked, self._memory),
            AgentTraces(parked, self._memory),
            LangSmith(),
        )

    def install(self) -> None:
        """Patch the libraries that are imported by now."""
        self._installed = True
        self.refresh()

    def refresh(self) -> None:
        """Patch what was imported since; costs a few dictionary look-ups."""
        for adapter in self._adapters:
            if self._installed and not adapter.patches:
                adapter.patch()

    def uninstall(self) -> None:
        """Undo every patch; an attempt still open is dropped."""
        self.discard()
        self._installed = False
        for adapter in self._adapters:
            adapter.patches.undo()

    def begin(self, owner: str) -> None:
        """Start an attempt of the test ``owner`` (a node ID); an open one is dropped."""
        self.discard()
        self.refresh()
        self._memory.begin(owner)
        for adapter in self._adapters:
            adapter.begin()

    def commit(self) -> None:
        """End the attempt as final: let out all that is still held back."""
        for adapter in self._adapters:
            adapter.end(final=True)
        self._memory.forget()

    def discard(self) -> None:
        """End the attempt as parked: drop what it still holds back, and what comes late."""
        for adapter in self._adapters:
            adapter.end(final=False)

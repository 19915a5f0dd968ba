"""What the adapters to tracing libraries share: who is told at once, and who got what already."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from pytest_langasync.interception.patches import Patches

__all__ = ["LETTING_OUT", "Adapter", "Memory", "Parked", "is_live", "letting_out"]

Parked = Callable[[], bool]

_LIVE_PACKAGES = frozenset(
    {"langfuse", "langsmith", "logfire", "mlflow", "openinference", "opentelemetry"}
)
_LIVE_CLASSES = frozenset({"LangChainTracer", "_StreamingCallbackHandler"})

LETTING_OUT: ContextVar[bool] = ContextVar("langasync_letting_out", default=False)
"""True where held events are being delivered: what a handler does then goes straight through."""


@contextmanager
def letting_out() -> Iterator[None]:
    token = LETTING_OUT.set(True)
    try:
        yield
    finally:
        LETTING_OUT.reset(token)


class Adapter(Protocol):
    patches: Patches

    def patch(self) -> None: ...

    def begin(self) -> None: ...

    def end(self, *, final: bool) -> None: ...


def is_live(receiver: Any) -> bool:
    """Whether a handler or processor has to act at once: it writes elsewhere what is held back
    there, or it streams."""
    return any(
        base.__name__ in _LIVE_CLASSES or base.__module__.partition(".")[0] in _LIVE_PACKAGES
        for base in type(receiver).__mro__
    )


@dataclass
class _Got:
    receiver: weakref.ref[Any]
    before: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)


class Memory:
    """Which root runs each receiver got in earlier attempts of a test: how many of each name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = ""
        self._owners: dict[str, dict[int, _Got]] = {}

    def begin(self, owner: str) -> None:
        with self._lock:
            self._owner = owner
            for got in self._owners.get(owner, {}).values():
                got.before |= got.now
                got.now.clear()

    def forget(self) -> None:
        with self._lock:
            self._owners.pop(self._owner, None)

    def admit(self, receiver: Any, name: str) -> bool:
        """Count a root run, and return whether it is new to the receiver."""
        with self._lock:
            known = self._owners.setdefault(self._owner, {})
            got = known.get(id(receiver))
            if got is None or got.receiver() is not receiver:
                try:
                    got = known[id(receiver)] = _Got(weakref.ref(receiver))
                except TypeError:
                    return True
            got.now[name] += 1
            return got.now[name] > got.before[name]

    def filter(self, name: str) -> Callable[[Any], bool]:
        """Return a function that admits or refuses each receiver for the whole of one root run."""
        decided: dict[int, bool] = {}

        def admitted(receiver: Any) -> bool:
            if id(receiver) not in decided:
                decided[id(receiver)] = self.admit(receiver, name)
            return decided[id(receiver)]

        return admitted

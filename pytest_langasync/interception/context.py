"""Whose call is it: strands, and the attempts that they belong to.

A context variable carries the strand along, as far as contexts are copied. A thread that outlives
its attempt so keeps that attempt's strand. What runs beneath an attempt in the attempt's own thread
is its own, even in a context older than it: ``IsolatedAsyncioTestCase`` copies the context when its
instance is made, which is when the test is collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["CallContext", "ContextTracker", "caller_here", "current_task", "item_here"]

T = TypeVar("T")
caller_here: contextvars.ContextVar[CallContext | None] = contextvars.ContextVar(
    "langasync", default=None
)
item_here = threading.local()
"""``strand`` is that of the work item that a pool's thread is busy with."""


class CallContext:
    """One line of execution; ``attempt`` is whatever the engine put there."""

    __slots__ = ("__weakref__", "attempt", "has_new_answers", "parent", "parked", "task")

    def __init__(
        self, attempt: Any, parent: CallContext | None = None, *, task: bool = False
    ) -> None:
        self.attempt = attempt
        self.parent = parent
        self.task = task
        self.parked: bool = parent.parked if parent else False
        self.has_new_answers: bool = parent.has_new_answers if parent else False

    def park(self) -> None:
        """Note a park. Tasks hand it up to those who await them; threads do not, because whoever
        fills a pool goes on filling it while the first work items park."""
        caller: CallContext | None = self
        while caller is not None:
            caller.parked = True
            caller = caller.parent if caller.task else None

    def note_new_answer(self) -> None:
        """Note that an answer new in this attempt has reached this strand, and so its ancestors."""
        caller: CallContext | None = self
        while caller is not None and not caller.has_new_answers:
            caller.has_new_answers = True
            caller = caller.parent


class ContextTracker:
    """Knows the strand of what is running; ``tasks`` holds those of asyncio's tasks."""

    def __init__(self) -> None:
        self.tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], CallContext] = (
            weakref.WeakKeyDictionary()
        )
        self._here = threading.local()

    @contextlib.contextmanager
    def attempting(self, attempt: Any) -> Iterator[None]:
        """Begin the first strand of an attempt."""
        root, running = CallContext(attempt), self._here.__dict__.setdefault("running", {})
        running[root] = running_loop()
        token = caller_here.set(root)
        try:
            yield
        finally:
            caller_here.reset(token)
            del running[root]

    def current(self) -> CallContext | None:
        """Return the strand that is running now, or None outside of every attempt."""
        inherited, beneath, task = caller_here.get(), self._begun_in_this_thread(), current_task()
        if task is not None:
            parent = inherited or beneath
            return self.tasks.get(task) or (self.adopt(task, parent) if parent else None)
        item: CallContext | None = getattr(item_here, "strand", None)
        # Frameworks run a pool's work item in a copy of the submitter's context.
        if item is not None and (
            inherited is None or item.parent is inherited or item.attempt is not inherited.attempt
        ):
            return item
        if beneath is not None and (inherited is None or running_loop() is None):
            same = inherited is not None and inherited.attempt is beneath.attempt
            return inherited if same else beneath
        return inherited

    def side_by_side(self, works: Iterable[Callable[[], T]]) -> list[T]:
        """Do works one after the other that do not depend on each other: one that is parked does
        not keep the next from making its call."""
        caller = caller_here.get()
        if caller is None:
            return [work() for work in works]
        results: list[T] = []
        parked: BaseException | None = None
        for work in works:
            child = CallContext(caller.attempt, caller)
            token = caller_here.set(child)
            try:
                results.append(work())
            except BaseException as exception:
                if not child.parked or isinstance(exception, KeyboardInterrupt):
                    raise
                parked = exception
            finally:
                caller_here.reset(token)
        if parked is not None:
            caller.park()
            raise parked
        return results

    def adopt(self, task: asyncio.Task[Any], parent: CallContext) -> CallContext:
        """Take a task for a part of what ``parent`` does."""
        caller = self.tasks[task] = CallContext(parent.attempt, parent, task=True)
        return caller

    def _begun_in_this_thread(self) -> CallContext | None:
        """Return the attempt that began what this thread does now, if one did.

        None in the event loop that an attempt was begun in: others may share that.
        """
        running: dict[CallContext, Any] = getattr(self._here, "running", {})
        root, loop = next(reversed(running), None), running_loop()
        return root if root is not None and (loop is None or running[root] is not loop) else None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def current_task() -> asyncio.Task[Any] | None:
    """Return the task of asyncio's that is running, or None."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None

"""Whose call is it: call contexts, and the attempts that they belong to.

A *call context* is one line of execution inside an attempt: the attempt itself, a thread, one work
item of a thread pool, one asyncio task. Contexts form a tree, and answer three questions about a
call:

* whose is it? A context variable says so wherever Python copies contexts, so that a thread that
  outlives its attempt still belongs to it.
* is it speculative? What a context asks after it was parked is built on an answer that it never
  got.
* did it depend on an answer that is new in this attempt? Only then may the call itself be new.

Where no context was copied, the thread tells: what runs beneath an attempt in the attempt's own
thread belongs to it, even in a context older than it. ``IsolatedAsyncioTestCase`` copies the
context when its instance is made, which is when the test is collected (noticed by
``test_contexts_older_than_the_attempt``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

__all__ = ["CallContext", "ContextTracker", "caller_here", "current_task", "running_loop"]

T = TypeVar("T")
caller_here: contextvars.ContextVar[CallContext | None] = contextvars.ContextVar(
    "langasync", default=None
)


Kind = Literal["attempt", "thread", "item", "task", "part"]
"""The attempt itself, a thread, a work item of a thread pool, a task of asyncio, or a part of one
of these (see ``ContextTracker.side_by_side``)."""


class CallContext:
    """One line of execution; ``attempt`` is whatever the engine put there."""

    __slots__ = ("__weakref__", "attempt", "has_new_answers", "kind", "parent", "parked", "raised")

    def __init__(
        self, attempt: Any, parent: CallContext | None = None, kind: Kind = "part"
    ) -> None:
        self.attempt = attempt
        self.parent = parent
        self.kind = kind
        self.raised = False
        """Whether a park has been raised in it."""
        self.parked: bool = parent.parked if parent else False
        self.has_new_answers: bool = parent.has_new_answers if parent else False

    def is_within(self, other: CallContext) -> bool:
        """Whether this is another context, or a part of it."""
        caller: CallContext | None = self
        while caller is not None and caller is not other:
            caller = caller.parent
        return caller is other

    def park(self) -> None:
        """Note a park. A task hands it up to the context that awaits it. A thread does not: whoever
        fills a pool goes on filling it while the first work items park."""
        caller: CallContext | None = self
        while caller is not None:
            caller.parked = True
            caller = caller.parent if caller.kind == "task" else None

    def note_new_answer(self) -> None:
        """Note that an answer new in this attempt reached this context, and its ancestors."""
        caller: CallContext | None = self
        while caller is not None and not caller.has_new_answers:
            caller.has_new_answers = True
            caller = caller.parent


class _Thread(threading.local):
    """What a thread is busy with."""

    item: CallContext | None = None
    """The context of the thread pool's work item that runs in it."""

    def __init__(self) -> None:
        self.attempts: dict[CallContext, asyncio.AbstractEventLoop | None] = {}
        """The first context of each attempt begun in it, and the loop that ran there then."""


class ContextTracker:
    """Knows the context of what is running.

    ``tasks`` holds those of asyncio's tasks, ``thread`` what the running thread is busy with,
    ``calls`` counts the calls that were parked, or are about to be.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._process = os.getpid()
        self.tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], CallContext] = (
            weakref.WeakKeyDictionary()
        )
        self.thread = _Thread()

    @contextlib.contextmanager
    def attempting(self, attempt: Any) -> Iterator[None]:
        """Begin the first context of an attempt."""
        root, attempts = CallContext(attempt, kind="attempt"), self.thread.attempts
        attempts[root] = running_loop()
        token = caller_here.set(root)
        try:
            yield
        finally:
            caller_here.reset(token)
            del attempts[root]

    def current(self) -> CallContext | None:
        """Return the context of what is running now, or None outside of every attempt.

        A forked child knows the contexts of its parent, but its calls are its own (``forked``).
        """
        return self._current() if os.getpid() == self._process else None

    def forked(self) -> bool:
        """Whether this is a child process that was forked within an attempt."""
        return os.getpid() != self._process and self._current() is not None

    def _current(self) -> CallContext | None:
        inherited, beneath, task = caller_here.get(), self._begun_in_this_thread(), current_task()
        if task is not None:
            parent = inherited or beneath
            return self.tasks.get(task) or (self.adopt(task, parent) if parent else None)
        item = self.thread.item
        # LangChain and others run a pool's work item in a copy of the submitter's context.
        if item is not None and (inherited is None or not inherited.is_within(item)):
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
        caller = self.tasks[task] = CallContext(parent.attempt, parent, "task")
        return caller

    def _begun_in_this_thread(self) -> CallContext | None:
        """Return the attempt that began what this thread does now, if one did.

        None in the event loop that an attempt was begun in: others may share that.
        """
        attempts = self.thread.attempts
        root, loop = next(reversed(attempts), None), running_loop()
        return root if root is not None and (loop is None or attempts[root] is not loop) else None


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

"""All that an attempt can ask without waiting is asked together, and no attempt waits for ever.

Every call of an attempt that has no answer yet is bought in one wave, and a wave may last a day. So
an attempt must not end with its first park: its siblings (``chain.batch``, ``asyncio.gather``) have
to make their own calls in the same attempt. Nor may it go on for ever because what somebody waits
for was parked. This is the front of the modules that see to it:

* ``context``: whose call it is, and what it depends on;
* ``threads``: threads and thread pools;
* ``loops``: tasks in the event loops of asyncio, uvloop, nest_asyncio and trio;
* ``waiting``: who waits, and who ends waits that would never end.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from pytest_langasync.interception.context import CallContext, ContextTracker, current_task
from pytest_langasync.interception.loops import Loops
from pytest_langasync.interception.threads import Threads
from pytest_langasync.interception.waiting import Watchdog

__all__ = ["ConcurrencyTracker"]

T = TypeVar("T")


class ConcurrencyTracker:
    """Follows the threads and tasks of attempts while installed; ``uninstall`` undoes every patch.

    An attempt is any object with a boolean ``parked``; it is told by ``cut_short = True`` that
    something of it was ended before it came to its own call.
    """

    def __init__(self, parked_type: type[BaseException]) -> None:
        self._contexts = ContextTracker()
        self._watchdog = Watchdog(self._contexts, parked_type)
        self._threads = Threads(self._contexts, self._watchdog, parked_type)
        self._loops = Loops(self._contexts, self._threads, self._watchdog, parked_type)
        self._watchdog.loops = self._loops

    def install(self) -> None:
        """Start to follow threads, pools and event loops."""
        self._watchdog.install()
        self._threads.install()
        self._loops.install()

    def uninstall(self) -> None:
        """Undo every patch that is still in place."""
        self._loops.uninstall()
        self._threads.uninstall()
        self._watchdog.uninstall()

    # ---- whose call is it

    @contextlib.contextmanager
    def attempting(self, attempt: Any) -> Iterator[None]:
        """Make ``attempt`` the owner of what this context and its descendants ask."""
        self._loops.begin()
        with self._watchdog.watching(attempt), self._contexts.attempting(attempt):
            yield

    def interruptible(
        self, attempt: Any, *, gently: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """Let a parked attempt that would never end be ended, by an exception in the block.

        ``gently`` does so only where nothing of it can go on, and not because it takes long.
        """
        return self._watchdog.interruptible(attempt, gently=gently)

    def current(self) -> CallContext | None:
        """Return the context of what is running now, or None outside of every attempt."""
        return self._contexts.current()

    def forked(self) -> bool:
        """Whether this is a child process that was forked within an attempt."""
        return self._contexts.forked()

    def side_by_side(self, works: Iterable[Callable[[], T]]) -> list[T]:
        """Do works that do not depend on each other: what one is parked for joins the others'."""
        return self._contexts.side_by_side(works)

    # ---- parking

    def parked(self, message: str) -> BaseException:
        """Return the exception that parks the caller."""
        self._contexts.calls += 1
        self._watchdog.arm()
        if current_task() is not None:
            return self._loops.parked(message)
        return self._threads.parked(self._contexts.current(), message)

    async def hold(self) -> None:
        """Wait until no sibling is about to make a call."""
        await self._loops.hold()

    def bind(
        self, function: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Wrap a coroutine function for runners that keep one task for many tests."""
        return self._loops.bind(function)

    def bind_generator(
        self, function: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncGenerator[Any, None]]:
        """Do for an asynchronous generator fixture what ``bind`` does for a coroutine function."""
        return self._loops.bind_generator(function)

"""Threads, pools and tasks of an attempt: all that they can ask without waiting is asked together.

Every call of an attempt that has no answer yet is bought in one wave, and a wave may last a day. So
an attempt must not end with its first park: its siblings (``chain.batch``, ``asyncio.gather``) have
to make their own calls in the same attempt. While installed, the ``ConcurrencyTracker`` patches
threads, thread pools and event loops for that:

* a new thread, work item or task gets a call context of its own (see ``context``);
* work items keep their turn although one of them was parked, and the pool is being shut down;
* in an event loop, a call waits until no further call arrives before it parks (``hold``), and a
  loop whose main coroutine ended parked goes on until the tasks that it left behind have made
  their own calls (``settle``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pytest_langasync.config import CLOCK
from pytest_langasync.interception.context import (
    CallContext,
    ContextTracker,
    caller_here,
    current_task,
)

__all__ = ["ConcurrencyTracker"]

T = TypeVar("T")

TURN = 0.001
"""Seconds between two looks at the loop."""
QUIET_TURNS = 30
"""Looks without a new call after which siblings are taken to be complete: a busy machine, or a task
that blocks the loop, makes each look later, and lets all tasks go on before the next."""
STUCK = 5.0
"""Seconds after which a main coroutine that waits for a parked task is cancelled."""


class ConcurrencyTracker:
    """Follows the contexts of an attempt while installed; ``uninstall`` undoes every patch."""

    def __init__(self, parked_type: type[BaseException]) -> None:
        self._parked_type = parked_type
        # asyncio takes a task that ends in CancelledError for cancelled by itself: a TaskGroup
        # does not abort its siblings for it, and nobody complains about an unretrieved exception.
        self._parked_task_type: type[BaseException] = type(
            "ParkedTask", (parked_type, asyncio.CancelledError), {}
        )
        self._process = os.getpid()
        self._contexts = ContextTracker()
        self._tasks = self._contexts.tasks
        self._items: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._held: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._parked_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._arrivals = 0
        self._entered = 0
        self._originals: list[tuple[type, str, Any, Any]] = []

    # ---- whose call is it

    @contextlib.contextmanager
    def attempting(self, attempt: Any) -> Iterator[None]:
        """Make ``attempt`` the owner of what this context and its descendants ask."""
        self._parked_loops.clear()
        self._entered += 1
        try:
            with self._contexts.attempting(attempt):
                yield
        finally:
            self._entered += 1

    def current(self) -> CallContext | None:
        """Return the context of what is running now, or None outside of every attempt."""
        return self._contexts.current() if os.getpid() == self._process else None

    def forked(self) -> bool:
        """Whether this is a child process that was forked within an attempt."""
        return os.getpid() != self._process and self._contexts.current() is not None

    def side_by_side(self, works: Iterable[Callable[[], T]]) -> list[T]:
        """Do works that do not depend on each other: what one is parked for joins the others'."""
        return self._contexts.side_by_side(works)

    # ---- parking

    def parked(self, message: str) -> BaseException:
        """Return the exception that parks the caller."""
        self._arrivals += 1
        if current_task() is None:
            return self._parked_type(message)
        self._parked_loops.add(asyncio.get_running_loop())
        return self._parked_task_type(message)

    async def hold(self) -> None:
        """Wait until no sibling is about to make a call. Under trio, just give them a moment."""
        self._arrivals += 1
        task = current_task()
        if task is None:
            import anyio

            await anyio.sleep(QUIET_TURNS * TURN)
            return
        loop = asyncio.get_running_loop()
        if loop in self._parked_loops:
            return
        self._held.add(task)
        try:
            seen, left = self._arrivals, QUIET_TURNS
            await asyncio.sleep(0)
            while left and self._siblings_of_held():
                await asyncio.sleep(TURN)
                left -= 1
                if self._arrivals != seen:
                    seen, left = self._arrivals, QUIET_TURNS
            if loop not in self._parked_loops:
                self._watch(loop, self._root(task))
        finally:
            self._held.discard(task)

    def _siblings_of_held(self) -> bool:
        """Whether a task exists that neither is held nor waits for a held one."""
        waiting = {self._tasks.get(task) for task in self._held}
        ancestors: set[CallContext | None] = set()
        for caller in waiting:
            while caller is not None:
                ancestors.add(caller)
                caller = caller.parent
        return any(self._tasks.get(task) not in ancestors for task in asyncio.all_tasks())

    def _root(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        caller, top = self._tasks.get(task), task
        by_context = {self._tasks.get(other): other for other in asyncio.all_tasks()}
        while caller is not None:
            top = by_context.get(caller, top)
            caller = caller.parent
        return top

    def _watch(self, loop: asyncio.AbstractEventLoop, root: asyncio.Task[Any]) -> None:
        """Cancel a main coroutine that would wait for ever for workers that were parked."""

        entered = self._entered

        def look(seen: int) -> None:
            if root.done() or self._entered != entered:
                return
            if self._arrivals == seen:
                root.cancel()
            else:
                loop.call_later(STUCK, look, self._arrivals)

        loop.call_later(STUCK, look, self._arrivals)

    async def settle(self) -> None:
        """Let the tasks that a parked main coroutine left behind go on to their own calls."""
        me = asyncio.current_task()
        end = CLOCK.timer() + STUCK
        seen, left = self._arrivals, QUIET_TURNS
        while left and CLOCK.timer() < end:
            tasks = any(t is not me and t in self._tasks for t in asyncio.all_tasks())
            if not tasks and all(item.done() for item in self._items):
                return
            await asyncio.sleep(TURN)
            left -= 1
            if self._arrivals != seen:
                seen, left = self._arrivals, QUIET_TURNS

    def bind(
        self, function: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Wrap a coroutine function for runners that keep one task for many tests, as anyio's does.

        The task then belongs to the attempt that is running now, and a park leaves the function as
        an outcome: a cancellation would end the runner.
        """
        inherited = caller_here.get()

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self._bound(inherited):
                return await function(*args, **kwargs)

        return wrapper

    def bind_generator(
        self, function: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncGenerator[Any, None]]:
        """Do for an asynchronous generator fixture what ``bind`` does for a coroutine function."""
        inherited = caller_here.get()

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            generator = function(*args, **kwargs)
            with self._bound(inherited):
                value = await anext(generator)
            yield value
            async for extra in generator:
                yield extra

        return wrapper

    @contextlib.contextmanager
    def _bound(self, inherited: CallContext | None) -> Iterator[None]:
        task = current_task()
        if inherited is not None:
            child = inherited
            if task is not None:
                child = self._contexts.adopt(task, inherited)
            caller_here.set(child)
        try:
            yield
        except asyncio.CancelledError as exception:
            if task is not None and task.get_loop() in self._parked_loops:
                raise self._parked_type(str(exception) or "parked") from None
            raise

    # ---- patches

    def install(self) -> None:
        """Start to follow threads, pools and event loops."""
        self._patch(threading.Thread, "start", self._thread_start)
        self._patch(ThreadPoolExecutor, "submit", self._pool_submit)
        self._patch(ThreadPoolExecutor, "shutdown", self._pool_shutdown)
        self._patch(asyncio.BaseEventLoop, "run_until_complete", self._run_until_complete)

    def uninstall(self) -> None:
        """Undo every patch that is still in place."""
        for owner, name, original, replacement in reversed(self._originals):
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)
        self._originals.clear()

    def _patch(self, owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
        original = vars(owner)[name]
        replacement = functools.wraps(original)(wrap(original))
        setattr(owner, name, replacement)
        self._originals.append((owner, name, original, replacement))

    def _thread_start(self, original: Callable[..., None]) -> Callable[..., None]:
        def start(thread: threading.Thread) -> None:
            caller = self.current()
            if caller is not None:
                run, child = thread.run, CallContext(caller.attempt, caller)

                def bound() -> None:
                    del thread.run
                    caller_here.set(child)
                    # Nobody can await a bare thread: its park is no news to anyone.
                    with contextlib.suppress(self._parked_type):
                        run()

                thread.run = bound  # type: ignore[method-assign]
            original(thread)

        return start

    def _pool_submit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def submit(pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *a: Any, **k: Any) -> Any:
            caller = self.current()
            child = CallContext(caller.attempt, caller) if caller is not None else None
            thread = self._contexts.thread

            @functools.wraps(fn, updated=())
            def bound(*args: Any, **kwargs: Any) -> Any:
                previous, thread.item = thread.item, child
                token = caller_here.set(child)
                try:
                    return fn(*args, **kwargs)
                finally:
                    caller_here.reset(token)
                    thread.item = previous

            future = original(pool, bound, *a, **k)
            if caller is not None:
                self._items.add(future)
                self._make_persistent(future, caller)
            return future

        return submit

    def _make_persistent(self, future: Future[Any], caller: CallContext) -> None:
        """Let a work item have its turn although the first of its siblings was parked: whoever
        fills a pool cancels the rest when one of its items raises."""
        cancel = future.cancel

        def stay() -> bool:
            return False if caller.attempt.parked else cancel()

        future.cancel = stay  # type: ignore[method-assign]

    def _pool_shutdown(self, original: Callable[..., None]) -> Callable[..., None]:
        def shutdown(
            pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False
        ) -> None:
            caller = self.current()
            parked = caller is not None and caller.attempt.parked
            original(pool, wait, cancel_futures=cancel_futures and not parked)

        return shutdown

    def _run_until_complete(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run_until_complete(loop: asyncio.BaseEventLoop, future: Any) -> Any:
            caller = self.current()
            if caller is None:
                return original(loop, future)
            if isinstance(future, asyncio.Task) and future not in self._tasks:
                # Made before its loop ran, and maybe in another context.
                self._contexts.adopt(future, caller)
            previous = loop.get_task_factory()
            loop.set_task_factory(self._factory(previous))
            try:
                return original(loop, future)
            except asyncio.CancelledError as exception:
                if loop in self._parked_loops:
                    raise self._parked_type(str(exception) or "parked") from None
                raise
            finally:
                if loop in self._parked_loops and not loop.is_closed():
                    original(loop, self.settle())
                loop.set_task_factory(previous)

        return run_until_complete

    def _factory(self, previous: Any) -> Any:
        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> Any:
            parent = self.current()
            child = CallContext(parent.attempt, parent, task=True) if parent is not None else None
            if child is not None and kwargs.get("context") is None:
                context = contextvars.copy_context()
                context.run(caller_here.set, child)
                kwargs["context"] = context
            if previous is None:
                task = asyncio.Task(coroutine, loop=loop, **kwargs)
            else:
                task = previous(loop, coroutine, **kwargs)
            if child is not None:
                self._tasks[task] = child
                task.add_done_callback(_retrieve_for(child))
            return task

        return factory


def _retrieve_for(caller: CallContext) -> Callable[[asyncio.Task[Any]], None]:
    """Take note of what a task of a parked attempt ended with: nobody may be left to do so, and
    asyncio would complain."""

    def retrieve(task: asyncio.Task[Any]) -> None:
        if caller.attempt.parked and not task.cancelled():
            task.exception()

    return retrieve

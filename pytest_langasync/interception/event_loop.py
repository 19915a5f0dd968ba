"""The event loop in which coroutines run for synchronous code: one for the whole process.

A chain, a scorer or a judge may be a coroutine function, while its caller is synchronous: a test,
``submit_batch``, or a pass of an asynchronous job in a worker thread. An asynchronous client is
bound to the loop of its first connection, and modules keep clients: with a loop for each input,
the second input would meet a client whose loop is closed. So all of them share this loop, from
input to input, from case to case, and from job to job.

The loop has no thread of its own. The first caller runs it in its own thread, as ``asyncio.run``
would, so that what belongs to a thread (an SQLite connection, a signal handler) stays usable in
the coroutine. A thread that comes meanwhile hands its coroutine over to the thread that runs the
loop, and takes over when that one leaves first.

What this relies on in asyncio: one loop may be run by several threads one after the other, and
``asyncio.Runner`` checks only for a loop that is running in the same thread (noticed by
``test_threads_share_the_loop`` and, for uvloop, ``test_uvloop_is_shared_by_threads``). A forked
child must not touch the loop of its parent (``test_a_forked_child_has_a_loop_of_its_own``).
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["aside", "close", "finish"]

T = TypeVar("T")


class _Work:
    """A coroutine on its way through the loop, in the context of its caller."""

    def __init__(self, awaitable: Awaitable[Any], changed: threading.Condition) -> None:
        self.context = contextvars.copy_context()
        self.task: asyncio.Task[Any] | None = None
        self._awaitable = awaitable
        self._changed = changed

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    def begin(self) -> None:
        """Start as a task of the loop that another thread runs. Runs there, in our context."""
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(_await(self._awaitable))
            self.task.add_done_callback(self._tell)

    def cancel(self) -> None:
        """Cancel the task. Runs in the thread of the loop."""
        if self.task is not None:
            self.task.cancel()

    async def lead(self) -> Any:
        """Be what the thread that runs the loop waits for."""
        if self.task is None:
            self.task = asyncio.current_task()
            return await self._awaitable
        return await self.task

    def _tell(self, task: asyncio.Task[Any]) -> None:
        with self._changed:
            self._changed.notify_all()


class _SharedLoop:
    """The loop, and which thread runs it at the moment."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._runner: asyncio.Runner | None = None
        self._running = False
        self._joined = 0
        """How many coroutines other threads have handed over and still wait for."""

    def finish(self, awaitable: Awaitable[Any]) -> Any:
        if os.getpid() != self._process:
            self._begin()  # the lock and the selector are the parent's
        here = _running_loop()
        if here is None:
            return self._finish(awaitable)
        if self._runner is not None and here is self._runner.get_loop():
            # A coroutine in this loop calls synchronous code: the loop is blocked until it returns.
            return aside(lambda: asyncio.run(_await(awaitable)))
        return aside(lambda: self._finish(awaitable))

    def _finish(self, awaitable: Awaitable[Any]) -> Any:
        work = _Work(awaitable, self._changed)
        with self._changed:
            if self._running and self._runner is not None:
                self._join(work, self._runner.get_loop())
            if work.task is not None and work.done:
                return work.task.result()
            self._running = True
            if self._runner is None:
                # With a factory of its own, it does not become the thread's current loop.
                self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
                atexit.register(self.close)
            runner = self._runner
        try:
            return runner.run(work.lead(), context=work.context)
        finally:
            try:
                runner.run(self._cancel_what_is_left())
            finally:
                with self._changed:
                    self._running = False
                    self._changed.notify_all()

    def _join(self, work: _Work, loop: asyncio.AbstractEventLoop) -> None:
        """Let the thread that runs the loop do the work, until it is done or that thread leaves."""
        self._joined += 1
        try:
            loop.call_soon_threadsafe(work.begin, context=work.context)
            self._changed.wait_for(lambda: work.done or not self._running)
        except BaseException:
            loop.call_soon_threadsafe(work.cancel)
            raise
        finally:
            self._joined -= 1

    async def _cancel_what_is_left(self) -> None:
        # Counted before a task is handed over: one that is not seen here begins after this look.
        left = set() if self._joined else asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None and os.getpid() == self._process:
            atexit.unregister(self.close)
            runner.close()


_shared = _SharedLoop()


def finish(result: Any) -> Any:
    """Await what a coroutine function returned; anything else is returned as it is.

    Tasks that the coroutine leaves behind are cancelled, as by ``asyncio.run``. May be called in
    any thread, also in one in which a loop is running.

    Example:
        ``finish(chain(value))`` is the result, whether ``chain`` is a function or a coroutine
        function.
    """
    return _shared.finish(result) if inspect.isawaitable(result) else result


def close() -> None:
    """Close the loop; the next ``finish`` makes a new one."""
    _shared.close()


def aside(work: Callable[[], T]) -> T:
    """Run in this thread; where an event loop runs in it (a notebook), in a thread of its own.

    Code that calls ``asyncio.run``, as chains do, cannot run beneath a running loop.
    """
    if _running_loop() is None:
        return work()
    results: list[tuple[T | None, BaseException | None]] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results.append((context.run(work), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=run, name="langasync-pass")
    thread.start()
    thread.join()
    value, error = results[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable

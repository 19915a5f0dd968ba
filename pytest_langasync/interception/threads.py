"""Threads and thread pools of an attempt: each thread and each work item has a context of its own.

Nobody can await a bare thread, and pools differ in what they do with an exception; so each gets the
park in a form that it can carry to whoever waits:

* ``ThreadPoolExecutor`` keeps any exception for the future. While the attempt is parked its items
  are not cancelled: whoever fills a pool cancels the rest when one of its items raises.
* ``multiprocessing.pool.ThreadPool`` carries an ``Exception`` only; anything else ends the worker
  and leaves the result open for ever. It also works through its input in chunks, of which an
  exception drops the rest: each input is an item here (``test_pools_ask_everything_at_once``).
* A bare thread gets an ``Exception`` at its first park: threads that feed a queue catch that, and
  tell whoever reads the queue. At its second, which is a loop that tries again, one that such a
  loop lets pass.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.pool
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pytest_langasync.config import CLOCK
from pytest_langasync.interception.context import CallContext, ContextTracker, caller_here
from pytest_langasync.interception.patches import Patches
from pytest_langasync.interception.waiting import STUCK, Watchdog

__all__ = ["Threads"]

POOLS = ("concurrent.futures.thread", "multiprocessing.pool")
"""Modules whose threads do nothing but run work items."""

PLACE_OF_CHUNKSIZE = {"apply_async": None, "_map_async": 2, "imap": 1, "imap_unordered": 1}
"""Methods of ``multiprocessing.pool.ThreadPool`` that take a function, and the place of their
``chunksize`` among the arguments after it."""


class Threads:
    """Gives contexts to threads and work items while installed."""

    def __init__(
        self, contexts: ContextTracker, watchdog: Watchdog, parked_type: type[BaseException]
    ) -> None:
        self._contexts = contexts
        self._watchdog = watchdog
        self._parked_type = parked_type
        self.parked_exception: type[BaseException] = type(
            "ParkedThread", (parked_type, Exception), {}
        )
        self._patches = Patches()
        self._items: weakref.WeakSet[Future[Any]] = weakref.WeakSet()

    def install(self) -> None:
        """Start to follow threads and pools."""
        self._patches.put(threading.Thread, "start", self._make_start)
        self._patches.put(ThreadPoolExecutor, "submit", self._make_submit)
        self._patches.put(ThreadPoolExecutor, "shutdown", self._make_shutdown)
        pool = multiprocessing.pool.ThreadPool
        for name, place in PLACE_OF_CHUNKSIZE.items():
            self._patches.put(pool, name, functools.partial(self._make_pooled, place))
        self._patches.put(pool, "terminate", self._make_terminate)

    def uninstall(self) -> None:
        """Undo every patch."""
        self._patches.undo()

    def idle(self) -> bool:
        """Whether all work items of executors are done."""
        return all(item.done() for item in self._items)

    def parked(self, context: CallContext | None, message: str) -> BaseException:
        """Return the exception that parks a caller outside of asyncio."""
        bare = context is not None and context.kind == "thread" and not context.raised
        if context is not None:
            context.raised = True
        return (self.parked_exception if bare else self._parked_type)(message)

    def _make_start(self, original: Callable[..., None]) -> Callable[..., None]:
        def start(thread: threading.Thread) -> None:
            caller = self._contexts.current()
            if caller is not None:
                self._follow(thread, CallContext(caller.attempt, caller, "thread"))
            original(thread)

        return start

    def _follow(self, thread: threading.Thread, context: CallContext) -> None:
        run = thread.run
        worker = getattr(getattr(thread, "_target", None), "__module__", None) in POOLS
        if not worker:
            self._watchdog.expect(context)
        if not thread.daemon:
            self._watchdog.end_at_exit()

        def bound() -> None:
            del thread.run
            caller_here.set(context)
            with contextlib.ExitStack() as stack:
                # Nobody can await a bare thread: its park is no news to anyone.
                stack.enter_context(contextlib.suppress(self._parked_type))
                if not worker:
                    stack.enter_context(self._watchdog.busy(context))
                run()

        thread.run = bound  # type: ignore[method-assign]

    @contextlib.contextmanager
    def _as_item(self, context: CallContext | None) -> Iterator[None]:
        """Run the block as a work item of this pool's thread."""
        thread = self._contexts.thread
        previous, thread.item = thread.item, context
        token = caller_here.set(context)
        try:
            if context is None:
                yield
            else:
                with self._watchdog.busy(context):
                    yield
        finally:
            caller_here.reset(token)
            thread.item = previous

    # ---- concurrent.futures

    def _make_submit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def submit(pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *a: Any, **k: Any) -> Any:
            caller = self._contexts.current()
            child = CallContext(caller.attempt, caller, "item") if caller is not None else None

            @functools.wraps(fn, updated=())
            def bound(*args: Any, **kwargs: Any) -> Any:
                with self._as_item(child):
                    return fn(*args, **kwargs)

            future = original(pool, bound, *a, **k)
            if caller is not None:
                self._items.add(future)
                _keep_while_parked(future, caller)
            return future

        return submit

    def _make_shutdown(self, original: Callable[..., None]) -> Callable[..., None]:
        def shutdown(
            pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False
        ) -> None:
            original(pool, wait, cancel_futures=cancel_futures and not self._in_parked_attempt())

        return shutdown

    def _in_parked_attempt(self) -> bool:
        caller = self._contexts.current()
        return caller is not None and caller.attempt.parked

    # ---- multiprocessing.pool

    def _make_pooled(self, place: int | None, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method that takes a function, and maybe a chunk size."""

        def pooled(pool: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            caller = self._contexts.current()
            if caller is None:
                return original(pool, func, *args, **kwargs)
            if place is not None and len(args) > place:
                args = (*args[:place], 1, *args[place + 1 :])
            elif place is not None:
                kwargs["chunksize"] = 1
            return original(pool, self._item_of(caller, func), *args, **kwargs)

        return pooled

    def _item_of(self, caller: CallContext, function: Callable[..., Any]) -> Callable[..., Any]:
        def item(*args: Any, **kwargs: Any) -> Any:
            with self._as_item(CallContext(caller.attempt, caller, "item")):
                try:
                    return function(*args, **kwargs)
                except self._parked_type as parked:
                    raise self.parked_exception(str(parked)) from None

        return item

    def _make_terminate(self, original: Callable[..., None]) -> Callable[..., None]:
        def terminate(pool: Any) -> None:
            """Let a pool's items have their turn: ``with`` ends it when the first was parked."""
            if self._in_parked_attempt():
                calls, end = self._contexts.calls, CLOCK.timer() + STUCK
                while pool._cache and CLOCK.timer() < end:
                    time.sleep(0.001)
                    if calls != self._contexts.calls:
                        calls, end = self._contexts.calls, CLOCK.timer() + STUCK
            original(pool)

        return terminate


def _keep_while_parked(future: Future[Any], caller: CallContext) -> None:
    cancel = future.cancel

    def stay() -> bool:
        return False if caller.attempt.parked else cancel()

    future.cancel = stay  # type: ignore[method-assign]

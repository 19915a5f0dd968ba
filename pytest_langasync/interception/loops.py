"""Tasks of an attempt in event loops: siblings make their calls together, and none waits for ever.

A parked call ends its task, and mostly the attempt with it. Three cares bring the siblings' calls
into the same wave (figures from 300 tests of ``asyncio.gather`` and a semaphore of 3 over 20 calls:
four waves without them, two with them, of which the second holds dependent calls only):

* a call waits until no further call arrives before it parks (``hold``);
* a loop whose main coroutine ended parked goes on until the tasks that it left behind have made
  their own calls (``settle``);
* the exception that parks a task is a ``CancelledError``, which asyncio takes for the task's own
  cancellation: a ``TaskGroup`` does not abort its siblings for it.

A main coroutine may wait for a task that was parked, by a queue, an event or a future. When none of
its attempt's tasks can go on by itself, it is cancelled at once; while one sleeps or waits for the
network, with the patience of ``waiting``.

This relies on inner behaviour in these places:

* asyncio: all ways to run a loop end in ``run_until_complete`` of its class, which is replaced in
  ``BaseEventLoop``, in ``uvloop.Loop`` and in what ``nest_asyncio`` patches
  (``test_siblings``, ``test_in_a_loop_that_nest_asyncio_has_patched``). A task's ``_fut_waiter``
  is what it waits for, and ``cr_await`` leads from a coroutine to the one that it waits for
  (``test_siblings[an_actor-*]``).
* trio and anyio: a nursery or task group cancels its other tasks when one raises, also those that
  wait for a semaphore; so a task that it started lets its park out late (``test_trio_siblings``,
  ``test_siblings[anyio_limiter-*]``). Trio's ``wait_all_tasks_blocked`` returns when nothing has
  run for a while.
* anyio's pytest plugin keeps one task for many tests (``test_asynchronous_ones``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import CodeType
from typing import Any

from pytest_langasync.config import CLOCK
from pytest_langasync.interception.context import (
    CallContext,
    ContextTracker,
    caller_here,
    current_task,
)
from pytest_langasync.interception.patches import ImportWatcher, Patches
from pytest_langasync.interception.threads import Threads
from pytest_langasync.interception.waiting import NETWORK, STUCK, Watchdog, is_network

__all__ = ["Loops"]

TURN = 0.001
"""Seconds between two looks at the loop."""
QUIET_TURNS = 30
"""Looks without a new call after which siblings are taken to be complete: a busy machine, or a task
that blocks the loop, makes each look later, and lets all tasks go on before the next."""
ANYIO_NETWORK = frozenset({
    "receive", "send", "send_eof", "accept", "connect_tcp", "connect_unix", "getaddrinfo",
    "getnameinfo", "wait_readable", "wait_writable", "run_sync_in_worker_thread",
})  # fmt: skip
"""Functions of anyio's backends that wait for the network or for a thread."""
ASYNCIO_NETWORK = (
    "/streams.py", "/base_events.py", "/selector_events.py", "/proactor_events.py", "/sslproto.py",
    "/base_subprocess.py",
)  # fmt: skip
"""Modules of asyncio that wait for the network or for a process."""
LOOK = 0.02
"""Seconds between two looks at a main coroutine that goes on although a call was parked."""
TURNING = 1.0
"""Seconds without such a look after which a loop counts as blocked by what runs in it."""
CALM = 2
"""Looks in a row at which nothing can go on by itself, after which the main coroutine is ended."""

MONOTONIC = time.monotonic
"""The clock of asyncio's loops, as long as no test has frozen it."""
Loop = asyncio.AbstractEventLoop
Task = asyncio.Task[Any]


class Loops:
    """Follows the tasks of attempts while installed."""

    def __init__(
        self,
        contexts: ContextTracker,
        threads: Threads,
        watchdog: Watchdog,
        parked_type: type[BaseException],
    ) -> None:
        self._contexts = contexts
        self._threads = threads
        self._watchdog = watchdog
        self._parked_type = parked_type
        self._parked_task_type: type[BaseException] = type(
            "ParkedTask", (parked_type, asyncio.CancelledError), {}
        )
        self._held: weakref.WeakSet[Task] = weakref.WeakSet()
        self._parked_loops: weakref.WeakSet[Loop] = weakref.WeakSet()
        self._running: dict[Loop, _Running] = {}
        self._patches = Patches()
        self._patched: set[str] = set()
        self._watcher = ImportWatcher(tuple(self._libraries()), lambda module: self.refresh())

    # ---- life

    def install(self) -> None:
        """Start to follow event loops; those of other libraries as soon as they are imported."""
        self.refresh()
        sys.meta_path.insert(0, self._watcher)

    def uninstall(self) -> None:
        """Undo every patch."""
        if self._watcher in sys.meta_path:
            sys.meta_path.remove(self._watcher)
        self._patches.undo()
        self._patched.clear()

    def begin(self) -> None:
        """Begin an attempt."""
        self._parked_loops.clear()

    def refresh(self) -> None:
        """Patch the loops and libraries that are there by now."""
        for owner in _with_subclasses(asyncio.BaseEventLoop):
            self._patch_loop(owner)
        for name, patch in self._libraries().items():
            module = sys.modules.get(name)
            if module is not None and name not in self._patched:
                self._patched.add(name)
                # A module of the user's may have the same name, and a later version another shape.
                with contextlib.suppress(AttributeError):
                    patch(module)

    def _libraries(self) -> dict[str, Callable[[Any], None]]:
        return {
            "uvloop": lambda uvloop: self._patch_loop(uvloop.Loop),
            "nest_asyncio": self._patch_nest,
            "trio": self._patch_trio,
            "anyio._backends._asyncio": self._patch_anyio,
        }

    def _patch_loop(self, owner: Any) -> None:
        if not hasattr(owner.run_until_complete, "langasync"):
            self._patches.put(owner, "run_until_complete", self._make_run)
            owner.run_until_complete.langasync = True

    # ---- parking

    def parked(self, message: str) -> BaseException:
        """Return the exception that parks the running task."""
        loop = asyncio.get_running_loop()
        self._parked_loops.add(loop)
        self.look_after(loop)
        return self._parked_task_type(message)

    async def hold(self) -> None:
        """Wait until no sibling is about to make a call."""
        self._contexts.calls += 1
        task = current_task()
        if task is None:
            await self._hold_elsewhere()
            return
        if asyncio.get_running_loop() in self._parked_loops:
            return
        self._held.add(task)
        try:
            await asyncio.sleep(0)
            await self._quiet(lambda: not self._siblings_of_held())
        finally:
            self._held.discard(task)

    async def _quiet(self, done: Callable[[], bool]) -> bool:
        """Wait until no call has come for a while; return whether it was done before."""
        end = CLOCK.timer() + STUCK
        seen, left = self._contexts.calls, QUIET_TURNS
        while left and CLOCK.timer() < end:
            if done():
                return True
            await _turn()
            left -= 1
            if self._contexts.calls != seen:
                seen, left = self._contexts.calls, QUIET_TURNS
        return False

    def _siblings_of_held(self) -> bool:
        """Whether a task exists that neither is held nor waits for a held one."""
        tasks = self._contexts.tasks
        ancestors: set[CallContext | None] = set()
        for task in self._held:
            caller = tasks.get(task)
            while caller is not None:
                ancestors.add(caller)
                caller = caller.parent
        return any(tasks.get(task) not in ancestors for task in asyncio.all_tasks())

    async def _hold_elsewhere(self) -> None:
        """``hold`` under trio, whose tasks cannot be told apart by what they wait for."""
        import trio.testing

        seen = None
        while seen != self._contexts.calls:
            seen = self._contexts.calls
            await trio.testing.wait_all_tasks_blocked(QUIET_TURNS * TURN)

    async def settle(self, attempt: Any) -> None:
        """Let the tasks that a parked main coroutine left behind go on to their own calls."""
        running = self._running.get(asyncio.get_running_loop())
        outer = {asyncio.current_task(), *(running.beneath() if running is not None else ())}

        def done() -> bool:
            return set(self._tasks_of(attempt)) <= outer and self._threads.idle()

        if not await self._quiet(done):
            attempt.cut_short = True

    def _tasks_of(self, attempt: Any, loop: Loop | None = None) -> list[Task]:
        tasks = self._contexts.tasks
        return [t for t in asyncio.all_tasks(loop) if t in tasks and tasks[t].attempt is attempt]

    # ---- a main coroutine that waits for what was parked

    def looks_after(self, thread: int) -> bool:
        """Whether a loop runs in this thread that ends its own waits; it begins to, if so."""
        for running in list(self._running.values()):
            if running.thread == thread:
                if not running.watched:
                    with contextlib.suppress(RuntimeError):  # closed meanwhile
                        running.loop.call_soon_threadsafe(self.look_after, running.loop)
                return CLOCK.timer() - running.looked_at < TURNING
        return False

    def look_after(self, loop: Loop) -> None:
        """Begin to end the waits of a loop. Runs in its thread."""
        running = self._running.get(loop)
        if running is not None and not running.watched:
            running.watched = True
            self._look(running)

    def _look(self, running: _Running) -> None:
        """Look at the main coroutine of a loop, from within, until it ends."""
        if self._running.get(running.loop) is not running:
            return
        running.looked_at = CLOCK.timer()
        if running.attempt.parked and self._is_stuck(running, running.looked_at):
            running.attempt.cut_short = True
            # A work item that it waits for brings the park along.
            if not self._watchdog.end_items(running.attempt) or running.told:
                running.mains[-1][0].cancel()
            running.told = True
        running.loop.call_later(LOOK, self._look, running)

    def _is_stuck(self, running: _Running, now: float) -> bool:
        if running.calls != self._contexts.calls:
            running.calls, running.called_at, running.calm = self._contexts.calls, now, 0
            return False
        patience = self._patience(running)
        running.calm = 0 if patience else running.calm + 1
        if running.calm >= CALM or (patience and now - running.called_at >= patience):
            running.called_at, running.calm = now, 0
            return True
        return False

    def _patience(self, running: _Running) -> float:
        """Return how long to wait for what goes on in a loop, without a new call; 0 for nothing."""
        if self._held:
            return STUCK
        tasks = set(self._tasks_of(running.attempt, running.loop)) - running.beneath()
        others = self._watchdog.others(running.attempt, running.thread)
        return max([others, *map(_patience, tasks)])

    # ---- runners that keep one task for many tests

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
        child = inherited
        if inherited is not None:
            if task is not None:
                child = self._contexts.adopt(task, inherited)
            caller_here.set(child)
        try:
            with self._main(task):
                yield
        except asyncio.CancelledError as exception:
            if task is not None and task.get_loop() in self._parked_loops:
                while task.cancelling():  # by us; the runner goes on with this task
                    task.uncancel()
                raise self._parked_type(str(exception) or "parked") from None
            raise

    @contextlib.contextmanager
    def _main(self, task: Task | None, beneath: Task | None = None) -> Iterator[None]:
        """Note that a task is what the loop is run for, and which task of it runs it again."""
        context = None if task is None else self._contexts.tasks.get(task)
        if task is None or context is None:
            yield
            return
        loop = task.get_loop()
        running = self._running.setdefault(loop, _Running(loop, context.attempt))
        running.mains.append((task, beneath))
        try:
            yield
        finally:
            running.mains.remove((task, beneath))
            if not running.mains:
                del self._running[loop]

    # ---- patches

    def _patch_nest(self, nest_asyncio: Any) -> None:
        def make(original: Callable[[Loop], None]) -> Callable[[Loop], None]:
            def patch_loop(loop: Loop) -> None:
                original(loop)
                self.refresh()

            return patch_loop

        self._patches.put(nest_asyncio, "_patch_loop", make)

    def _make_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run_until_complete(loop: asyncio.BaseEventLoop, future: Any) -> Any:
            caller = self._contexts.current()
            if caller is None:
                return original(loop, future)
            previous = loop.get_task_factory()
            loop.set_task_factory(self._factory(previous))
            outer = current_task()
            try:
                if asyncio.iscoroutine(future):
                    future = loop.create_task(future)
                if isinstance(future, asyncio.Task) and future not in self._contexts.tasks:
                    # Made before its loop ran, and maybe in another context.
                    self._contexts.adopt(future, caller)
                with self._main(future if isinstance(future, asyncio.Task) else None, outer):
                    return original(loop, future)
            except asyncio.CancelledError as exception:
                if loop in self._parked_loops:
                    raise self._parked_type(str(exception) or "parked") from None
                raise
            finally:
                if caller.attempt.parked and not loop.is_closed():
                    original(loop, self.settle(caller.attempt))
                loop.set_task_factory(previous)

        return run_until_complete

    def _factory(self, previous: Any) -> Any:
        def factory(loop: Loop, coroutine: Any, **kwargs: Any) -> Any:
            parent = self._contexts.current()
            child = CallContext(parent.attempt, parent, "task") if parent is not None else None
            if child is not None and kwargs.get("context") is None:
                context = contextvars.copy_context()
                context.run(caller_here.set, child)
                kwargs["context"] = context
            if previous is None:
                task = asyncio.Task(coroutine, loop=loop, **kwargs)
            else:
                task = previous(loop, coroutine, **kwargs)
            if child is not None:
                self._contexts.tasks[task] = child
                task.add_done_callback(_retrieve_for(child))
            return task

        return factory

    def _patch_trio(self, trio: Any) -> None:
        self._patches.put(trio.Nursery, "start_soon", self._make_start_soon)

    def _patch_anyio(self, backend: Any) -> None:
        if hasattr(backend.TaskGroup, "create_task"):  # since 4.14 start_soon makes use of it
            self._patches.put(backend.TaskGroup, "create_task", self._make_create_task)
        else:
            self._patches.put(backend.TaskGroup, "start_soon", self._make_start_soon)

    def _make_create_task(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def create_task(group: Any, coroutine: Any, **kwargs: Any) -> Any:
            if self._contexts.current() is None or not asyncio.iscoroutine(coroutine):
                return original(group, coroutine, **kwargs)
            delayed: Any = self._delayed(coroutine)
            delayed.__qualname__ = getattr(coroutine, "__qualname__", delayed.__qualname__)
            return original(group, delayed, **kwargs)

        return create_task

    def _make_start_soon(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start_soon(group: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            parent = self._contexts.current()
            if parent is None:
                return original(group, function, *args, **kwargs)
            context = CallContext(parent.attempt, parent, "task")

            @functools.wraps(function)
            async def child(*args: Any) -> Any:
                if current_task() is None:  # trio's tasks are known by their context variables
                    caller_here.set(context)
                return await self._delayed(function(*args))

            return original(group, child, *args, **kwargs)

        return start_soon

    async def _delayed(self, coroutine: Any) -> Any:
        """Await a coroutine, and let its park out only when its siblings have asked, too."""
        try:
            return await coroutine
        except self._parked_type:
            task = current_task()
            if task is None:
                await self._hold_elsewhere()
                raise
            self._held.add(task)
            try:
                await self._quiet(lambda: False)
            finally:
                self._held.discard(task)
            raise


class _Running:
    """A loop that runs for an attempt."""

    def __init__(self, loop: Loop, attempt: Any) -> None:
        self.loop = loop
        self.attempt = attempt
        self.thread = threading.get_ident()
        self.mains: list[tuple[Task, Task | None]] = []
        """What it is run for, the innermost last: with ``nest_asyncio``, a task can run its loop
        again, and stands next to what it waits for."""
        self.watched = self.told = False
        self.looked_at = self.called_at = CLOCK.timer()
        self.calls = -1
        self.calm = 0

    def beneath(self) -> set[Task | None]:
        """Return the tasks that wait, on the stack, for the loop to end."""
        return {task for _, task in self.mains}


async def _turn() -> None:
    """Let the loop turn for a moment, also where a test has frozen its clock (freezegun): none of
    its timers ever ends then."""
    if time.monotonic is MONOTONIC:
        await asyncio.sleep(TURN)
    else:
        time.sleep(TURN)
        await asyncio.sleep(0)


def _retrieve_for(caller: CallContext) -> Callable[[Task], None]:
    """Take note of what a task of a parked attempt ended with: nobody may be left to do so, and
    asyncio would complain."""

    def retrieve(task: Task) -> None:
        if caller.attempt.parked and not task.cancelled():
            task.exception()

    return retrieve


def _with_subclasses(owner: type) -> Iterator[type]:
    """Yield a class, and those beneath it that run a loop in their own way."""
    yield owner
    below: type
    for below in owner.__subclasses__():
        for one in _with_subclasses(below):
            if "run_until_complete" in vars(one):
                yield one


# ---- what a task waits for


def _patience(task: Task) -> float:
    """Return how long to wait for what a task does: 0 where only another task can let it go on."""
    if task.done():
        return 0.0
    if getattr(task, "_fut_waiter", None) is None:
        return STUCK  # it is about to run
    codes = list(_codes(task.get_coro()))
    if any(map(_is_network, codes)):
        return NETWORK
    if codes and codes[-1] is asyncio.sleep.__code__:
        return STUCK
    return 0.0


def _codes(coroutine: Any) -> Iterator[CodeType]:
    """Yield the code of a coroutine, of the one that it waits for, and so on."""
    while coroutine is not None:
        for kind in ("cr", "gi", "ag"):
            code = getattr(coroutine, f"{kind}_code", None)
            if code is not None:
                yield code
                inner = "gi_yieldfrom" if kind == "gi" else f"{kind}_await"
                coroutine = getattr(coroutine, inner, None)
                break
        else:
            # The step of an asynchronous generator does not name its generator.
            coroutine = next(filter(inspect.isasyncgen, gc.get_referents(coroutine)), None)


def _is_network(code: CodeType) -> bool:
    path = code.co_filename.replace("\\", "/")
    if "/anyio/_backends/" in path:
        return code.co_name in ANYIO_NETWORK
    if "/asyncio/" in path:
        return code.co_name != "shutdown_default_executor" and path.endswith(ASYNCIO_NETWORK)
    return is_network(path)

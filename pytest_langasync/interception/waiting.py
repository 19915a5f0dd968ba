"""No attempt waits for ever for what was parked: the waits of its threads, and who ends them.

A park ends the thread, work item or task that made the call. Whoever waits for what it would have
brought (an item in a queue, an event, a result) would wait for ever, and with it the run. So while
an attempt is under way the waits of its threads are known, and a watchdog thread looks at an
attempt that was parked and is still running. It ends the attempt by raising the park where it
waits:

* after ``GRACE`` seconds, when all threads of the attempt wait for each other;
* after ``STUCK`` seconds without a new call, when one of them sleeps or computes: it may be a loop
  that polls;
* after ``NETWORK`` seconds without a new call, when one of them waits for the network or for
  another process.

What the attempt would have asked later, had it gone on, it asks in its next attempt.

This relies on inner behaviour of Python in four places:

* ``threading.Condition.wait``, which is what waits in all of ``threading``, ``queue`` and
  ``concurrent.futures``, is written anew with the condition's own ``_waiters``, ``_release_save``,
  ``_acquire_restore`` and ``_is_owned`` (noticed by ``test_a_known_wait_is_a_wait``);
* ``Thread.join`` waits in C; it is called in slices (``test_joins``);
* a thread that neither waits in one of these ways nor returns (in a lock, in a
  ``queue.SimpleQueue``, in a loop that polls) is interrupted: the main thread by a signal, whose
  handler raises the park (``test_waits_that_python_does_not_see``); any other by
  ``PyThreadState_SetAsyncExc``, which ends a loop, but cannot end a wait in C;
* at the end of the process, ``threading`` joins all threads that are no daemons; those that still
  wait are ended before (``threading._register_atexit``, ``test_the_process_ends``).

A loop of asyncio's looks after its own tasks (see ``loops``).

Measured: a wait costs 1 µs more in threads that belong to no attempt, 6 µs in those that do; a
parked attempt costs 33 µs with all of this.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol

from pytest_langasync.config import CLOCK
from pytest_langasync.interception.context import CallContext, ContextTracker
from pytest_langasync.interception.patches import Patches

__all__ = ["GRACE", "NETWORK", "STUCK", "Watchdog", "is_network"]

LOOK = 0.05
"""Seconds between two looks at an attempt that was parked and is still running."""
GRACE = 0.25
"""Seconds for which all of an attempt has to wait before its wait counts as endless: somebody who
does not belong to the attempt may be about to end it."""
STUCK = 5.0
"""Seconds without a new call after which an attempt is ended although something of it runs."""
NETWORK = 60.0
"""The same where something of it waits for the network or for a process."""

NETWORKING = (
    "/socket.py", "/ssl.py", "/subprocess.py", "/http/client.py", "/httpcore/",
    "/httpcore2/", "/aiohttp/", "/urllib3/", "/websockets/", "/grpc/", "/asyncpg/",
)  # fmt: skip
"""Parts of the paths of code that waits for the network or for a process."""

OURS = ("engine", "cache", "costs", "providers", "lanes", "interception.clients")
"""Our own modules in which no exception may come out of nowhere: they write what is paid for."""


def is_network(path: str) -> bool:
    """Whether code of this file waits for the network or for a process."""
    normal = path.replace("\\", "/")
    return any(part in normal for part in NETWORKING)


class LoopWatch(Protocol):
    """What the watchdog has to know of event loops."""

    def looks_after(self, thread: int) -> bool:
        """Whether a loop runs in this thread that ends its own waits; it begins to, if so."""


class _Wait:
    """A thread that waits. A condition releases it like the lock that it uses itself."""

    __slots__ = ("context", "interrupted", "lock", "thread", "timed")

    def __init__(self, context: CallContext, *, timed: bool) -> None:
        self.context = context
        self.timed = timed
        self.thread = threading.get_ident()
        self.interrupted = False
        self.lock = threading.Lock()
        self.lock.acquire()

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # interrupted and notified at the same time
            self.lock.release()

    def interrupt(self) -> None:
        self.interrupted = True
        self.release()


class _UnderWay:
    """An attempt that is running. ``thread`` identifies the thread that it began in."""

    def __init__(self, attempt: Any, calls: int) -> None:
        self.attempt = attempt
        self.thread = threading.get_ident()
        self.busy: dict[CallContext, int | None] = {}
        """Its other threads and its work items, and the thread that each runs in."""
        self.depth = 0
        """How many blocks of ``interruptible`` it is in."""
        self.gently = False
        self.calls = calls
        self.called_at = CLOCK.timer()
        self.calm_since: float | None = None
        self.ended = False
        """Whether it has been told to end."""
        self.raised = False
        """Whether an exception is on its way into its thread."""


class Watchdog:
    """Knows who waits, and ends what would never end."""

    def __init__(self, contexts: ContextTracker, parked_type: type[BaseException]) -> None:
        self.loops: LoopWatch | None = None
        self._contexts = contexts
        self._parked_type = parked_type
        self._patches = Patches()
        self._waits: set[_Wait] = set()
        self._under_way: dict[Any, _UnderWay] = {}
        self._over: weakref.WeakSet[Any] = weakref.WeakSet()
        """Attempts that have ended parked: their work items wait for nothing any more."""
        self._armed = threading.Event()
        self._stop = threading.Event()
        self._at_exit = False
        self._wanted: _UnderWay | None = None

    # ---- life

    def install(self) -> None:
        """Begin to know waits, and to watch."""
        self._stop = threading.Event()
        self._patches.put(threading.Condition, "wait", self._make_wait)
        self._patches.put(threading.Thread, "join", self._make_join)
        threading.Thread(
            target=self._watch, args=(self._stop,), name="langasync-watchdog", daemon=True
        ).start()
        # SIGURG is ignored by whoever does not expect it, and hardly ever used.
        if _in_main_thread() and _handler() in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(signal.SIGURG, self._on_signal)

    def uninstall(self) -> None:
        """Stop; waits that are known already stay so."""
        if _in_main_thread() and self._has_signal():
            signal.signal(signal.SIGURG, signal.SIG_DFL)
        self._stop.set()
        self._armed.set()
        self._patches.undo()

    @contextlib.contextmanager
    def watching(self, attempt: Any) -> Iterator[None]:
        """Watch an attempt that begins in this thread."""
        self._under_way[attempt] = _UnderWay(attempt, self._contexts.calls)
        try:
            with self._ctrl_c_kept(attempt):
                yield
        finally:
            del self._under_way[attempt]
            if attempt.parked:
                self._over.add(attempt)
                self.end_items(attempt)

    @contextlib.contextmanager
    def interruptible(self, attempt: Any, *, gently: bool = False) -> Iterator[None]:
        """Let the watchdog raise the park in this thread, inside the block only.

        ``gently`` leaves alone what computes, sleeps or uses the network, however long: a teardown
        that is cut short leaves something behind.
        """
        one = self._under_way.get(attempt)
        if one is None or one.thread != threading.get_ident():
            yield
            return
        one.depth += 1
        before, one.gently = one.gently, gently
        try:
            yield
        finally:
            one.depth -= 1
            one.gently = before
            if one.raised:  # it may not have come through yet
                one.raised = False
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(one.thread), None)

    @contextlib.contextmanager
    def _ctrl_c_kept(self, attempt: Any) -> Iterator[None]:
        """Give Ctrl-C back: a library that takes it for itself gives it back only when it is not
        interrupted."""
        if not _in_main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        try:
            yield
        finally:
            if attempt.parked and before not in (None, signal.getsignal(signal.SIGINT)):
                signal.signal(signal.SIGINT, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        one, self._wanted = self._wanted, None
        if one is not None and one.depth and not _in_our_code(frame):
            raise self._parked_type("parked")

    # ---- what the threads of an attempt do

    @contextlib.contextmanager
    def busy(self, context: CallContext) -> Iterator[None]:
        """Note that a thread or work item of an attempt runs in this thread."""
        one = self._under_way.get(context.attempt)
        if one is not None:
            one.busy[context] = threading.get_ident()
        try:
            yield
        finally:
            if one is not None:
                one.busy.pop(context, None)

    def expect(self, context: CallContext) -> None:
        """Note that a thread of an attempt is about to start."""
        one = self._under_way.get(context.attempt)
        if one is not None:
            one.busy[context] = None

    def end_at_exit(self) -> None:
        """End all known waits before the interpreter joins the threads that are no daemons."""
        register = getattr(threading, "_register_atexit", None)
        if register is not None and not self._at_exit:
            self._at_exit = True
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down already
                register(self._end_all)

    def _end_all(self) -> None:
        for wait in list(self._waits):
            wait.interrupt()

    def arm(self) -> None:
        """Look after attempts that are parked: one has just been."""
        self._armed.set()

    def end_items(self, attempt: Any) -> int:
        """Raise the park in the work items of an attempt that wait; return how many there are."""
        waits = [wait for wait in list(self._waits) if wait.context.attempt is attempt]
        items = [wait for wait in waits if _in_work_item(wait.context)]
        for wait in items:
            wait.interrupt()
        return len(items)

    def others(self, attempt: Any, thread: int) -> float:
        """Return how long to wait for what other threads of an attempt do: 0 where all wait."""
        one = self._under_way.get(attempt)
        return _patience(self._moving(one) - {thread}) if one is not None else 0.0

    # ---- known waits

    @contextlib.contextmanager
    def _known(self, wait: _Wait) -> Iterator[None]:
        self._waits.add(wait)
        try:
            yield
        finally:
            self._waits.discard(wait)

    def _refuse(self, context: CallContext) -> None:
        """Raise where a work item of an attempt that is over begins to wait."""
        if context.attempt in self._over and _in_work_item(context):
            raise self._parked_type("parked")

    def _make_wait(self, original: Callable[..., bool]) -> Callable[..., bool]:
        def wait(condition: Any, timeout: float | None = None) -> bool:
            context = self._contexts.current()
            at_once = timeout is not None and timeout <= 0
            if context is None or at_once or not condition._is_owned():
                return original(condition, timeout)
            self._refuse(context)
            one = _Wait(context, timed=timeout is not None)
            condition._waiters.append(one)
            state = condition._release_save()
            notified = False
            try:
                with self._known(one):
                    notified = one.lock.acquire(True, -1 if timeout is None else timeout)
            finally:
                condition._acquire_restore(state)
                told = one not in condition._waiters
                if not told:
                    condition._waiters.remove(one)
            if one.interrupted:
                if told:  # somebody else has to have what this thread was told of
                    condition.notify()
                raise self._parked_type("parked")
            return notified

        return wait

    def _make_join(self, original: Callable[..., None]) -> Callable[..., None]:
        def join(thread: threading.Thread, timeout: float | None = None) -> None:
            context = self._contexts.current()
            if context is None or (timeout is not None and timeout <= 0):
                return original(thread, timeout)
            self._refuse(context)
            one = _Wait(context, timed=timeout is not None)
            end = None if timeout is None else CLOCK.timer() + timeout
            with self._known(one):
                while True:
                    left = LOOK if end is None else max(0.0, min(LOOK, end - CLOCK.timer()))
                    original(thread, left)
                    if one.interrupted:
                        raise self._parked_type("parked")
                    if not thread.is_alive() or not left:
                        return None

        return join

    # ---- watching

    def _watch(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._armed.wait()
            self._armed.clear()
            while not stop.wait(LOOK) and self._look():
                pass

    def _look(self) -> bool:
        """Look at every attempt that is parked and under way; return whether there is one."""
        parked = [one for one in list(self._under_way.values()) if one.attempt.parked]
        for one in parked:
            if one.depth and self._is_stuck(one, CLOCK.timer()):
                self._end(one)
        return bool(parked)

    def _is_stuck(self, one: _UnderWay, now: float) -> bool:
        if one.calls != self._contexts.calls:
            one.calls, one.called_at, one.calm_since = self._contexts.calls, now, None
            return False
        moving = self._moving(one)
        if one.thread in moving and self.loops is not None and self.loops.looks_after(one.thread):
            return False
        patience = _patience(moving)
        if not patience:
            one.calm_since = one.calm_since or now
            return now - one.calm_since >= GRACE
        one.calm_since = None
        return not one.gently and now - one.called_at >= (GRACE if one.ended else patience)

    def _moving(self, one: _UnderWay) -> set[int | None]:
        """Return the threads of an attempt that do not wait for another.

        In the thread that it began in, a wait that would end by itself counts: what comes next is a
        look at what did not come. In another thread it may be a pause before a call.
        """
        waiting = {
            wait.thread for wait in list(self._waits) if not wait.timed or wait.thread == one.thread
        }
        return {one.thread, *one.busy.copy().values()} - waiting

    def _end(self, one: _UnderWay) -> None:
        """Raise the park wherever the attempt waits. Threads of its own that are left wait on."""
        one.attempt.cut_short = one.ended = True
        one.called_at, one.calm_since = CLOCK.timer(), None
        reached = False
        for wait in list(self._waits):
            if wait.context.attempt is one.attempt and wait.thread not in self._bare(one):
                wait.interrupt()
                reached = reached or wait.thread == one.thread
        if reached:
            return
        if one.thread == threading.main_thread().ident and self._has_signal():
            self._wanted = one
            signal.pthread_kill(one.thread, signal.SIGURG)
        elif not _in_our_code(sys._current_frames().get(one.thread)):
            one.raised = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(one.thread), ctypes.py_object(self._parked_type)
            )

    def _has_signal(self) -> bool:
        return bool(_handler() == self._on_signal)

    @staticmethod
    def _bare(one: _UnderWay) -> set[int | None]:
        return {thread for context, thread in one.busy.copy().items() if context.kind == "thread"}


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _handler() -> Any:
    """Return who handles SIGURG; None where there is no such signal."""
    return signal.getsignal(signal.SIGURG) if hasattr(signal, "SIGURG") else None


def _patience(threads: set[int | None]) -> float:
    """Return how long to wait for threads that do something, by what they do; 0 for none."""
    if not threads:
        return 0.0
    frames = sys._current_frames()
    found = [frames[thread] for thread in threads if thread in frames]
    return NETWORK if any(_on_network(frame) for frame in found) else STUCK


def _on_network(frame: FrameType | None) -> bool:
    """Whether the innermost frames of a thread are those of code that waits for the network."""
    depth = 3
    while frame is not None and depth:
        path = frame.f_code.co_filename.replace("\\", "/")
        if "/asyncio/" in path or "/trio/" in path:
            return False  # a loop that waits: its tasks are looked at by themselves, if at all
        if is_network(path):
            return True
        frame, depth = frame.f_back, depth - 1
    return False


def _in_our_code(frame: FrameType | None) -> bool:
    names = tuple(f"{__name__.partition('.')[0]}.{name}" for name in OURS)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(names):
            return True
        frame = frame.f_back
    return False


def _in_work_item(context: CallContext | None) -> bool:
    while context is not None and context.kind not in ("attempt", "thread"):
        if context.kind == "item":
            return True
        context = context.parent
    return False

"""The event loop for coroutines of synchronous code: one for all threads, closed by nobody."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_langasync.interception import event_loop
from pytest_langasync.interception.event_loop import aside, finish


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Begin and end without a loop."""
    event_loop.close()
    yield
    event_loop.close()


async def loop_here() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def in_a_thread(work: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(10)


def test_plain_values_pass() -> None:
    assert finish(3) == 3 and finish(None) is None


def test_threads_share_the_loop() -> None:
    here = finish(loop_here())
    assert in_a_thread(lambda: finish(loop_here())) is here
    assert finish(loop_here()) is here and not here.is_closed()


def test_uvloop_is_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = pytest.importorskip("uvloop")
    monkeypatch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)
    here = finish(loop_here())
    assert isinstance(here, uvloop.Loop)
    assert in_a_thread(lambda: finish(loop_here())) is here is finish(loop_here())


def test_a_thread_that_comes_meanwhile_joins() -> None:
    """The first coroutine waits for one that another thread brings."""
    came = asyncio.Event()

    async def wait() -> Any:
        second = asyncio.to_thread(lambda: finish(arrive()))
        return await asyncio.gather(second, came.wait(), loop_here())

    async def arrive() -> asyncio.AbstractEventLoop:
        came.set()
        return await loop_here()

    joined, _, led = finish(wait())
    assert joined is led


def test_a_thread_takes_over_when_the_first_leaves() -> None:
    joined, left = threading.Event(), threading.Event()

    async def long() -> asyncio.AbstractEventLoop:
        joined.set()
        while not left.is_set():
            await asyncio.sleep(0)
        return await loop_here()

    async def short() -> Any:
        future = pool.submit(lambda: finish(long()))
        while not joined.is_set():
            await asyncio.sleep(0)
        return future, await loop_here()

    with ThreadPoolExecutor(1) as pool:
        future, here = finish(short())
        left.set()
        assert future.result(10) is here


def test_errors_and_contexts_are_the_callers() -> None:
    variable = contextvars.ContextVar("variable", default="")
    variable.set("mine")

    async def fail() -> None:
        raise ValueError(variable.get())

    async def both() -> Any:
        return await asyncio.to_thread(lambda: finish(fail()))

    for way in (fail, both):
        with pytest.raises(ValueError, match="mine"):
            finish(way())


def test_what_a_coroutine_leaves_behind_is_cancelled() -> None:
    left: list[asyncio.Task[None]] = []

    async def leave() -> None:
        left.append(asyncio.create_task(asyncio.sleep(60)))

    finish(leave())
    assert left[0].cancelled()


def test_beneath_a_running_loop() -> None:
    """A synchronous scorer called by a coroutine: of this loop, or of the user's own."""

    async def outer() -> Any:
        return finish(loop_here()), await loop_here()

    inner, here = finish(outer())
    assert inner is not here
    inner, users = asyncio.run(outer())
    assert inner is here is not users
    assert asyncio.run(aside_of(threading.get_ident)) != threading.get_ident()
    assert aside(threading.get_ident) == threading.get_ident()


async def aside_of(work: Any) -> Any:
    return aside(work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    here = finish(loop_here())
    child = os.fork()
    if not child:
        same = True
        try:
            same = finish(loop_here()) is here
        finally:
            os._exit(same)
    assert os.waitpid(child, 0)[1] == 0
    assert finish(loop_here()) is here

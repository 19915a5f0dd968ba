"""Tasks in event loops: siblings ask together, and none waits for ever, in every kind of loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio
from support.attempts import Attempt, run, tracking

ALL = [f"q {number}" for number in range(12)]
QUICK = 1.5
"""Seconds that an attempt may take."""

Main = Callable[[Attempt], Coroutine[Any, Any, Any]]


async def gather(attempt: Attempt) -> None:
    await asyncio.gather(*map(attempt.aask, ALL))


async def gather_of_chains(attempt: Attempt) -> None:
    async def one(text: str) -> str:
        return await attempt.aask("judge " + await attempt.aask(text))

    await asyncio.gather(*map(one, ALL))


async def task_group(attempt: Attempt) -> None:
    async with asyncio.TaskGroup() as group:
        for text in ALL:
            group.create_task(attempt.aask(text))


async def semaphore(attempt: Attempt) -> None:
    three = asyncio.Semaphore(3)

    async def one(text: str) -> str:
        async with three:
            return await attempt.aask(text)

    await asyncio.gather(*map(one, ALL))


async def one_by_one(attempt: Attempt) -> None:
    for task in [asyncio.create_task(attempt.aask(text)) for text in ALL]:
        await task


async def slow_starters(attempt: Attempt) -> None:
    async def one(number: int) -> str:
        await asyncio.sleep(0.01 * number)
        return await attempt.aask(ALL[number])

    await asyncio.gather(*map(one, range(len(ALL))))


async def to_thread(attempt: Attempt) -> None:
    await asyncio.gather(*(asyncio.to_thread(attempt.ask, text) for text in ALL))


async def actors(attempt: Attempt) -> None:
    """Each actor answers by a future that it was sent; nobody awaits it itself."""
    loop = asyncio.get_running_loop()

    async def act(inbox: asyncio.Queue[Any]) -> None:
        while True:
            text, answer = await inbox.get()
            answer.set_result(await attempt.aask(text))

    async def ask(inbox: asyncio.Queue[Any], text: str) -> str:
        answer: asyncio.Future[str] = loop.create_future()
        await inbox.put((text, answer))
        return await answer

    inboxes: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in ALL]
    running = [asyncio.create_task(act(inbox)) for inbox in inboxes]
    await asyncio.gather(*map(ask, inboxes, ALL))
    assert running


async def an_actor(attempt: Attempt) -> None:
    done = asyncio.Event()

    async def act() -> None:
        await attempt.aask(ALL[0])
        done.set()

    task = asyncio.create_task(act())
    await done.wait()
    assert task


async def an_actor_with_timeouts(attempt: Attempt) -> None:
    """As the reader of LlamaIndex's asynchronous streaming chat."""
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def act() -> None:
        answers.put_nowait(await attempt.aask(ALL[0]))

    async def read() -> Any:
        while True:
            try:
                yield await asyncio.wait_for(answers.get(), timeout=0.1)
                return
            except TimeoutError:
                continue

    task = asyncio.create_task(act())
    async for _ in read():
        assert task


async def queue_workers(attempt: Attempt) -> None:
    """Workers that never report: whoever waits for the queue would wait for ever."""
    questions: asyncio.Queue[str] = asyncio.Queue()
    for text in ALL:
        questions.put_nowait(text)

    async def work() -> None:
        while True:
            await attempt.aask(await questions.get())
            questions.task_done()

    workers = [asyncio.create_task(work()) for _ in ALL]
    await questions.join()
    assert workers


async def anyio_group(attempt: Attempt) -> None:
    async with anyio.create_task_group() as group:
        for text in ALL:
            group.start_soon(attempt.aask, text)


async def anyio_limiter(attempt: Attempt) -> None:
    three = anyio.CapacityLimiter(3)

    async def one(text: str) -> None:
        async with three:
            await attempt.aask(text)

    async with anyio.create_task_group() as group:
        for text in ALL:
            group.start_soon(one, text)


async def anyio_actor(attempt: Attempt) -> None:
    send, receive = anyio.create_memory_object_stream[str](1)

    async def act() -> None:
        await send.send(await attempt.aask(ALL[0]))

    async with anyio.create_task_group() as group:
        group.start_soon(act)
        await receive.receive()


async def anyio_threads(attempt: Attempt) -> None:
    async with anyio.create_task_group() as group:
        for text in ALL:
            group.start_soon(anyio.to_thread.run_sync, attempt.ask, text)


SIBLINGS: list[Main] = [
    gather,
    gather_of_chains,
    task_group,
    semaphore,
    one_by_one,
    slow_starters,
    to_thread,
    actors,
    queue_workers,
]
ACTORS: list[Main] = [an_actor, an_actor_with_timeouts]
ANYIO: list[Main] = [anyio_group, anyio_limiter, anyio_actor, anyio_threads]
HEARD = {main: ALL if main in SIBLINGS else ALL[:1] for main in (*SIBLINGS, *ACTORS)} | {
    anyio_group: ALL,
    anyio_limiter: ALL,
    anyio_actor: ALL[:1],
    anyio_threads: ALL,
}


def in_asyncio(main: Main, attempt: Attempt) -> None:
    asyncio.run(main(attempt))


def in_uvloop(main: Main, attempt: Attempt) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(attempt))


def in_trio(main: Main, attempt: Attempt) -> None:
    trio.run(main, attempt)


CASES = [
    *((main, loop) for main in (*SIBLINGS, *ACTORS) for loop in (in_asyncio, in_uvloop)),
    *((main, loop) for main in ANYIO for loop in (in_asyncio, in_uvloop, in_trio)),
]


@pytest.mark.parametrize(
    ("main", "loop"), CASES, ids=[f"{main.__name__}-{loop.__name__}" for main, loop in CASES]
)
def test_siblings(main: Main, loop: Callable[[Main, Attempt], None]) -> None:
    attempt = run(lambda attempt: loop(main, attempt))
    assert sorted(attempt.asked) == sorted(HEARD[main])
    assert attempt.seconds < QUICK


def test_in_a_loop_that_nest_asyncio_has_patched() -> None:
    """It stays patched: in a process of its own. Half of them run in the loop, nested."""
    code = """
import sys
sys.path[:0] = sys.argv[1:]
import asyncio, nest_asyncio
from support.attempts import run
from interception import test_loops as it

def plain(main, attempt):
    asyncio.run(main(attempt))

def nested(main, attempt):
    async def outer():
        asyncio.run(main(attempt))
    asyncio.run(outer())

def late(main, attempt):
    async def outer():
        nest_asyncio.apply()
        asyncio.run(main(attempt))
    asyncio.run(outer())

def show(name, main, attempt):
    right = sorted(attempt.asked) == sorted(it.HEARD[main]) and attempt.seconds < it.QUICK
    print(name, main.__name__, "right" if right else (attempt.asked, attempt.seconds))

show("late", it.gather, run(lambda attempt: late(it.gather, attempt)))
for main in (*it.SIBLINGS, *it.ACTORS):
    for way in (plain, nested):
        show(way.__name__, main, run(lambda attempt: way(main, attempt)))
"""
    paths = [path for path in sys.path if path.endswith("tests")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 2 * (len(SIBLINGS) + len(ACTORS)), done.stderr
    assert not [line for line in lines if not line.endswith(" right")]


def test_trio_siblings() -> None:
    """A nursery cancels its other tasks when one raises: not for a park."""

    async def main(attempt: Attempt) -> None:
        three = trio.Semaphore(3)

        async def one(text: str) -> None:
            async with three:
                await attempt.aask(text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            for text in ALL:
                nursery.start_soon(one, text)
            await attempt.aask("main")

    attempt = run(lambda attempt: trio.run(main, attempt))
    assert sorted(attempt.asked) == sorted([*ALL, "main"])
    assert attempt.seconds < QUICK


def test_another_error_ends_a_nursery_at_once() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail)

    with (
        tracking() as tracker,
        tracker.attempting(Attempt(tracker)),
        pytest.raises(ExceptionGroup) as caught,
    ):
        trio.run(main)
    assert isinstance(caught.value.exceptions[0], ValueError)


@pytest.mark.parametrize("main", [gather, semaphore, task_group], ids=lambda main: main.__name__)
def test_a_frozen_clock_does_not_hold_a_loop(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """What freezegun does to the clock of asyncio's loops: none of their timers ever ends."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    attempt = run(lambda attempt: in_asyncio(main, attempt))
    assert sorted(attempt.asked) == sorted(ALL) and attempt.seconds < QUICK


def test_a_loop_that_waits_for_the_network_is_given_time() -> None:
    async def main(attempt: Attempt) -> None:
        async def serve(reader: Any, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.5)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def late() -> None:
            reader, _ = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            await attempt.aask("late")

        quick = asyncio.create_task(attempt.aask("quick"))
        await asyncio.wait([quick, asyncio.create_task(late())])

    assert run(lambda attempt: asyncio.run(main(attempt))).asked == ["quick", "late"]

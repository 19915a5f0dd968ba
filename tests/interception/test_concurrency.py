"""Calls that a test makes side by side: all that need not wait arrive in its first wave."""

from __future__ import annotations

import os
import re

import pytest
from support.suite import Suite

from pytest_langasync.interception.waiting import STUCK


def first_wave(suite: Suite, source: str, *, calls: int, later: int = 0, runs: int = 2) -> None:
    """Run one async body; expect so many calls in its first wave and ``later`` in the second."""
    suite.write(f"""
import asyncio

@pytest.mark.langasync
@pytest.mark.asyncio
async def test_it():
    trace("run")
{source}
""")
    result = suite.run("-W", "error")
    result.assert_outcomes(passed=1)
    assert [len(wave) for wave in suite.waves()] == [calls, later][: 2 if later else 1]
    assert suite.traced() == ["run"] * runs
    assert not re.search("never retrieved|was destroyed|never awaited", result.stdout.str())
    assert not re.search("never retrieved|was destroyed|never awaited", result.stderr.str())
    suite.run().assert_outcomes(passed=1)
    assert len(suite.ledger()) == calls + later


def test_gather(suite: Suite) -> None:
    source = """
    answers = await asyncio.gather(*(aask(f"q {n}") for n in range(20)))
    assert len(set(answers)) == 20
    assert await aask("judge " + answers[0])
"""
    first_wave(suite, source, calls=20, later=1, runs=3)


def test_gather_of_chains(suite: Suite) -> None:
    source = """
    async def one(n):
        return await aask("judge " + await aask(f"q {n}"))
    answers = await asyncio.gather(*(one(n) for n in range(10)))
    assert len(set(answers)) == 10
"""
    first_wave(suite, source, calls=10, later=10, runs=3)


def test_gather_with_exceptions_returned(suite: Suite) -> None:
    source = """
    answers = await asyncio.gather(*(aask(f"q {n}") for n in range(10)), return_exceptions=True)
    assert all(isinstance(a, str) for a in answers)
"""
    first_wave(suite, source, calls=10)


def test_task_group(suite: Suite) -> None:
    source = """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(aask(f"q {n}")) for n in range(10)]
    assert all(t.result() for t in tasks)
"""
    first_wave(suite, source, calls=10)


@pytest.mark.parametrize("way", ["gather", "group"])
def test_semaphore_of_three(suite: Suite, way: str) -> None:
    source = """
    semaphore = asyncio.Semaphore(3)
    async def one(n):
        async with semaphore:
            return await aask(f"q {n}")
"""
    if way == "gather":
        source += "    assert len(await asyncio.gather(*map(one, range(20)))) == 20\n"
    else:
        source += """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(20)]
    assert len({t.result() for t in tasks}) == 20
"""
    first_wave(suite, source, calls=20)


def test_as_completed(suite: Suite) -> None:
    source = """
    answers = [await done for done in asyncio.as_completed([aask(f"q {n}") for n in range(10)])]
    assert len(set(answers)) == 10
"""
    first_wave(suite, source, calls=10)


def test_as_completed_under_a_semaphore(suite: Suite) -> None:
    source = """
    semaphore = asyncio.Semaphore(2)
    async def one(n):
        async with semaphore:
            return await aask(f"q {n}")
    answers = [await done for done in asyncio.as_completed([one(n) for n in range(10)])]
    assert len(set(answers)) == 10
"""
    first_wave(suite, source, calls=10)


def test_as_completed_of_tasks_that_block_the_loop(suite: Suite) -> None:
    source = """
    import time
    semaphore = asyncio.Semaphore(2)
    async def one(n):
        async with semaphore:
            for _ in range(4):
                time.sleep(0.05)
                await asyncio.sleep(0)
            return await aask(f"q {n}")
    answers = [await done for done in asyncio.as_completed([one(n) for n in range(6)])]
    assert len(set(answers)) == 6
"""
    first_wave(suite, source, calls=6)


def test_wait(suite: Suite) -> None:
    source = """
    tasks = [asyncio.create_task(aask(f"q {n}")) for n in range(10)]
    done, pending = await asyncio.wait(tasks)
    assert len({t.result() for t in done}) == 10
"""
    first_wave(suite, source, calls=10)


def test_wait_for(suite: Suite) -> None:
    source = """
    one = lambda n: asyncio.wait_for(aask(f"q {n}"), timeout=60)
    assert len(await asyncio.gather(*map(one, range(10)))) == 10
    async with asyncio.timeout(60):
        assert await aask("judge")
"""
    first_wave(suite, source, calls=10, later=1, runs=3)


def test_tasks_that_are_awaited_one_by_one(suite: Suite) -> None:
    source = """
    tasks = [asyncio.create_task(aask(f"q {n}")) for n in range(10)]
    assert len([await task for task in tasks]) == 10
"""
    first_wave(suite, source, calls=10)


def test_queue_workers(suite: Suite) -> None:
    source = """
    queue, answers = asyncio.Queue(), []
    for n in range(6):
        queue.put_nowait(n)
    async def work():
        while True:
            n = await queue.get()
            try:
                answers.append(await aask(f"q {n}"))
            finally:
                queue.task_done()
    workers = [asyncio.create_task(work()) for _ in range(6)]
    await queue.join()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert len(set(answers)) == 6
"""
    first_wave(suite, source, calls=6)


def test_queue_workers_that_never_report_do_not_hang(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.asyncio
async def test_it():
    questions, answers = asyncio.Queue(), asyncio.Queue()
    for n in range(4):
        questions.put_nowait(n)
    async def work():
        while True:
            answers.put_nowait(await aask(f"q {await questions.get()}"))
    workers = [asyncio.create_task(work()) for _ in range(2)]
    assert len({await answers.get() for _ in range(4)}) == 4
    for worker in workers:
        worker.cancel()
""")
    suite.run().assert_outcomes(passed=1)
    assert len(suite.ledger()) == 4
    assert len(suite.waves()) <= 2


@pytest.mark.parametrize("tests", [30, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_many_tests_of_gather(suite: Suite, tests: int) -> None:
    suite.write(f"""
import openai

client = openai.AsyncOpenAI()

async def quick(text):
    message = [{{"role": "user", "content": text}}]
    done = await client.chat.completions.create(model="gpt-4o-mini", messages=message)
    return done.choices[0].message.content

@pytest.mark.langasync
@pytest.mark.asyncio
@pytest.mark.parametrize("case", range({tests}))
async def test_it(case):
    answers = await asyncio.gather(*(quick(f"case {{case}} q {{n}}") for n in range(3)))
    assert await quick(f"judge {{case}} " + answers[2])
""")
    suite.run("-q").assert_outcomes(passed=tests)
    assert [len(wave) for wave in suite.waves()] == [3 * tests, tests]


THREADS = {
    "map": """
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(ask, questions))) == 10
""",
    "submit": """
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(ask, q) for q in questions]
        assert len({f.result() for f in futures}) == 10
""",
    "as_completed": """
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(ask, q) for q in questions]
        assert len({f.result() for f in as_completed(futures)}) == 10
""",
    "threads": """
    answers = []
    work = lambda q: answers.append(ask(q))
    threads = [threading.Thread(target=work, args=[q]) for q in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 10
""",
    "to_thread": """
    async def main():
        return await asyncio.gather(*(asyncio.to_thread(ask, q) for q in questions))
    assert len(set(asyncio.run(main()))) == 10
""",
}


@pytest.mark.parametrize("way", THREADS)
def test_threads(suite: Suite, way: str) -> None:
    suite.write(f"""
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

@pytest.mark.langasync
def test_it():
    trace("run")
    questions = [f"q {{n}}" for n in range(10)]
{THREADS[way]}
""")
    result = suite.run("-p", "no:threadexception" if way == "threads" else "no:doctest")
    result.assert_outcomes(passed=1)
    assert [len(wave) for wave in suite.waves()] == [10]
    assert suite.traced() == ["run", "run"]


LANGCHAIN = {
    "batch": "llm.batch(questions, config={'max_concurrency': 2})",
    "batch_as_completed": "list(llm.batch_as_completed(questions, config={'max_concurrency': 2}))",
    "abatch": "asyncio.run(llm.abatch(questions, config={'max_concurrency': 2}))",
    "abatch_as_completed": "asyncio.run(completed(llm, questions))",
}


@pytest.mark.parametrize("way", LANGCHAIN)
def test_langchain(suite: Suite, way: str) -> None:
    suite.write(f"""
from langchain_openai import ChatOpenAI

async def completed(llm, questions):
    config = {{"max_concurrency": 2}}
    return [one async for one in llm.abatch_as_completed(questions, config=config)]

@pytest.mark.langasync
def test_it():
    trace("run")
    llm = ChatOpenAI(model="gpt-4o-mini")
    questions = [f"q {{n}}" for n in range(10)]
    assert len({LANGCHAIN[way]}) == 10
""")
    suite.run().assert_outcomes(passed=1)
    assert [len(wave) for wave in suite.waves()] == [10]
    assert suite.traced() == ["run", "run"]


ISOLATED = """
from concurrent.futures import ThreadPoolExecutor
from unittest import IsolatedAsyncioTestCase

pytestmark = pytest.mark.langasync

class TestSiblings(IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.greeting = await aask("asyncSetUp")
        self.addAsyncCleanup(aask, "cleanup")

    async def test_it(self):
        first, second = await asyncio.gather(aask("a"), aask("b " + self.greeting))
        assert first != second
        assert await asyncio.to_thread(ask, "in a thread")

class TestBlocking(IsolatedAsyncioTestCase):
    def setUp(self):
        self.greeting = ask("setUp")

    def test_it(self):
        assert self.greeting
        with ThreadPoolExecutor(2) as pool:
            assert len(set(pool.map(ask, ["c", "d"]))) == 2

    async def test_again(self):
        assert await aask("e " + self.greeting)
"""


@pytest.mark.parametrize("options", [[], ["-n2"]])
def test_contexts_older_than_the_attempt(suite: Suite, options: list[str]) -> None:
    """An ``IsolatedAsyncioTestCase`` runs in a context copied when its test was collected."""
    suite.write(ISOLATED)
    suite.run(*options).assert_outcomes(passed=3)
    assert [wave for wave in suite.waves() if "a" in wave] == [
        ["a", "b Sandbox answer to: asyncSetUp", "c", "d", "e Sandbox answer to: setUp"]
    ]
    assert all(row["job_id"] for row in suite.ledger())
    assert len(suite.ledger()) == 10
    suite.run(*options).assert_outcomes(passed=3)
    assert len(suite.ledger()) == 10


FORKS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

@pytest.mark.langasync
def test_it():
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        assert set(pool.map(ask, ["a", "b"])) == {"Sandbox answer to: a", "Sandbox answer to: b"}
    assert ask("here")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("options", [[], ["-n1"]])
def test_calls_of_forked_processes_run_in_real_time(suite: Suite, options: list[str]) -> None:
    suite.write(FORKS)
    suite.use("xdist.plugin")
    run = suite.pytester.runpytest_subprocess  # what is pickled must have been imported once only
    result = run("--langasync-sandbox", *options)
    result.assert_outcomes(passed=1)
    assert suite.waves() == [["a", "a", "b", "b"], ["here"]]
    line = "4 calls to * ran in real time: made in a child process, where no batch can answer"
    result.stdout.fnmatch_lines([line])
    asked = len(suite.ledger())
    result = run("--langasync-sandbox", "--langasync-offline", *options)
    result.assert_outcomes()
    assert result.ret == 75
    result.stdout.fnmatch_lines(["  parked without a call of its own"])
    assert len(suite.ledger()) == asked


FEEDERS = {
    "blocking": """
    thread = threading.Thread(target=lambda: tokens.put(ask("q")))
    thread.start()
    assert tokens.get() == "Sandbox answer to: q"
""",
    "polling": """
    errors = []
    def write():
        try:
            tokens.put(ask("q"))
        except Exception as error:
            errors.append(error)
            raise
    threading.Thread(target=write).start()
    while tokens.empty():
        if errors:
            raise errors[0]
        time.sleep(0)
    assert tokens.get() == "Sandbox answer to: q"
""",
    "uvloop": """
    async def main():
        questions, answers = asyncio.Queue(), asyncio.Queue()
        async def work():
            while True:
                answers.put_nowait(await aask(await questions.get()))
        workers = [asyncio.create_task(work()) for _ in range(2)]
        questions.put_nowait("q")
        assert await answers.get() == "Sandbox answer to: q"
        for worker in workers:
            worker.cancel()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
""",
}


@pytest.mark.parametrize("way", FEEDERS)
def test_a_reader_of_a_parked_thread_or_task_does_not_wait(suite: Suite, way: str) -> None:
    suite.write(f"""
import queue
import threading
import time

uvloop = pytest.importorskip("uvloop")

@pytest.fixture(autouse=True)
def timed():
    begin = time.monotonic()
    yield
    trace(str(time.monotonic() - begin))

@pytest.mark.langasync
@pytest.mark.timeout(20)
def test_it():
    tokens = queue.Queue()
{FEEDERS[way]}
""")
    suite.run().assert_outcomes(passed=1)
    seconds = list(map(float, suite.traced()))
    assert suite.waves() == [["q"]] and len(seconds) == 2
    assert seconds[0] < STUCK, "it was ended because nothing could go on"


WORKERS = """
@pytest.mark.langasync
@pytest.mark.asyncio
async def test_it():
    trace("run")
    number = len(TRACE.read_text().split())
    questions = asyncio.Queue()
    for item in range(6):
        questions.put_nowait(item)
    async def work():
        while not questions.empty():
            item = questions.get_nowait()
            if item == SLOW[min(number, 3)]:
                await asyncio.sleep(0.3)
            await aask(TEXT.format(item=item, number=number))
    await asyncio.gather(*(work() for _ in range(4)))
"""


@pytest.mark.parametrize("stable", [True, False])
def test_workers_that_are_cut_short_side_by_side_are_not_compared(
    suite: Suite, stable: bool
) -> None:
    """The first that is parked ends the others: which calls an attempt comes to is chance. Each
    attempt that uses none of what was bought for it is no chance."""
    text = "q {item}" if stable else "q {item} of {number}"
    suite.write(f"from llm import TRACE\nSLOW = [None, 1, 0, None]\nTEXT = {text!r}\n{WORKERS}")
    result = suite.run()
    if stable:
        result.assert_outcomes(passed=1)
        asked = sorted(text for wave in suite.waves() for text in wave)
        assert asked == [f"q {item}" for item in range(6)]
    else:
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*is not reproducible: attempt 2 *"])
        assert len(suite.waves()) == 1, "nothing is bought for it after that"

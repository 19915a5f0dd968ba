"""No attempt waits for ever for what was parked: waits of threads, and who ends them."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from multiprocessing.dummy import Pool as DummyPool
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from support.attempts import Attempt, Parked, run, tracking

from pytest_langasync.interception import waiting

QUICK = 2.0
"""Seconds that an attempt may take which nothing but a wait keeps from its end."""


def feed(attempt: Attempt, put: Callable[[str], Any], text: str = "q") -> threading.Thread:
    """Start a thread that puts an answer somewhere, as soon as it has one."""
    thread = threading.Thread(target=lambda: put(attempt.ask(text)), daemon=True)
    thread.start()
    return thread


def of_queue(attempt: Attempt) -> None:
    answers: queue.Queue[str] = queue.Queue()
    feed(attempt, answers.put)
    answers.get()


def of_queue_with_timeouts(attempt: Attempt) -> None:
    answers: queue.Queue[str] = queue.Queue()
    feed(attempt, answers.put)
    while True:
        with contextlib.suppress(queue.Empty):
            answers.get(timeout=0.4)
            return


def of_queue_join(attempt: Attempt) -> None:
    questions: queue.Queue[str] = queue.Queue()

    def work() -> None:
        while True:
            attempt.ask(questions.get())
            questions.task_done()

    for text in ("a", "b", "c"):
        questions.put(text)
        threading.Thread(target=work, daemon=True).start()
    questions.join()


def of_event(attempt: Attempt) -> None:
    event = threading.Event()
    feed(attempt, lambda answer: event.set())
    event.wait()


def of_condition(attempt: Attempt) -> None:
    answers: list[str] = []
    condition = threading.Condition()
    feed(attempt, answers.append)
    with condition:
        condition.wait_for(lambda: answers)


def of_semaphore(attempt: Attempt) -> None:
    semaphore = threading.Semaphore(0)
    feed(attempt, lambda answer: semaphore.release())
    semaphore.acquire()


def of_barrier(attempt: Attempt) -> None:
    barrier = threading.Barrier(2)
    feed(attempt, lambda answer: barrier.wait())
    barrier.wait()


def of_threads_of_threads(attempt: Attempt) -> None:
    first: queue.Queue[str] = queue.Queue()
    second: queue.Queue[str] = queue.Queue()
    feed(attempt, first.put)
    threading.Thread(target=lambda: second.put(first.get()), daemon=True).start()
    second.get()


def of_future_of_a_thread(attempt: Attempt) -> None:
    from concurrent.futures import Future

    future: Future[str] = Future()
    feed(attempt, future.set_result)
    future.result()


def of_item_that_waits(attempt: Attempt) -> None:
    answers: queue.Queue[str] = queue.Queue()
    feed(attempt, answers.put)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: answers.get(), range(3)))


def of_asyncio_to_thread(attempt: Attempt) -> None:
    answers: queue.Queue[str] = queue.Queue()

    async def main() -> None:
        feed(attempt, answers.put)
        await asyncio.to_thread(answers.get)

    asyncio.run(main())


def of_executor(attempt: Attempt) -> None:
    answers: queue.Queue[str] = queue.Queue()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        feed(attempt, answers.put)
        await loop.run_in_executor(None, answers.get)

    asyncio.run(main())


def of_event_set_from_a_thread(attempt: Attempt) -> None:
    async def main() -> None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        feed(attempt, lambda answer: loop.call_soon_threadsafe(event.set))
        await event.wait()

    asyncio.run(main())


def blocked_in_a_coroutine(attempt: Attempt) -> None:
    async def main() -> None:
        of_queue(attempt)

    asyncio.run(main())


WAITS = [
    of_queue,
    of_queue_with_timeouts,
    of_event,
    of_condition,
    of_semaphore,
    of_barrier,
    of_threads_of_threads,
    of_future_of_a_thread,
    of_item_that_waits,
    of_asyncio_to_thread,
    of_executor,
    of_event_set_from_a_thread,
    blocked_in_a_coroutine,
]


@pytest.mark.parametrize("work", WAITS, ids=lambda work: work.__name__)
@pytest.mark.parametrize("aside", [False, True], ids=["main", "thread"])
def test_waits_for_a_parked_thread(work: Callable[[Attempt], None], aside: bool) -> None:
    """``aside``: the attempt runs in a thread, as those of asynchronous jobs do."""
    if aside:
        with ThreadPoolExecutor(1) as pool:
            attempt = pool.submit(run, work).result(30)
    else:
        attempt = run(work)
    assert attempt.asked == ["q"]
    assert attempt.cut_short
    assert attempt.seconds < QUICK


def test_workers_that_read_a_queue() -> None:
    attempt = run(of_queue_join)
    assert sorted(attempt.asked) == ["a", "b", "c"]
    assert attempt.seconds < QUICK


def of_thread_pool(attempt: Attempt) -> None:
    with ThreadPool(2) as pool:
        pool.map(attempt.ask, "abcdefghij")


def of_thread_pool_in_chunks(attempt: Attempt) -> None:
    with ThreadPool(2) as pool:
        pool.map(attempt.ask, "abcdefghij", 5)


def of_thread_pool_imap(attempt: Attempt) -> None:
    with ThreadPool(2) as pool:
        list(pool.imap(attempt.ask, "abcdefghij"))


def of_thread_pool_imap_unordered(attempt: Attempt) -> None:
    with ThreadPool(2) as pool:
        list(pool.imap_unordered(attempt.ask, "abcdefghij", chunksize=4))


def of_thread_pool_starmap(attempt: Attempt) -> None:
    with ThreadPool(2) as pool:
        pool.starmap_async(attempt.ask, [(text,) for text in "abcdefghij"]).get()


def of_thread_pool_apply(attempt: Attempt) -> None:
    with DummyPool(3) as pool:
        results = [pool.apply_async(attempt.ask, (text,)) for text in "abcdefghij"]
        for result in results:
            result.get()


def of_wait(attempt: Attempt) -> None:
    with ThreadPoolExecutor(2) as pool:
        done, _ = wait([pool.submit(attempt.ask, text) for text in "abcdefghij"])
        for future in done:
            future.result()


def of_as_completed(attempt: Attempt) -> None:
    with ThreadPoolExecutor(2) as pool:
        for future in as_completed([pool.submit(attempt.ask, text) for text in "abcdefghij"]):
            future.result()


POOLS = [
    of_thread_pool,
    of_thread_pool_in_chunks,
    of_thread_pool_imap,
    of_thread_pool_imap_unordered,
    of_thread_pool_starmap,
    of_thread_pool_apply,
    of_wait,
    of_as_completed,
]


@pytest.mark.parametrize("work", POOLS, ids=lambda work: work.__name__)
def test_pools_ask_everything_at_once(work: Callable[[Attempt], None]) -> None:
    attempt = run(work)
    assert sorted(attempt.asked) == list("abcdefghij")
    assert not attempt.cut_short
    assert attempt.seconds < QUICK


# ---- what Python does not tell of


def of_simple_queue(attempt: Attempt) -> None:
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    feed(attempt, answers.put)
    answers.get()


def of_lock(attempt: Attempt) -> None:
    lock = threading.Lock()
    lock.acquire()
    feed(attempt, lambda answer: lock.release())
    lock.acquire()


def of_polling(attempt: Attempt) -> None:
    answers: queue.Queue[str] = queue.Queue()
    feed(attempt, answers.put)
    while answers.empty():
        time.sleep(0)


def of_polling_in_a_coroutine(attempt: Attempt) -> None:
    async def main() -> None:
        of_polling(attempt)

    asyncio.run(main())


UNSEEN = [of_simple_queue, of_lock, of_polling, of_polling_in_a_coroutine]


@pytest.mark.parametrize("work", UNSEEN, ids=lambda work: work.__name__)
def test_waits_that_python_does_not_see(
    work: Callable[[Attempt], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "STUCK", 0.3)
    attempt = run(work)
    assert attempt.asked == ["q"] and attempt.seconds < 2 * QUICK


def test_a_poll_outside_of_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STUCK", 0.3)
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(run, of_polling).result(30)
        assert attempt.asked == ["q"] and attempt.seconds < QUICK
        assert pool.submit(lambda: "goes on").result(5) == "goes on"


# ---- what is left alone


def test_siblings_that_are_slow_are_waited_for() -> None:
    def work(attempt: Attempt) -> None:
        answers: queue.Queue[str] = queue.Queue()

        def slow() -> None:
            time.sleep(0.6)
            answers.put(attempt.ask("slow"))

        feed(attempt, answers.put, "quick")
        threading.Thread(target=slow, daemon=True).start()
        answers.get()

    assert run(work).asked == ["quick", "slow"]


def test_a_teardown_is_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STUCK", 0.2)
    with tracking() as tracker:
        attempt = Attempt(tracker)
        with tracker.attempting(attempt):
            with contextlib.suppress(Parked):
                attempt.ask("q")
            with tracker.interruptible(attempt, gently=True):
                time.sleep(0.6)
            with pytest.raises(Parked), tracker.interruptible(attempt, gently=True):
                threading.Event().wait()


def test_a_feeder_that_reports_its_error_is_heard() -> None:
    """LlamaIndex's streaming chat: the reader polls until its thread tells of an ``Exception``."""

    def work(attempt: Attempt) -> None:
        errors: list[Exception] = []

        def write() -> None:
            try:
                attempt.ask("q")
            except Exception as error:
                errors.append(error)
                raise

        threading.Thread(target=write).start()
        while not errors:
            time.sleep(0)
        raise errors[0]

    attempt = run(work)
    assert attempt.seconds < QUICK and not attempt.cut_short


def test_a_loop_of_retries_in_a_thread_ends() -> None:
    def work(attempt: Attempt) -> None:
        tries = 0

        def insist() -> None:
            nonlocal tries
            while True:
                tries += 1
                with contextlib.suppress(Exception):
                    attempt.ask("q")

        thread = threading.Thread(target=insist)
        thread.start()
        thread.join()
        assert tries == 2

    assert run(work).asked == ["q"]


def test_ctrl_c_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """phoenix-evals takes SIGINT, and gives it back only when it is not interrupted."""
    import signal

    before = signal.getsignal(signal.SIGINT)

    def work(attempt: Attempt) -> None:
        signal.signal(signal.SIGINT, lambda number, frame: None)
        attempt.ask("q")

    run(work)
    assert signal.getsignal(signal.SIGINT) is before


# ---- known waits are waits


def test_a_known_wait_is_a_wait() -> None:
    """``Condition.wait`` is written anew: order, time-outs and notifications are as before."""
    with tracking() as tracker, tracker.attempting(Attempt(tracker)):
        condition, seen = threading.Condition(), []

        def waiter(number: int) -> None:
            with condition:
                seen.append(("waits", number))
                assert condition.wait(10)
                seen.append(("goes on", number))

        threads = [threading.Thread(target=waiter, args=[number]) for number in range(3)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(seen) <= number:
                time.sleep(0)
        with condition:
            condition.notify(2)
        for thread in threads[:2]:
            thread.join(5)
        assert [number for what, number in seen if what == "goes on"] in ([0, 1], [1, 0])
        with condition:
            condition.notify_all()
        threads[2].join(5)
        with condition:
            assert condition.wait(0.01) is False
            assert condition.wait(0) is False
            assert not condition._waiters  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError):
            condition.wait()
        reentrant = threading.Condition(threading.RLock())
        with reentrant, reentrant:
            assert reentrant.wait(0.01) is False


def test_joins() -> None:
    with tracking() as tracker, tracker.attempting(Attempt(tracker)):
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        thread.join(0.01)
        assert thread.is_alive()
        gate.set()
        thread.join()
        assert not thread.is_alive()
        thread.join()
        with pytest.raises(RuntimeError):
            threading.current_thread().join()
        with pytest.raises(RuntimeError):
            threading.Thread().join()


def test_the_process_ends() -> None:
    """A thread that is no daemon, and a work item, that wait for what was parked."""
    code = """
import queue, sys, threading
sys.path[:0] = sys.argv[1:]
from concurrent.futures import ThreadPoolExecutor
from support.attempts import run

pool = ThreadPoolExecutor(2)

def work(attempt):
    threading.Thread(target=queue.Queue().get).start()
    pool.submit(queue.Queue().get)
    attempt.ask("q")

assert run(work).asked == ["q"]
print("done")
"""
    paths = [path for path in sys.path if path.endswith("tests")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "done\n" and not done.stderr and done.returncode == 0

"""What becomes of a chain's job: status, cancelling, other chains, retries, copies."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from support.chains import ask, judged, wrapped
from support.suite import end_jobs

from pytest_langasync import ConfigurationError, JobCancelledError
from pytest_langasync.sandbox import Sandbox

SLOW = {"batch": [{"latency": 3600}]}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test's cache in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def test_a_loop_over_the_status_ends(provider: Sandbox) -> None:
    job = wrapped(judged).submit_batch(["a", "b"])
    seen = [job.status]
    while job.status != "completed":
        seen.append(job.status)
        time.sleep(0.005)
    assert seen[0] == "pending" and set(seen) <= {"pending", "in_progress", "completed"}
    assert all(job.get_results()) and len(provider.ledger()) == 4
    counts = job.counts
    assert (counts.inputs, counts.done, counts.failed) == (2, 2, 0)


def test_the_status_looks_no_more_often_than_it_may(provider: Sandbox) -> None:
    provider.set_faults(SLOW)
    job = wrapped().submit_batch(["a"])
    for _ in range(50):
        assert job.status == "pending"
    polls = sum(n for path, n in provider.requests().items() if path.startswith("GET /v1/batches/"))
    assert polls < 10
    assert job.counts.requests == 1


def test_a_job_of_which_every_input_failed(provider: Sandbox) -> None:
    job = wrapped().submit_batch(["[[status:400]]"])
    assert job.wait() == [None] and job.status == "failed"
    assert wrapped().get_job(job.id).status == "failed"


@pytest.mark.parametrize("fresh", [False, True])
def test_cancelling(provider: Sandbox, fresh: bool) -> None:
    provider.set_faults(SLOW)
    job = wrapped().submit_batch(["a", "b"])
    if fresh:  # as a new process has it
        job = wrapped().get_job(job.id)
    asyncio.run(job.acancel())
    assert any("/cancel" in path for path in provider.requests())
    end_jobs(provider)
    assert job.wait(timeout=30) == [None, None]
    assert job.status == "cancelled" and provider.requests()["POST /v1/batches"] == 1
    assert all(error is not None for error in job.errors)
    again = wrapped().get_job(job.id)
    assert again.status == "cancelled" and again.get_results() == [None, None]


def test_what_was_cancelled_is_not_bought_by_another_process(provider: Sandbox) -> None:
    provider.set_faults(SLOW)
    job = wrapped().submit_batch(["a"])
    job.cancel()
    end_jobs(provider)
    later = wrapped().get_job(job.id)
    assert later.wait(timeout=30) == [None] and later.status == "cancelled"
    assert provider.requests()["POST /v1/batches"] == 1
    assert isinstance(later.errors[0], JobCancelledError | Exception)


def test_another_chain_is_refused_with_the_difference(provider: Sandbox) -> None:
    provider.set_faults(SLOW)
    job = wrapped().submit_batch(["a"])
    changed = wrapped(lambda text: ask(f"the new prompt for {text}")).get_job(job.id)
    with pytest.raises(ConfigurationError, match=r"something else(.|\n)*the new prompt for"):
        changed.get_status()
    assert provider.requests()["POST /v1/batches"] == 1
    assert wrapped().get_job(job.id).status == "pending"


def test_other_inputs_are_refused(provider: Sandbox) -> None:
    job = wrapped().submit_batch(["a", "b"])
    with pytest.raises(ConfigurationError, match="number 1 was 'b', now 'c'"):
        wrapped().get_job(job.id, inputs=["a", "c"])
    assert all(wrapped().get_job(job.id, inputs=["a", "b"]).wait())


def test_retrying_a_parsers_failure_buys_a_new_answer(provider: Sandbox) -> None:
    strict = True

    def parsed(text: str) -> Any:
        answer = ask(text)
        if text == "b" and strict:
            raise ValueError("no JSON")
        return answer

    job = wrapped(parsed).submit_batch(["a", "b"])
    assert job.wait()[1] is None and len(provider.ledger()) == 2
    strict = False
    assert all(job.retry_failed().wait()) and len(provider.ledger()) == 3
    assert all(wrapped(parsed).get_job(job.id).get_results()) and len(provider.ledger()) == 3


def test_a_call_at_list_price_is_told_before_it_is_sent(provider: Sandbox) -> None:
    import openai

    def asked(text: str) -> Any:
        with openai.OpenAI(max_retries=0, default_query={"v": "1"}) as client:
            message: Any = [{"role": "user", "content": text}]
            done = client.chat.completions.create(model="gpt-4o-mini", messages=message)
        return done.choices[0].message.content

    with pytest.warns(UserWarning, match="in real time, at list price") as told:
        job = wrapped(asked).submit_batch(["a", "b"])
    assert len([one for one in told if "list price" in str(one.message)]) == 1
    assert all(job.wait())


def test_max_cost_is_named_as_it_is_given(provider: Sandbox) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_cost: ") as error:
        wrapped(max_cost=0.0).submit_batch(["a"])
    assert "--langasync" not in str(error.value) and not provider.ledger()


def test_prices_of_ones_own(provider: Sandbox) -> None:
    def homemade(text: str) -> Any:
        import openai

        with openai.OpenAI(max_retries=0) as client:
            message: Any = [{"role": "user", "content": text}]
            done = client.chat.completions.create(
                model="homemade-7b", messages=message, max_tokens=5
            )
        return done.choices[0].message.content

    with pytest.raises(ConfigurationError, match=r"no known price\. Set one in prices"):
        wrapped(homemade, max_cost=1.0).submit_batch(["a"])
    job = wrapped(homemade, max_cost=1.0, prices="homemade-* = input 2, output 8").submit_batch(
        ["a"]
    )
    assert job.wait() and job.summary.total.paid > 0 and not job.summary.total.unknown


def test_memory_is_named_in_the_advice(provider: Sandbox) -> None:
    memory: list[str] = []

    def remembers(text: str) -> Any:
        memory.append(text)
        return ask(" ".join(memory))

    with pytest.raises(Exception, match="memory or checkpointer"):
        wrapped(remembers).submit_batch(["a"])


def test_a_fresh_cache_buys_anew(provider: Sandbox) -> None:
    assert wrapped(cache_dir="one").submit_batch(["a"]).wait()
    assert wrapped(cache_dir="two").submit_batch(["a"]).wait()
    assert len(provider.ledger()) == 2
    assert wrapped(cache_dir="two").submit_batch(["a"]).status == "completed"
    assert len(provider.ledger()) == 2


def test_copies_and_pickles(provider: Sandbox) -> None:
    chain = wrapped()
    estimate = chain.estimate_cost(["a"])
    for same in (
        copy.copy(estimate),
        copy.deepcopy(estimate),
        pickle.loads(pickle.dumps(estimate)),
    ):
        assert same == estimate and vars(same) == vars(estimate) and not math.isnan(same)
    job = chain.submit_batch(["a", "[[status:400]]"])
    assert copy.copy(job) is job and copy.deepcopy([job])[0] is job
    provider.set_faults(SLOW)
    open_ = chain.submit_batch(["later"])
    with pytest.raises(TypeError, match="has not ended: keep its ID"):
        pickle.dumps(open_)
    job.wait()
    kept = pickle.loads(pickle.dumps(job))
    assert (kept.id, kept.status, kept.provider_jobs) == (job.id, "completed", job.provider_jobs)
    assert kept.get_results() == job.get_results() and "BadRequest" in str(kept.errors[1])
    assert kept.summary == job.summary and "2 of 2 inputs done" in repr(kept)
    with pytest.raises(ConfigurationError, match="without its chain"):
        kept.retry_failed()

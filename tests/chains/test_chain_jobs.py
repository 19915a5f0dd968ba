"""Jobs of chains: status, results, failures, persistence, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from support.chains import ask, judged, wrapped
from support.suite import end_jobs

from pytest_langasync import (
    CacheError,
    ConfigurationError,
    JobPendingError,
    NotReproducibleError,
    wrap_chain,
)
from pytest_langasync.sandbox import Sandbox

QueuedRequest = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test's cache in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def test_the_promised_interface(provider: Sandbox) -> None:
    chain = wrapped()
    estimate = chain.estimate_cost(["a", "b"])
    assert 0 < estimate < estimate.list_price and estimate.requests == 2
    assert estimate.output_tokens == 100 and f"${estimate:.2f}" == "$0.00"
    assert chain.estimate_cost(["a"], output_tokens=5) < chain.estimate_cost(["a"])
    assert not provider.requests().total() or not provider.ledger(), "an estimate sends nothing"
    job = chain.submit_batch(["a", "b"], max_retries=3, priority="high")
    assert job.id.startswith("batch_") and job.status == "pending"
    while job.get_status() != "completed":
        time.sleep(0.01)
    assert job.get_results() == job.wait() == [f"Sandbox answer to: About {x}" for x in "ab"]
    assert job.errors == [None, None] and job.summary.total.batched == 2
    assert "2 of 2 inputs done" in repr(job) and job.provider_jobs[0] in repr(job)


def test_same_inputs_are_bought_once_unless_refreshed(provider: Sandbox) -> None:
    chain = wrapped(judged)
    first = chain.submit_batch(["a", "a", "b"]).wait()
    assert len(provider.ledger()) == 6, "equal inputs are samples of their own"
    again = chain.submit_batch(["b", "a"])
    assert again.status == "completed" and again.get_results() == [first[2], first[0]]
    assert again.provider_jobs == () and "from the cache" in repr(again)
    assert len(provider.ledger()) == 6
    fresh = chain.submit_batch(["b", "a"], refresh=True)
    assert fresh.wait() and len(provider.ledger()) == 10
    assert chain.submit_batch(["b"]).status == "completed" and len(provider.ledger()) == 10


def test_partial_failure_and_retry(provider: Sandbox) -> None:
    job = wrapped().submit_batch(["good", "[[status:400x1]] bad", "fine"])
    results = job.wait()
    assert results[1] is None and results[0] and results[2]
    assert isinstance(job.errors[1], openai.BadRequestError) and job.errors[0] is None
    assert "1 failed" in repr(job)
    assert job.get_results(return_exceptions=True)[1] is job.errors[1]
    assert wrapped().get_job(job.id).get_results()[1] is None, "an error stays in a new process"
    assert len(provider.ledger()) == 3
    assert job.retry_failed() is job
    assert all(job.wait()) and job.errors == [None] * 3
    assert [row["status"] for row in provider.ledger()].count(200) == 3
    assert len(provider.ledger()) == 4, "only the failed one was sent again"


def test_an_error_of_the_chains_own(provider: Sandbox) -> None:
    def picky(text: str) -> str:
        answer: str = ask(text)
        if text == "b":
            raise ValueError("no b, please")
        return answer

    job = wrapped(picky).submit_batch(["a", "b"], return_exceptions=True)
    results = job.wait()
    assert isinstance(results[1], ValueError) and results[0]
    assert job.summary.total.batched == 2


def test_asynchronous_twins(provider: Sandbox) -> None:
    async def main() -> None:
        job = await wrapped(judged).asubmit_batch(["a", "b"])
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while job.status != "completed":
                ticks += 1
                await asyncio.sleep(0.005)

        results, _ = await asyncio.gather(job.await_results(), tick())
        assert results == await job == await job.aget_results() and ticks > 3
        assert await job.aget_status() == "completed"
        inside = wrapped(judged).submit_batch(["c"])  # a notebook: a loop runs in this thread
        assert inside.wait()[0]

    asyncio.run(main())


def test_config_and_callbacks_reach_the_chain(provider: Sandbox) -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.runnables import RunnableLambda

    seen: list[tuple[str, list[str]]] = []

    class Handler(BaseCallbackHandler):
        def on_chain_end(self, outputs: Any, *, tags: Any = None, **_: Any) -> None:
            seen.append((str(outputs), list(tags or ())))

    config = {"callbacks": [Handler()], "tags": ["nightly"]}
    wrapped(RunnableLambda(judged)).submit_batch(["a", "b"], config).wait()
    assert len(seen) == 2 and all(tags == ["nightly"] for _, tags in seen)


def test_events_and_progress(provider: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    kinds: list[str] = []
    job = wrapped().submit_batch(["a"], on_event=lambda event: kinds.append(event.kind))
    job.wait(progress=True)
    assert kinds[0] == "gathered" and kinds[1:3] == ["uploading", "submitted"]
    assert kinds[-1] == "collected"
    assert f"collected answers of {job.provider_jobs[0]}" in capsys.readouterr().err


def test_time_out_and_early_results(provider: Sandbox) -> None:
    provider.set_faults({"batch": [{"latency": 3600}]})
    job = wrapped().submit_batch(["a"])
    with pytest.raises(TimeoutError, match="goes on at the provider"):
        job.wait(timeout=0.05)
    with pytest.raises(JobPendingError, match="1 of 1 inputs still wait"):
        job.get_results()
    assert job.status == "pending" and len(provider.ledger()) <= 1


def in_a_process(code: str) -> subprocess.Popen[str]:
    folder = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {folder!r})\nfrom support.chains import *\n{code}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_job_survives_its_process(quick_python: None, provider: Sandbox) -> None:
    code = "job = wrapped(judged).submit_batch(['a', 'b'])\nprint(job.id, flush=True)\njob.wait()"
    provider.set_faults({"batch": [{"latency": 3600, "count": 1}]})
    process = in_a_process(code + "\nprint('done')")
    assert process.stdout is not None
    job_id = process.stdout.readline().strip()
    process.kill()
    process.communicate()
    record = wrapped(judged).list_jobs()[-1]
    assert record.id == job_id and not record.completed and record.inputs == ("a", "b")
    job = wrapped(judged).get_job(job_id)
    assert job.get_status() == "pending" and job.provider_jobs == record.provider_jobs
    assert provider.requests()["POST /v1/batches"] == 1
    end_jobs(provider)
    assert all(job.wait(timeout=30))
    assert len(provider.ledger()) == 4, "two waves, each bought once"
    by_provider_id = wrapped(judged).get_job(record.provider_jobs[0])
    assert by_provider_id.id == job_id and all(by_provider_id.get_results())
    assert len(provider.ledger()) == 4


def test_a_providers_job_with_an_empty_cache(provider: Sandbox) -> None:
    first = wrapped(cache_dir="one").submit_batch(["a", "b"])
    results = first.wait()
    with pytest.raises(ConfigurationError, match=r"get_job\(job_id, inputs=…\)"):
        wrapped(cache_dir="two").get_job(first.provider_jobs[0])
    job = wrapped(cache_dir="two").get_job(first.provider_jobs[0], inputs=["a", "b"])
    assert job.wait(timeout=30) == results and len(provider.ledger()) == 2


def test_inputs_that_are_no_json(provider: Sandbox) -> None:
    class Thing:
        def __str__(self) -> str:
            return "thing"

    job = wrapped().submit_batch([Thing()])
    job.wait()
    with pytest.raises(ConfigurationError, match="not in the cache"):
        wrapped().get_job(job.id)
    assert wrapped().get_job(job.id, inputs=[Thing()]).get_results() == job.get_results()
    with pytest.raises(ConfigurationError, match="has 1 inputs, and 2 were given"):
        wrapped().get_job(job.id, inputs=[Thing(), Thing()])
    assert len(provider.ledger()) == 1


def test_a_damaged_record(provider: Sandbox, tmp_path: Path) -> None:
    job = wrapped().submit_batch(["a"])
    path = tmp_path / ".langasync" / "chains" / f"{job.id}.json"
    path.write_text(path.read_text().replace("gpt", "x").replace('"count": 1', '"count": 2'))
    with pytest.raises(CacheError, match="remove it, or restore it"):
        wrapped().get_job(job.id)


def test_answers_that_are_gone_are_not_bought_again(provider: Sandbox, tmp_path: Path) -> None:
    import shutil

    job = wrapped().submit_batch(["a"])
    job.wait()
    shutil.rmtree(tmp_path / ".langasync" / "jobs")
    gone = wrapped().get_job(job.id)
    assert gone.status == "completed" and gone.get_results() == [None]
    assert isinstance(gone.errors[0], CacheError) and len(provider.ledger()) == 1


class TestRefused:
    """One clear exception each, and nothing bought."""

    @pytest.mark.parametrize(
        ("inputs", "options", "text"),
        [
            ([], {}, "inputs is empty"),
            ("text", {}, "inputs must be a list, not str"),
            (["a"], {"priority": "urgent"}, "'urgent' is not one of"),
            (["a"], {"max_retries": -1}, "max_retries=-1"),
            (["a"], {"config": [None, None]}, "2 configs were given for 1 inputs"),
        ],
    )
    def test_options(self, inputs: Any, options: dict[str, Any], text: str) -> None:
        with pytest.raises(ConfigurationError, match=text):
            wrapped().submit_batch(inputs, **options)

    def test_no_chain(self) -> None:
        with pytest.raises(ConfigurationError, match="not int"):
            wrap_chain(7)

    def test_an_unknown_job(self) -> None:
        with pytest.raises(ConfigurationError, match="the cache does not know it"):
            wrapped().get_job("batch_nothing")

    def test_no_model_call(self) -> None:
        with pytest.warns(UserWarning, match="called no model"):
            job = wrapped(str.upper).submit_batch(["a"])
        assert job.status == "completed" and job.get_results() == ["A"]
        assert "no model was called" in repr(job)

    def test_not_reproducible(self, provider: Sandbox) -> None:
        numbers = itertools.count()
        with pytest.raises(NotReproducibleError, match=r"About a 0.*About a 1"):
            wrapped(lambda text: ask(f"{text} {next(numbers)}")).submit_batch(["a", "b"])
        assert not provider.ledger() and not provider.requests()["POST /v1/batches"]

    def test_not_reproducible_later(self, provider: Sandbox) -> None:
        numbers = itertools.count()

        def later(text: str) -> Any:
            return ask(f"{ask(text)} {next(numbers)}")

        job = wrapped(lambda text: later(text)).submit_batch(["a"])
        assert job.wait(timeout=30) == [None]
        assert isinstance(job.errors[0], NotReproducibleError)
        assert len(provider.ledger()) <= 2

    def test_a_host_without_a_batch_api(
        self, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider.set_faults({"http": [{"path": "GET /v1/batches*", "status": 404, "count": 0}]})
        with pytest.raises(ConfigurationError, match="has no batch API"):
            wrapped().submit_batch(["a"])
        assert not provider.ledger()

    def test_no_key(self, provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        job = wrapped().submit_batch(["a"])
        assert isinstance(job.errors[0], openai.OpenAIError) and job.status == "failed"


def test_patches_are_undone_and_others_left_alone(provider: Sandbox) -> None:
    import httpx2

    before = httpx2.Client.send
    job = wrapped().submit_batch(["a"])
    assert httpx2.Client.send is before, "between passes nothing is patched"
    assert ask("outside") and [row["job_id"] for row in provider.ledger()] == [""]
    assert job.wait()


def test_importing_is_free_and_quiet() -> None:
    code = (
        "import sys, pytest_langasync as p; assert p.wrap_chain and dir(p);"
        "sys.exit(any(m in sys.modules for m in ('openai', 'langchain_core', 'httpx')))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(float(wrapped(lambda x: unknown_model(x)).estimate_cost(["a"])))


def unknown_model(text: str) -> Any:
    with openai.OpenAI(api_key="x", base_url="http://127.0.0.1:9/v1") as client:
        message: Any = [{"role": "user", "content": text}]
        return client.chat.completions.create(model="my-own-model", messages=message)

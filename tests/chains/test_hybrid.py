"""Real time and batch in one call, and what a monitor adds up."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.chains import ask, judged, wrapped

from pytest_langasync import BatchJob, ConfigurationError, CostMonitor, HybridBatchProcessor
from pytest_langasync.sandbox import Sandbox

EXAMPLE = Path(__file__).parents[2] / "examples" / "cost_optimisation.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test's cache in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def test_all_in_real_time(provider: Sandbox) -> None:
    results = HybridBatchProcessor(wrapped(judged)).batch(["a", "b", "c"])
    assert results == [
        f"Sandbox answer to: About judge Sandbox answer to: About {x}" for x in "abc"
    ]
    assert [row["job_id"] for row in provider.ledger()] == [""] * 6
    job = wrapped(judged).submit_batch(["a", "b", "c"])
    assert job.get_results() == results, "answers of real time serve a batch, too"
    assert len(provider.ledger()) == 6 and not provider.requests()["POST /v1/batches"]


def test_mixed_in_the_inputs_order(provider: Sandbox) -> None:
    processor = HybridBatchProcessor(wrapped(), classify=lambda text: text in "bd")
    results = processor.batch(["a", "b", "c", "d"], use_batch_api=True)
    assert results == [f"Sandbox answer to: About {x}" for x in "abcd"]
    ways = {row["body"]["messages"][0]["content"]: row["job_id"] for row in provider.ledger()}
    assert [bool(ways[f"About {x}"]) for x in "abcd"] == [True, False, True, False]


@pytest.mark.parametrize("urgent", ["realtime", True])
def test_words_of_classify(provider: Sandbox, urgent: Any) -> None:
    later = "batch_api" if urgent == "realtime" else False
    processor = HybridBatchProcessor(wrapped(), classify=lambda x: urgent if x == "b" else later)
    assert processor.langasync_available
    assert all(processor.batch(["a", "b"], use_batch_api=True))
    assert sorted(bool(row["job_id"]) for row in provider.ledger()) == [False, True]


@pytest.mark.parametrize("answer", ["urgent", None, 1, "batch"])
def test_other_words_of_classify_are_refused(provider: Sandbox, answer: Any) -> None:
    processor = HybridBatchProcessor(wrapped(), classify=lambda x: answer)
    with pytest.raises(ConfigurationError, match="classify returned"):
        processor.batch(["a"], use_batch_api=True)
    assert not provider.ledger()


def test_without_waiting(provider: Sandbox) -> None:
    provider.set_faults({"batch": [{"latency": 3600}]})
    processor = HybridBatchProcessor(wrapped(), classify=lambda text: text == "b")
    job = processor.batch(["a", "b"], True, False)
    assert isinstance(job, BatchJob) and job.get_status() == "in_progress"
    assert [row["job_id"] for row in provider.ledger() if "b" in str(row["body"])] == [""]


@pytest.mark.parametrize("chain", [ask, "asynchronous"])
def test_asynchronously(provider: Sandbox, chain: Any) -> None:
    import openai

    async def aask(text: str) -> Any:
        async with openai.AsyncOpenAI() as client:
            message: Any = [{"role": "user", "content": f"About {text}"}]
            done = await client.chat.completions.create(model="gpt-4o", messages=message)
        return done.choices[0].message.content

    target = aask if chain == "asynchronous" else chain
    processor = HybridBatchProcessor(wrapped(target), classify=lambda text: text == "a")
    results = asyncio.run(processor.abatch(["a", "b"], use_batch_api=True))
    assert results == ["Sandbox answer to: About a", "Sandbox answer to: About b"]
    assert sorted(bool(row["job_id"]) for row in provider.ledger()) == [False, True]


def test_failures_in_real_time(provider: Sandbox) -> None:
    results = HybridBatchProcessor(wrapped()).batch(["a", "[[status:400]]"])
    assert results[0] and results[1] is None
    given = HybridBatchProcessor(wrapped()).batch(["[[status:400]]"], return_exceptions=True)
    assert isinstance(given[0], Exception)


def test_concurrency_limit_of_the_config(provider: Sandbox) -> None:
    results = HybridBatchProcessor(wrapped()).batch(list("abcdef"), config={"max_concurrency": 2})
    assert len(set(results)) == 6


def test_monitor_by_hand() -> None:
    monitor = CostMonitor()
    monitor.record_batch(100, use_batch_api=False, cost_per_request=0.001)
    monitor.record_batch(900, use_batch_api=True, cost_per_request=0.001)
    assert monitor.as_dict() == {
        "total_requests": 1000,
        "realtime_requests": 100,
        "batch_requests": 900,
        "cached_requests": 0,
        "list_price_usd": 1.0,
        "total_cost_usd": 0.55,
        "saved_usd": 0.45,
        "saved_percent": 45.0,
        "unknown_price": 0,
    }
    report = io.StringIO()
    monitor.print_report(report)
    for text in ("1,000", "100", "900", "$0.55", "$0.45", "45.0 %"):
        assert text in report.getvalue()
    usual = CostMonitor()
    usual.record_batch(100, use_batch_api=False)
    usual.record_batch(900, use_batch_api=True)
    assert usual.as_dict() == monitor.as_dict(), "$0.001 a request, unless told"
    assert (usual.total_cost, usual.total_requests) == (0.55, 1000)
    assert (usual.batch_api_requests, usual.normal_requests) == (900, 100)
    json.dumps(monitor.as_dict())
    with pytest.raises(ValueError, match="negative"):
        monitor.record_batch(-1)


def test_monitor_of_jobs(provider: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    with CostMonitor() as monitor:
        job = wrapped().submit_batch(["a", "b"])
        before = monitor.as_dict()["total_requests"]
        job.wait()
        HybridBatchProcessor(wrapped()).batch(["c"])
        wrapped().submit_batch(["a"])
    wrapped().submit_batch(["not metered"]).wait()
    monitor.record(job)
    sums = monitor.as_dict()
    assert before == 0
    assert (sums["batch_requests"], sums["realtime_requests"], sums["cached_requests"]) == (2, 1, 1)
    total = job.summary.total
    assert sums["saved_usd"] > float(total.saved) > 0, "a cached answer saves its list price"
    monitor.print_report()
    assert "from cache:    1" in capsys.readouterr().out and "4 requests" in repr(monitor)
    own = CostMonitor()
    HybridBatchProcessor(wrapped(), monitor=own).batch(["e"], use_batch_api=True)
    assert own.as_dict()["batch_requests"] == 1


@pytest.mark.skipif(not EXAMPLE.exists(), reason="needs the examples")
def test_the_example(quick_python: None) -> None:
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True)
    assert "900 of 1,000 rated 7 or better" in done.stdout and "45.0 %" in done.stdout
    assert done.stdout.count("\nSaved:") == 6 and not done.stderr

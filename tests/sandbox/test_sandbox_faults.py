"""The sandbox's faults: connections, replies, outcomes of batches, limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from support.sandbox_clients import ant, line, oai, params, read, send, submit

from pytest_langasync.sandbox import BatchFault, HttpFault, Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "sandbox") as sandbox:
        yield sandbox


def test_connection_faults(sandbox: Sandbox) -> None:
    path, url = "POST /v1/batches", f"{sandbox.url}/v1/batches"
    headers = {"authorization": "Bearer k"}
    body = {"input_file_id": "f", "endpoint": "/v1/responses", "completion_window": "24h"}

    def batches_after(fault: HttpFault, expected: type[Exception]) -> int:
        sandbox.reset()
        sandbox.set_faults({"http": [fault]})
        with pytest.raises(expected):
            httpx.post(url, headers=headers, json=body)
        return len(oai(sandbox).batches.list().data)

    assert batches_after(HttpFault(path, reset=True), httpx.NetworkError) == 0
    assert batches_after(HttpFault(path, reset=True, after=True), httpx.NetworkError) == 1
    assert batches_after(HttpFault(path, truncate=20), httpx.RemoteProtocolError) == 1


def test_status_faults_count_their_calls(sandbox: Sandbox) -> None:
    url, headers = f"{sandbox.url}/v1/batches", {"authorization": "Bearer k"}
    html = "<html>bad gateway</html>"
    rules = [
        {"path": "GET /v1/batches", "nth": 2, "status": 429, "headers": {"Retry-After": "7"}},
        {"path": "GET *", "nth": 3, "status": 502, "body": html},
        {"path": "GET /v1/batches", "nth": 4, "count": 0, "status": 503},
    ]
    assert httpx.post(f"{sandbox.url}/_sandbox/faults", json={"http": rules}).status_code == 200
    got = [httpx.get(url, headers=headers) for _ in range(6)]
    assert [reply.status_code for reply in got] == [200, 429, 502, 503, 503, 503]
    assert got[1].headers["retry-after"] == "7"
    assert got[1].json()["error"]["code"] == "rate_limit_exceeded"
    assert got[2].text == html
    assert sandbox.requests() == {"GET /v1/batches": 6}


def test_spoilt_replies(sandbox: Sandbox) -> None:
    url, headers = f"{sandbox.url}/v1/batches", {"authorization": "Bearer k"}

    def spoilt(**fault: Any) -> httpx.Response:
        sandbox.set_faults({"http": [HttpFault(**fault)]})
        return httpx.get(url, headers=headers)

    assert spoilt(replace=[['"list"', '"pondering"']]).json()["object"] == "pondering"
    assert spoilt(insert="garbage{").text.endswith("garbage{\n")
    assert spoilt(drip=0.001, delay=0.001).json()["data"] == []
    with pytest.raises(httpx.DecodingError):
        spoilt(headers={"Content-Encoding": "gzip"})


def test_an_unknown_fault_is_refused(sandbox: Sandbox) -> None:
    wrongs: Any = ({"http": [{"nht": 1}]}, {"weather": []}, {"batch": [{"status": 1}]})
    for wrong in wrongs:
        assert httpx.post(f"{sandbox.url}/_sandbox/faults", json=wrong).status_code == 400
        with pytest.raises(ValueError, match="unknown"):
            sandbox.set_faults(wrong)


def outcome(sandbox: Sandbox, fault: BatchFault, count: int = 4) -> tuple[Any, Any, Any]:
    sandbox.set_faults({"batch": [fault]})
    client = oai(sandbox)
    batch = client.batches.retrieve(submit(client, [line(f"r{n}") for n in range(count)]).id)
    return batch, read(client, batch.output_file_id), read(client, batch.error_file_id)


def test_batch_outcomes(sandbox: Sandbox) -> None:
    batch, good, bad = outcome(sandbox, BatchFault(end="expired", done=1))
    assert batch.status == "expired" and set(good) == {"r0"}
    assert {row["error"]["code"] for row in bad.values()} == {"batch_expired"}
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 1, "failed": 0}
    batch, good, bad = outcome(sandbox, BatchFault(failure="token_limit_exceeded"))
    assert (batch.status, batch.errors.data[0].code) == ("failed", "token_limit_exceeded")
    batch, good, bad = outcome(sandbox, BatchFault(end="failed", done=2))
    assert batch.status == "failed" and len(good) == 2 and not bad
    batch, good, bad = outcome(sandbox, BatchFault(missing=1, unknown=1, empty_ids=True))
    assert set(good) == {"r1", "r2", "r3", "unknown-0"} and batch.error_file_id == ""
    batch, good, bad = outcome(sandbox, BatchFault(rows={"0": 429, "1": "expire"}))
    assert bad["r0"]["response"]["status_code"] == 429 and bad["r1"]["error"]
    batch, good, bad = outcome(sandbox, BatchFault(final_word="pondered", counts={"total": 9}))
    assert (batch.status, batch.request_counts.total) == ("pondered", 9)
    bought = [entry["custom_id"] for entry in sandbox.ledger()]
    assert len(bought) == 1 + 0 + 2 + 3 + 3 + 4


def test_duplicate_rows_are_bought_once(sandbox: Sandbox) -> None:
    sandbox.set_faults({"batch": [BatchFault(duplicate=1)]})
    client = oai(sandbox)
    batch = client.batches.retrieve(submit(client, [line("a"), line("b", "[[duplicate]]")]).id)
    assert batch.output_file_id
    assert client.files.content(batch.output_file_id).text.count("\n") > 3
    assert len(sandbox.ledger()) == 2


def test_directives_in_prompts(sandbox: Sandbox) -> None:
    client = ant(sandbox)
    prompts = {"a": "x [[status:529x1]]", "b": "x [[expire]]", "c": "x [[missing]]", "d": "x"}
    requests = {key: params(prompt) for key, prompt in prompts.items()}

    def types() -> dict[str, str]:
        batch = send(client, requests)
        client.messages.batches.retrieve(batch.id)
        return {row.custom_id: row.result.type for row in client.messages.batches.results(batch.id)}

    assert types() == {"a": "errored", "b": "expired", "d": "succeeded"}
    assert types() == {"a": "succeeded", "b": "expired", "d": "succeeded"}
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(**params("[[status:429]]"))


def test_queue_limits(tmp_path: Path) -> None:
    limits = {"limits": {"enqueued_tokens": 10, "queued_requests": 1}}
    with Sandbox(tmp_path, latency=3600, faults=limits) as slow:
        client = oai(slow)
        first, second = (client.batches.retrieve(submit(client, [line("a", "x" * 20)]).id)
                         for _ in range(2))  # fmt: skip
        assert (first.status, second.status) == ("in_progress", "failed")
        assert second.errors and second.errors.data
        assert second.errors.data[0].code == "token_limit_exceeded"
        send(ant(slow), {"a": params()})
        with pytest.raises(anthropic.RateLimitError):
            send(ant(slow), {"a": params()})

"""The sandbox's batch APIs, through the official SDKs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from support.sandbox_clients import age, ant, line, oai, params, read, send, submit

from pytest_langasync.sandbox import Sandbox

STREAM = {"model": "m", "stream": True}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "sandbox") as sandbox:
        yield sandbox


# OpenAI's batches


def test_an_openai_batch_from_create_to_rows(sandbox: Sandbox) -> None:
    client = oai(sandbox)
    rows = [line(f"r{n}", f"question {n}\u2028") for n in range(20)]
    rows.append(line("bad", "x", body={"model": "m", "messages": [], "temperature": 1}))
    batch = submit(client, rows, metadata={"nonce": "n1"})
    assert (batch.status, batch.output_file_id) == ("validating", None)
    assert batch.request_counts and batch.request_counts.total == 0
    done = client.batches.retrieve(batch.id)
    assert done.status == "completed" and done.metadata == {"nonce": "n1"}
    counts = done.request_counts
    assert counts and (counts.total, counts.completed, counts.failed) == (21, 20, 1)
    good, bad = read(client, done.output_file_id), read(client, done.error_file_id)
    assert set(good) == {f"r{n}" for n in range(20)} and set(bad) == {"bad"}
    assert list(good) != sorted(good, key=lambda key: int(key[1:]))
    assert bad["bad"]["error"] is None and bad["bad"]["response"]["status_code"] == 400
    assert bad["bad"]["response"]["body"]["error"]["code"] == "empty_array"
    spent = sum(row["response"]["body"]["usage"]["total_tokens"] for row in good.values())
    assert done.usage and done.usage.total_tokens == spent
    bought = [entry["custom_id"] for entry in sandbox.ledger()]
    assert sorted(bought) == sorted([*good, "bad"])


@pytest.mark.parametrize(
    ("lines", "code", "param", "number"),
    [
        (["{"], "invalid_json_line", None, 1),
        ([line("a"), "", line("b")], "invalid_json_line", None, 2),
        ([{"method": "POST"}], "missing_required_parameter", "custom_id", 1),
        ([line("a"), line("a")], "duplicate_custom_id", "custom_id", 2),
        ([line("a", url="/v1/responses")], "invalid_url", "url", 1),
        ([line("a", body={"messages": []})], "invalid_request", "body.model", 1),
        ([line("a", body={"model": "unknown-model"})], "model_not_found", "body.model", 1),
        ([line("a"), line("b", body={"model": "z"})], "mismatched_model", "body.model", 2),
        ([line("a", headers={})], "unknown_parameter", "headers", 1),
        ([line("a", body=STREAM)], "streaming_unsupported", "body.stream", 1),
    ],
)  # fmt: skip
def test_openai_validates_after_create(
    sandbox: Sandbox, lines: list[Any], code: str, param: str | None, number: int
) -> None:
    client = oai(sandbox)
    batch = client.batches.retrieve(submit(client, lines).id)
    assert batch.status == "failed" and batch.errors and batch.errors.data
    problem = batch.errors.data[0]
    assert (problem.code, problem.param, problem.line) == (code, param, number)
    assert sandbox.ledger() == [] and batch.output_file_id is None


def test_openai_refuses_calls(sandbox: Sandbox) -> None:
    client = oai(sandbox)
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        client.files.create(file=("in.txt", b"x"), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="'nope' is not one of"):
        client.files.create(file=("in.jsonl", b"x"), purpose="nope")  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError, match="No batch found with id 'batch_no'"):
        client.batches.retrieve("batch_no")
    with pytest.raises(openai.BadRequestError, match="metadata"):
        submit(client, [line("a")], metadata={"k": "v" * 513})
    missing = submit(client, [line("a")], input_file_id="file-no")
    errors = client.batches.retrieve(missing.id).errors
    assert errors and errors.data and errors.data[0].param == "file_id"
    done = submit(client, [line("a")])
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(done.id)


def test_openai_lists_page_and_files_go(sandbox: Sandbox) -> None:
    client = oai(sandbox)
    made = [submit(client, [line("a")]).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    files = list(client.files.list(purpose="batch"))
    assert len(files) == 5
    client.files.delete(files[0].id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(files[0].id)


def test_openai_cancel_keeps_what_was_done(tmp_path: Path) -> None:
    with Sandbox(tmp_path, latency=3600) as slow:
        client = oai(slow)
        batch = client.batches.retrieve(submit(client, [line(f"r{n}") for n in range(4)]).id)
        assert batch.status == "in_progress"
        assert client.batches.cancel(batch.id).status == "cancelling"
        assert client.batches.retrieve(batch.id).status == "cancelling"
        age(slow, batch.id, done=1)
        done = client.batches.retrieve(batch.id)
        assert done.status == "cancelled" and done.request_counts
        assert (done.request_counts.completed, done.request_counts.failed) == (1, 0)
        bad = read(client, done.error_file_id)
        assert [row["error"]["code"] for row in bad.values()] == ["batch_cancelled"] * 3
        assert len(slow.ledger()) == 1


# Anthropic's batches


def test_an_anthropic_batch_from_create_to_rows(sandbox: Sandbox) -> None:
    client = ant(sandbox)
    requests = {f"r{n}": params(f"q {n}") for n in range(20)}
    requests |= {"stream": params(stream=True), "model": params(model="unknown-model")}
    requests |= {"zero": params(max_tokens=0), "betas": params(betas=["x"])}
    batch = send(client, requests)
    assert batch.processing_status == "in_progress" and batch.results_url is None
    done = client.messages.batches.retrieve(batch.id)
    assert done.processing_status == "ended"
    assert done.request_counts.succeeded == 20 and done.request_counts.errored == 4
    rows: Any = list(client.messages.batches.results(batch.id))
    assert [row.custom_id for row in rows] != list(requests)
    results = {row.custom_id: row.result for row in rows}
    assert set(results) == set(requests)
    assert results["r1"].message.usage.service_tier == "batch"
    assert results["model"].error.error.type == "not_found_error"
    assert {results[key].type for key in ("stream", "zero", "betas")} == {"errored"}
    listed = [entry.id for entry in client.messages.batches.list(limit=1)]
    assert listed == [batch.id]
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "List should have at least 1 item"),
        ([{"params": {}}], "requests.0.custom_id: Field required"),
        ([{"custom_id": "ä", "params": {}}], "String should match pattern"),
        ([{"custom_id": "a" * 65, "params": {}}], "String should match pattern"),
        ([{"custom_id": "a", "params": {}}] * 2, "Duplicate custom_id found: a"),
    ],
)
def test_anthropic_checks_ids_at_create(sandbox: Sandbox, requests: Any, message: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message):
        ant(sandbox).messages.batches.create(requests=requests)


def test_anthropic_cancel_and_reading_too_early(tmp_path: Path) -> None:
    with Sandbox(tmp_path, latency=3600) as slow:
        client = ant(slow)
        batch = send(client, {"a": params(), "b": params()})
        with pytest.raises(anthropic.BadRequestError, match="In progress"):
            client.messages.batches.delete(batch.id)
        polled = client.messages.batches.with_raw_response.retrieve(batch.id)
        assert polled.headers["retry-after"] == "10"
        url = f"{slow.url}/v1/messages/batches/{batch.id}/results"
        old = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        early = httpx.get(url, headers=old)
        assert early.status_code == 404 and "no available results" in early.text
        assert client.messages.batches.cancel(batch.id).processing_status == "canceling"
        age(slow, batch.id)
        rows = list(client.messages.batches.results(batch.id))
        assert [row.result.type for row in rows] == ["canceled"] * 2

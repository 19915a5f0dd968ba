"""Anthropic's own words and shapes: message batches and their results."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.loopback import Say, loopback
from support.provider_bench import Bench

from pytest_langasync.exceptions import JobNotFoundError, ResultsNotReadyError
from pytest_langasync.models import JobState, JobStatus, Request, ResultRow, Target, canonical_json
from pytest_langasync.providers import Created, Submission
from pytest_langasync.providers.anthropic import ANTHROPIC

ROUTE = "/v1/messages/batches"


@pytest.fixture
def bench() -> Iterator[Bench]:
    with loopback() as server:
        bench = Bench("anthropic", server)
        server.on(f"POST {ROUTE}", Say(bench.batch))
        yield bench


def test_what_is_created(bench: Bench) -> None:
    bodies: list[dict[str, Any]] = [{"model": "m", "x": ["é\u2028"]}, {"unknown": None, "n": 1.5}]
    lines = [(f"n-{n}", body) for n, body in enumerate(bodies)]
    made = bench.client().create(Submission("n", "/messages", (), lines, 2))
    assert made == Created("b1", 1.0)
    (create,) = bench.server.at(f"POST {ROUTE}")
    assert create.json == {"requests": [{"custom_id": c, "params": body} for c, body in lines]}
    assert create.query == ""
    bound = sum(ANTHROPIC.line_bytes(c, len(canonical_json(b).encode())) for c, b in lines)
    assert len(create.data) - len('{"requests":[]}') <= bound


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("in_progress", JobState.RUNNING),
        ("canceling", JobState.RUNNING),
        ("ended", JobState.ENDED),
        ("ENDED", JobState.ENDED),
        ("brand_new", JobState.RUNNING),
        (None, JobState.RUNNING),
    ],
)
def test_status_words(bench: Bench, word: str | None, state: JobState) -> None:
    bench.server.on(f"GET {ROUTE}/b1", Say({**bench.batch, "processing_status": word}))
    assert bench.client().status("b1").state is state


def test_an_unknown_word_of_a_batch_that_has_ended(bench: Bench) -> None:
    ended = {"processing_status": "archived", "ended_at": "1970-01-01T00:00:09Z"}
    bench.server.on(f"GET {ROUTE}/b1", Say({**bench.batch, **ended}))
    assert bench.client().status("b1").state is JobState.ENDED


def test_counts(bench: Bench) -> None:
    counts = {"processing": 1, "succeeded": 2, "errored": 3, "canceled": 4, "expired": 5}
    bench.server.on(f"GET {ROUTE}/b1", Say({**bench.batch, "request_counts": counts}))
    status = bench.client().status("b1")
    assert (status.total, status.completed, status.failed) == (15, 2, 12)
    odd: Any
    for odd in (None, {"succeeded": None}, []):
        bench.server.on(f"GET {ROUTE}/b1", Say({**bench.batch, "request_counts": odd}))
        assert bench.client().status("b1").total == 0


def status_at(*urls: str) -> JobStatus:
    return JobStatus(JobState.ENDED, "ended", output_refs=urls)


def row_of(bench: Bench, result: Any) -> ResultRow:
    data = json.dumps({"custom_id": "a", "result": result}).encode()
    bench.server.on(f"GET {bench.results}", Say(data))
    (row,) = bench.client().rows("b1", status_at(f"{bench.server.url}{bench.results}"))
    return row


def test_a_row_that_succeeded(bench: Bench) -> None:
    message = {"id": "msg_1", "content": []}
    assert row_of(bench, {"type": "succeeded", "message": message}) == ResultRow("a", 200, message)


@pytest.mark.parametrize(
    ("kind", "status", "retryable"),
    [
        ("invalid_request_error", 400, False),
        ("authentication_error", 401, False),
        ("billing_error", 402, False),
        ("permission_error", 403, False),
        ("not_found_error", 404, False),
        ("conflict_error", 409, False),
        ("request_too_large", 413, False),
        ("rate_limit_error", 429, True),
        ("api_error", 500, True),
        ("timeout_error", 504, True),
        ("overloaded_error", 529, True),
        ("brand_new_error", 500, True),
    ],
)
def test_a_row_with_an_error(bench: Bench, kind: str, status: int, retryable: bool) -> None:
    error = {"type": kind, "message": "m"}
    envelope = {"type": "error", "error": error, "request_id": "w"}
    row = row_of(bench, {"type": "errored", "error": envelope})
    assert row == ResultRow("a", status, envelope, "w", retryable)
    # Without the double nesting, and without a request ID.
    row = row_of(bench, {"type": "errored", "error": error})
    assert row == ResultRow("a", status, {"type": "error", "error": error}, "", retryable)


def test_a_spend_limit_is_not_retried(bench: Bench) -> None:
    details = {"error_code": "enforced_spend_limit_reached"}
    error = {"type": "rate_limit_error", "message": "m", "details": details}
    assert not row_of(bench, {"type": "errored", "error": {"error": error}}).retryable


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"type": "canceled"}, 503),
        ({"type": "expired"}, 504),
        ({"type": "brand_new"}, 500),
        ({"type": "succeeded", "message": None}, 500),
        ({"type": "errored", "error": "x"}, 500),
        (None, 500),
        ({}, 500),
    ],
)
def test_a_row_without_an_answer(bench: Bench, result: Any, status: int) -> None:
    row = row_of(bench, result)
    assert (row.status, row.retryable) == (status, True)
    assert row.body["type"] == "error"
    assert {"type", "message"} == row.body["error"].keys()


def test_the_key_does_not_follow_a_results_url_to_another_host(bench: Bench) -> None:
    bench.server.on(f"GET {bench.results}", Say(bench.row("a")))
    with loopback() as other:
        for url in (
            f"{other.url}{bench.results}",
            f"http://localhost:{bench.server.url.rpartition(':')[2]}{bench.results}",
            bench.server.url.replace("http:", "https:") + bench.results,
            f"//evil.invalid{bench.results}",
            "",
            "nonsense",
        ):
            # A gateway in front: they are where the documentation has them.
            (row,) = bench.client().rows("b1", status_at(url))
            assert row.custom_id == "a"
        assert other.seen == []


def test_results_at_another_path_of_the_same_host(bench: Bench) -> None:
    bench.server.on("GET /elsewhere", Say(bench.row("a")))
    (row,) = bench.client().rows("b1", status_at(f"{bench.server.url}/elsewhere"))
    assert row.custom_id == "a"


@pytest.mark.parametrize("gone", [{"archived_at": "2026-01-01T00:00:00Z"}, {}])
def test_an_archived_batch_has_no_results(bench: Bench, gone: dict[str, str]) -> None:
    bench.server.on(f"GET {ROUTE}/b1", Say({**bench.batch, "results_url": None, **gone}))
    bench.server.on(f"GET {bench.results}", Say(bench.error(), 404))
    client = bench.client()
    with pytest.raises(JobNotFoundError, match="no longer"):
        list(client.rows("b1", client.status("b1")))
    assert client.input_ids("b1") is None


def test_results_that_cannot_be_gone_yet_are_not_there_yet(bench: Bench) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat()
    batch = {**bench.batch, "results_url": None, "created_at": now}
    bench.server.on(f"GET {ROUTE}/b1", Say(batch))
    bench.server.on(f"GET {bench.results}", Say(bench.error(), 404), Say(bench.row("a")))
    client = bench.client()
    with pytest.raises(ResultsNotReadyError):
        list(client.rows("b1", client.status("b1")))
    assert [row.custom_id for row in client.rows("b1", client.status("b1"))] == ["a"]


def test_input_ids_are_known_once_there_are_results(bench: Bench) -> None:
    running = {**bench.batch, "processing_status": "in_progress", "results_url": None}
    bench.server.on(f"GET {ROUTE}/b1", Say(running))
    assert bench.client().input_ids("b1") is None
    bench.server.on(f"GET {ROUTE}/b1", Say(bench.batch))
    assert bench.client().input_ids("b1") is None  # archived
    bench.server.on(f"GET {bench.results}", Say(bench.row("x") + bench.row("y")))
    assert bench.client().input_ids("b1") == frozenset("xy")


def test_find_reads_pages_until_they_are_too_old(bench: Bench) -> None:
    def page(*seconds: int) -> Say:
        data = [
            {**bench.batch, "id": f"b{s}", "created_at": f"1970-01-01T00:00:0{s}.250000Z"}
            for s in seconds
        ]
        return Say({"data": data, "has_more": True, "last_id": f"b{seconds[-1]}"})

    bench.server.on(f"GET {ROUTE}", page(9, 8), Say({}, 529), page(7, 6), page(5, 4), page(3))
    found = list(bench.client().find(since=6))
    assert [batch.job_id for batch in found] == ["b9", "b8", "b7", "b6", "b5"]
    assert found[0].created_at == 9.25
    assert (found[0].total, found[0].endpoint, found[0].running) == (1, "/messages", False)
    assert found[0].nonce == ""
    queries = [seen.query for seen in bench.server.at(f"GET {ROUTE}")]
    assert [q.partition("after_id=")[2].partition("&")[0] for q in queries] == [
        "",
        "b8",
        "b8",
        "b6",
    ]


def test_find_stops_at_its_limit_and_at_the_end(bench: Bench) -> None:
    batches = [bench.batch, bench.batch, "no batch"]
    more = {"data": batches, "has_more": True, "last_id": "b1"}
    bench.server.on(f"GET {ROUTE}", Say(more))
    assert len(list(bench.client().find(0, limit=4))) == 4
    bench.server.on(f"GET {ROUTE}", Say({**more, "has_more": False}))
    assert len(list(bench.client().find(0))) == 2
    bench.server.on(f"GET {ROUTE}", Say({"data": [{"id": "b", "created_at": "soon"}]}))
    assert [batch.created_at for batch in bench.client().find(0)] == [0.0]
    assert list(bench.client().find(100)) == []


def test_there_are_no_files_to_delete(bench: Bench) -> None:
    bench.client().delete_files([f"{bench.server.url}{bench.results}"])
    assert bench.server.seen == []


@pytest.mark.parametrize(
    ("url", "official"),
    [
        ("https://api.anthropic.com/v1", True),
        ("https://API.anthropic.com", True),
        ("http://api.anthropic.com/v1", False),
        ("https://api.anthropic.com.evil.org", False),
        ("https://eu.api.anthropic.com/v1", False),
        ("", False),
    ],
)
def test_the_official_host(url: str, official: bool) -> None:
    assert ANTHROPIC.is_official(url) is official


def test_identity_headers() -> None:
    headers = {"Anthropic-Version": "v", "anthropic-beta": "b, a ,b,", "x-api-key": "k"}
    assert ANTHROPIC.identity_headers(headers) == (
        ("anthropic-beta", "a,b"),
        ("anthropic-version", "v"),
    )
    assert ANTHROPIC.identity_headers({"anthropic-beta": " , "}) == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"speed": "fast"},
        {"store": False},
        {"previous_thread_event_id": "e"},
        {"thread": {}},
        {"cache_hint": {}},
        {"context_hint": {}},
        {"max_tokens": 0},
        {"research_preview_2026_02": "active"},
        {"billing_policy": {"bill_to": "user_profile"}},
    ],
)
def test_what_cannot_be_batched(fields: dict[str, Any]) -> None:
    request = Request(
        Target("anthropic", "u", "/messages"), {"model": "m", "max_tokens": 9, **fields}
    )
    assert ANTHROPIC.rejected(request)


def test_ordinary_requests_can_be_batched() -> None:
    fields = {"speed": None, "billing_policy": {"bill_to": "organization"}, "thinking": {}}
    assert ANTHROPIC.rejected(Request(Target("anthropic", "u", "/messages"), fields)) == ""

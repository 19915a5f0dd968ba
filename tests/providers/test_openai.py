"""OpenAI's own words and shapes: files, batches, rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.loopback import Say, loopback
from support.provider_bench import Bench

from pytest_langasync.exceptions import ConfigurationError, JobNotFoundError, ProviderError
from pytest_langasync.models import JobState, JobStatus, Request, ResultRow, Target, canonical_json
from pytest_langasync.providers import Created, Submission
from pytest_langasync.providers.openai import OPENAI

BATCH = {"id": "b1", "object": "batch", "endpoint": "/v1/responses", "input_file_id": "file-i"} | {
    "created_at": 1000
}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with loopback() as server:
        server.on("POST /v1/files", Say({"id": "file-i"}))
        server.on("POST /v1/batches", Say({**BATCH, "status": "validating"}))
        yield Bench("openai", server)


def submission(endpoint: str = "/responses", count: int = 2, suite: str = "s") -> Submission:
    bodies: list[dict[str, Any]] = [{"model": "m", "n": n, "x": "é\u2028"} for n in range(count)]
    lines = [(f"n-{n}", body) for n, body in enumerate(bodies)]
    return Submission("n", endpoint, (), lines, count, suite)


def test_what_is_uploaded_and_created(bench: Bench) -> None:
    made = bench.client().create(submission())
    assert made == Created("b1", 1000.0, "file-i")
    (upload,) = bench.server.at("POST /v1/files")
    assert upload.parts["purpose"].get_content() == "batch"
    assert str(upload.parts["file"].get_filename()).endswith(".jsonl")
    data = upload.parts["file"].get_payload(decode=True)
    assert isinstance(data, bytes)
    lines = data.removesuffix(b"\n").split(b"\n")
    assert [json.loads(line) for line in lines] == [
        {"custom_id": custom_id, "method": "POST", "url": "/v1/responses", "body": body}
        for custom_id, body in submission().lines
    ]
    assert bench.server.at("POST /v1/batches")[0].json == {
        "input_file_id": "file-i",
        "endpoint": "/v1/responses",
        "completion_window": "24h",
        "metadata": {"langasync_nonce": "n", "langasync_suite": "s"},
    }


def test_a_suite_without_a_name_is_left_out(bench: Bench) -> None:
    bench.client().create(submission(suite=""))
    (create,) = bench.server.at("POST /v1/batches")
    assert create.json["metadata"] == {"langasync_nonce": "n"}


def test_an_upload_is_repeated_whole(bench: Bench) -> None:
    good = Say({"id": "file-i"})
    bench.server.on("POST /v1/files", Say(fault="reset"), Say({}, 503), Say({}, 429), good)
    bench.client().create(submission(count=3000))
    uploads = bench.server.at("POST /v1/files")
    contents = [upload.parts["file"].get_payload() for upload in uploads]
    assert len(contents) == 4
    assert len(set(map(str, contents))) == 1
    assert str(contents[0]).count("\n") >= 2999
    assert bench.server.count("POST /v1/batches") == 1


@pytest.mark.parametrize("answer", [{}, {"id": ""}, {"id": None}])
def test_an_upload_without_a_file_id_creates_nothing(bench: Bench, answer: Any) -> None:
    bench.server.on("POST /v1/files", Say(answer))
    with pytest.raises(ConfigurationError, match="no file ID"):
        bench.client().create(submission())
    assert bench.server.count("POST /v1/batches") == 0


def test_a_file_that_is_not_visible_yet_is_waited_for(bench: Bench) -> None:
    message = "Cannot find file file-i, or project p does not have access to it."
    unseen = Say(bench.error(message), 400)
    bench.server.on("POST /v1/batches", unseen, unseen, Say(BATCH))
    assert bench.client().create(submission()).job_id == "b1"
    assert len(bench.slept) == 2
    bench.server.on("POST /v1/batches", unseen)
    with pytest.raises(ProviderError, match="Cannot find file") as caught:
        bench.client().create(submission())
    assert type(caught.value) is ProviderError
    assert bench.server.count("POST /v1/files") == 2


def test_the_upper_bound_of_a_line(bench: Bench) -> None:
    body = {"model": "m", "text": 'é\u2028"\\'}
    lines = [("n-1", body)]
    for endpoint in (dialect.endpoint for dialect in OPENAI.dialects):
        bench.client().create(Submission("n", endpoint, (), lines, 1))
        sent = bench.server.at("POST /v1/files")[-1].parts["file"].get_payload(decode=True)
        assert isinstance(sent, bytes)
        bound = OPENAI.line_bytes("n-1", len(canonical_json(body).encode()))
        assert len(sent) <= bound <= len(sent) + 20


COUNTS = {"total": 3, "completed": 2, "failed": 1}
ERRORS = {"object": "list", "data": [{"code": "c", "message": "m", "param": None, "line": 7}]}


@pytest.mark.parametrize(
    ("batch", "state", "refs"),
    [
        ({"status": "validating"}, JobState.RUNNING, ()),
        ({"status": "in_progress", "request_counts": None}, JobState.RUNNING, ()),
        ({"status": "finalizing"}, JobState.RUNNING, ()),
        ({"status": "cancelling"}, JobState.RUNNING, ()),
        ({"status": "brand_new"}, JobState.RUNNING, ()),
        (
            {"status": "archived", "completed_at": 5, "output_file_id": "o"},
            JobState.ENDED,
            ("o",),
        ),
        ({"status": None}, JobState.RUNNING, ()),
        ({"status": "COMPLETED", "output_file_id": "o"}, JobState.ENDED, ("o",)),
        ({"status": "completed", "error_file_id": "e"}, JobState.ENDED, ("e",)),
        (
            {"status": "completed", "output_file_id": "o", "error_file_id": ""},
            JobState.ENDED,
            ("o",),
        ),
        ({"status": "expired", "output_file_id": "o"}, JobState.ENDED, ("o",)),
        ({"status": "cancelled", "output_file_id": None}, JobState.ENDED, ()),
        ({"status": "failed", "errors": ERRORS}, JobState.REJECTED, ()),
        ({"status": "failed", "error_file_id": "e"}, JobState.ENDED, ("e",)),
        ({"status": "failed", "request_counts": COUNTS}, JobState.ENDED, ()),
    ],
)
def test_status_words(bench: Bench, batch: Any, state: JobState, refs: tuple[str, ...]) -> None:
    bench.server.on("GET /v1/batches/b1", Say({**BATCH, **batch}))
    status = bench.client().status("b1")
    assert (status.state, status.output_refs) == (state, refs)
    assert status.word == str(batch["status"] or "").lower()


@pytest.mark.parametrize(
    ("batch", "unready"),
    [
        ({"status": "completed", "request_counts": COUNTS}, True),
        ({"status": "completed", "request_counts": COUNTS, "output_file_id": ""}, True),
        ({"status": "completed", "request_counts": COUNTS, "error_file_id": "e"}, True),
        ({"status": "expired", "request_counts": COUNTS}, True),
        ({"status": "completed", "request_counts": COUNTS, "output_file_id": "o"}, False),
        ({"status": "completed", "error_file_id": "e", "request_counts": {"failed": 2}}, False),
        ({"status": "completed", "request_counts": {"failed": 2}}, True),
        ({"status": "cancelled", "request_counts": {"total": 2}}, False),
        ({"status": "completed"}, False),
        ({"status": "finalizing", "request_counts": COUNTS}, False),
    ],
)
def test_a_batch_that_has_ended_before_its_files_are_told(
    bench: Bench, batch: Any, unready: bool
) -> None:
    bench.server.on("GET /v1/batches/b1", Say({**BATCH, **batch}))
    assert bench.client().status("b1").unready is unready


def test_counts_and_reasons(bench: Bench) -> None:
    batch = {**BATCH, "status": "failed", "request_counts": COUNTS, "errors": ERRORS}
    bench.server.on("GET /v1/batches/b1", Say(batch))
    status = bench.client().status("b1")
    assert (status.total, status.completed, status.failed) == (3, 2, 1)
    assert (status.reason, status.reason_code) == ("m (line 7)", "c")
    for errors in (None, {}, {"data": None}, {"data": ["x"]}, "x"):
        bench.server.on("GET /v1/batches/b1", Say({**batch, "errors": errors}))
        assert bench.client().status("b1").reason == ""


def row_of(bench: Bench, line: dict[str, Any]) -> ResultRow:
    data = json.dumps({"custom_id": "a", **line}).encode()
    bench.server.on("GET /v1/files/o/content", Say(data))
    (row,) = bench.client().rows("b1", JobStatus(JobState.ENDED, "x", output_refs=("o",)))
    return row


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (200, False),
        (400, False),
        (404, False),
        (408, True),
        (409, False),
        (422, False),
        (429, True),
        (500, True),
        (503, True),
    ],
)
def test_a_row_with_an_answer(bench: Bench, status: int, retryable: bool) -> None:
    body = {"any": "thing"} if status == 200 else bench.error("m")
    response = {"status_code": status, "request_id": "r", "body": body}
    assert row_of(bench, {"response": response, "error": None}) == ResultRow(
        "a", status, body, "r", retryable
    )


@pytest.mark.parametrize(
    ("body", "retryable", "failed"),
    [
        ({"status": "failed", "error": {"code": "server_error", "message": "m"}}, True, True),
        ({"status": "failed", "error": {"code": "invalid_prompt", "message": "m"}}, False, True),
        ({"status": "failed", "error": None}, False, True),
        ({"status": "incomplete", "output": []}, False, False),
        ({"error": {"code": "rate_limit_exceeded", "message": "m"}}, True, True),
        ({"error": {"code": 502, "message": "m"}}, True, True),
        ({"error": {"code": 400, "message": "m"}}, False, True),
        ({"error": "overloaded", "choices": []}, False, True),
        ({"error": None, "choices": [{}]}, False, False),
        ({"error": {"code": "server_error"}, "choices": [{}]}, False, False),
    ],
)
def test_a_success_with_a_failure_inside(
    bench: Bench, body: Any, retryable: bool, failed: bool
) -> None:
    row = row_of(bench, {"response": {"status_code": 200, "body": body}})
    assert (row.status, row.body, row.retryable, row.failed) == (200, body, retryable, failed)
    assert row.ok is not failed


@pytest.mark.parametrize("status", [200, 400])
def test_a_body_that_is_the_text_of_its_json(bench: Bench, status: int) -> None:
    body = {"choices": [{}]} if status == 200 else bench.error("m")
    row = row_of(bench, {"response": {"status_code": status, "body": json.dumps(body)}})
    assert (row.body, row.retryable, row.failed) == (body, False, False)


def test_a_row_that_nobody_will_pay_for_is_not_retried(bench: Bench) -> None:
    response = {"status_code": 429, "body": bench.error(code="insufficient_quota")}
    assert not row_of(bench, {"response": response}).retryable


@pytest.mark.parametrize(
    ("code", "status"),
    [("batch_expired", 504), ("batch_cancelled", 503), ("request_timeout", 504), ("new", 500)],
)
def test_a_row_that_never_ran(bench: Bench, code: str, status: int) -> None:
    row = row_of(bench, {"response": None, "error": {"code": code, "message": "why"}})
    error = {"message": "why", "type": "server_error", "param": None, "code": code}
    assert row == ResultRow("a", status, {"error": error}, "", True)


@pytest.mark.parametrize(
    "response",
    [
        None,
        "x",
        {},
        {"status_code": 0, "body": {}},
        {"status_code": 200, "body": None},
        {"status_code": "ok"},
        {"status_code": 204},
    ],
)
def test_a_row_without_sense_is_asked_again(bench: Bench, response: Any) -> None:
    for error in ({}, {"error": None}, {"error": "text"}):
        row = row_of(bench, {"response": response, **error})
        assert (row.status, row.retryable) == (500, True)
        assert isinstance(row.body["error"]["message"], str)


def test_rows_of_both_files(bench: Bench) -> None:
    bench.server.on("GET /v1/files/o/content", Say(bench.row("a") + bench.row("b")))
    bench.server.on("GET /v1/files/e/content", Say(bench.row("c")))
    status = JobStatus(JobState.ENDED, "x", output_refs=("o", "e"))
    assert [row.custom_id for row in bench.client().rows("b1", status)] == ["a", "b", "c"]


def test_a_file_that_is_gone_does_not_lose_the_other(bench: Bench) -> None:
    bench.server.on("GET /v1/files/e/content", Say(bench.row("c")))
    status = JobStatus(JobState.ENDED, "x", output_refs=("o", "e"))
    rows = bench.client().rows("b1", status)
    assert next(rows).custom_id == "c"
    with pytest.raises(JobNotFoundError):
        next(rows)


def test_find_reads_pages_until_they_are_too_old(bench: Bench) -> None:
    def page(*times: int, more: bool = True) -> Say:
        data: list[dict[str, Any]] = [
            {**BATCH, "id": f"b{t}", "created_at": t, "status": "in_progress"} for t in times
        ]
        return Say({"object": "list", "data": data, "has_more": more})

    broken = Say({}, 503)
    bench.server.on("GET /v1/batches", page(9, 8), broken, page(7, 6), page(5, 4), page(3))
    found = bench.client().find(since=5.9)
    assert [batch.job_id for batch in found] == ["b9", "b8", "b7", "b6", "b5"]
    queries = [seen.query for seen in bench.server.at("GET /v1/batches")]
    assert queries[0] == "limit=100"
    assert [q.partition("after=")[2].partition("&")[0] for q in queries] == ["", "b8", "b8", "b6"]


def test_find_stops_at_its_limit_and_at_the_end(bench: Bench) -> None:
    batch = {**BATCH, "status": "completed"}
    bench.server.on("GET /v1/batches", Say({"data": [batch, batch], "has_more": True}))
    assert len(list(bench.client().find(0, limit=4))) == 4
    assert bench.server.at("GET /v1/batches")[-1].query.count("limit=2") == 1
    bench.server.on("GET /v1/batches", Say({"data": [batch], "has_more": False}))
    assert len(list(bench.client().find(0))) == 1


def test_find_does_not_rely_on_the_order(bench: Bench) -> None:
    def page(*times: int, more: bool) -> Say:
        data: list[dict[str, Any]] = [{**BATCH, "id": f"b{t}", "created_at": t} for t in times]
        return Say({"data": data, "has_more": more})

    bench.server.on("GET /v1/batches", page(1, 2, more=True), page(8, 9, more=False))
    assert [batch.job_id for batch in bench.client().find(since=8)] == ["b8", "b9"]


def test_what_find_tells(bench: Bench) -> None:
    metadata = {"langasync_nonce": "n", "langasync_suite": "s"}
    full = {**BATCH, "status": "completed", "model": "m", "request_counts": COUNTS}
    bare = {"id": "b2", "created_at": 1000, "metadata": None}
    data = [{**full, "metadata": metadata}, bare, "no batch"]
    bench.server.on("GET /v1/batches", Say({"data": data, "has_more": False}))
    first, second = bench.client().find(0)
    assert (first.nonce, first.suite, first.endpoint) == ("n", "s", "/responses")
    assert (first.model, first.total, first.input_ref, first.running) == ("m", 3, "file-i", False)
    assert (second.nonce, second.suite, second.running) == ("", "", True)


def test_input_ids(bench: Bench) -> None:
    bench.server.on("GET /v1/batches/b1", Say({**BATCH, "status": "in_progress"}))
    assert bench.client().input_ids("b1") is None  # the file is deleted
    bench.server.on("GET /v1/files/file-i/content", Say(bench.row("x") + bench.row("y")))
    assert bench.client().input_ids("b1") == frozenset("xy")
    bench.server.on("GET /v1/batches/b1", Say({**BATCH, "input_file_id": ""}))
    assert bench.client().input_ids("b1") is None


def test_files_are_deleted(bench: Bench) -> None:
    bench.server.on("DELETE /v1/files/b", Say({}, 500), Say({"deleted": True}))
    bench.client().delete_files(["a", "b"])  # a is missing
    assert bench.server.count("DELETE /v1/files/a") == 1
    assert bench.server.count("DELETE /v1/files/b") == 2


@pytest.mark.parametrize(
    ("url", "official"),
    [("https://api.openai.com/v1", True), ("https://EU.api.openai.com/v1", True)]
    + [(f"https://{region}.api.openai.com", True) for region in ("us", "ae", "au", "in", "jp")]
    + [("http://api.openai.com/v1", False), ("https://api.openai.com.evil.org/v1", False)]
    + [("https://xx.api.openai.com/v1", False), ("https://evil.org/api.openai.com", False)]
    + [("https://api.openai.com@evil.org/v1", False), ("", False)],
)
def test_the_official_hosts(url: str, official: bool) -> None:
    assert OPENAI.is_official(url) is official


def test_identity_headers_and_what_cannot_be_batched() -> None:
    headers = {"OpenAI-Beta": "x", "Authorization": "k", "X-Other": "y"}
    assert OPENAI.identity_headers(headers) == (("openai-beta", "x"),)
    assert OPENAI.identity_headers({"openai-beta": ""}) == ()
    ordinary = Request(Target("openai", "u", "/responses"), {"model": "m", "background": False})
    assert OPENAI.rejected(ordinary) == ""
    detached = Request(Target("openai", "u", "/responses"), {"model": "m", "background": True})
    assert "background" in OPENAI.rejected(detached)

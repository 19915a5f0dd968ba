"""Providers beside the first two: their hosts, and a job from creation to rows at each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.loopback import Loopback, Say, loopback
from support.odd_host import completion, odd_host, row

from pytest_langasync.exceptions import JobNotFoundError, NoBatchApiError
from pytest_langasync.models import Credentials, JobState, JobStatus
from pytest_langasync.providers import Submission, recognise
from pytest_langasync.providers.compatible import Doubleword, Groq
from pytest_langasync.providers.http import Policy
from pytest_langasync.providers.mistral import Mistral

KEY = Credentials({"authorization": "Bearer k"})
CHAT = "/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
JOB = "5f0c8f1e-8e0f-4b7e-9d0c-3f5a2c1b7a90"
JOBS = "/v1/batch/jobs"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.groq.com/openai/v1/chat/completions", "groq"),
        ("https://api.groq.com/openai/v1/embeddings", ""),
        ("https://api.doubleword.ai/v1/responses", "doubleword"),
        ("https://api.mistral.ai/v1/chat/completions", "mistral"),
        ("https://api.mistral.ai/v1/embeddings", "mistral"),
        ("https://api.openai.com/v1/chat/completions", "openai"),
        ("https://gateway.example/v1/chat/completions", "openai"),
    ],
)
def test_whose_call_it_is(url: str, provider: str) -> None:
    called = recognise(url, {})
    assert (called.provider.name if called else "") == provider


@pytest.mark.parametrize("provider", [Groq, Doubleword])
def test_a_job_in_the_wire_of_openai(provider: Any) -> None:
    with odd_host() as host:
        client = provider(Policy(sleep=lambda seconds: None)).client(host.url, KEY, ())
        made = client.create(Submission("n", CHAT, (), [("n-1", BODY)], 1, "s"))
        status = client.status(made.job_id)
        (one,) = client.rows(made.job_id, status)
        assert (one.custom_id, one.body) == ("n-1", completion(BODY))
        (found,) = client.find(0)
        assert (found.nonce, found.suite, found.running) == ("n", "s", False)
        client.close()


def test_a_plan_without_batches(server: Loopback) -> None:
    error = {"message": "upgrade", "type": "x", "code": "not_available_for_plan"}
    server.on("POST /v1/files", Say({"id": "file-1"}))
    server.on("POST /v1/batches", Say({"error": error}, 403))
    server.on("DELETE /v1/files/file-1", Say({"deleted": True}))
    client = Groq(Policy(sleep=lambda seconds: None)).client(f"{server.url}/v1", KEY, ())
    with pytest.raises(NoBatchApiError):
        client.create(Submission("n", CHAT, (), [("n-1", BODY)], 1))


# ---- Mistral


def told(status: str, **more: Any) -> dict[str, Any]:
    marks = {"langasync_nonce": "n", "langasync_suite": "s"}
    facts = {"id": JOB, "object": "batch", "created_at": 1000, "model": "m", "metadata": marks}
    return {**facts, "status": status, "endpoint": f"/v1{CHAT}", "total_requests": 1, **more}


def mistral(server: Loopback) -> Any:
    return Mistral(Policy(sleep=lambda seconds: None)).client(f"{server.url}/v1", KEY, ())


def test_what_mistral_is_sent(server: Loopback) -> None:
    server.on(f"POST {JOBS}", Say(told("QUEUED")))
    made = mistral(server).create(Submission("n", CHAT, (), [("n-1", BODY)], 1, "s"))
    assert (made.job_id, made.created_at) == (JOB, 1000.0)
    assert server.seen[0].json == {
        "requests": [{"custom_id": "n-1", "body": BODY}],
        "model": "m",
        "endpoint": f"/v1{CHAT}",
        "timeout_hours": 24,
        "metadata": {"langasync_nonce": "n", "langasync_suite": "s"},
    }


@pytest.mark.parametrize(
    ("job", "state", "unready"),
    [
        (told("QUEUED"), JobState.RUNNING, False),
        (told("RUNNING"), JobState.RUNNING, False),
        (told("CANCELLATION_REQUESTED"), JobState.RUNNING, False),
        (told("NEW"), JobState.RUNNING, False),
        (told("SUCCESS", succeeded_requests=1), JobState.ENDED, True),
        (told("SUCCESS", succeeded_requests=1, output_file="f"), JobState.ENDED, False),
        (told("SUCCESS", succeeded_requests=1, outputs=[{}]), JobState.ENDED, False),
        (told("TIMEOUT_EXCEEDED"), JobState.ENDED, False),
        (told("CANCELLED"), JobState.ENDED, False),
        (told("FAILED", errors=[{"message": "why", "count": 1}]), JobState.REJECTED, False),
        (told("FAILED", succeeded_requests=1, output_file="f"), JobState.ENDED, False),
    ],
)
def test_states_of_mistral(server: Loopback, job: Any, state: JobState, unready: bool) -> None:
    server.on(f"GET {JOBS}/{JOB}", Say(job))
    status = mistral(server).status(JOB)
    assert (status.state, status.unready) == (state, unready)
    assert (status.nonce, status.suite) == ("n", "s")
    assert status.reason == ("why" if state is JobState.REJECTED else "")


def test_rows_inside_the_job(server: Loopback) -> None:
    line = {"custom_id": "n-1", "body": BODY}
    failed = '{"object": "error", "message": "bad", "type": "invalid_request_file", "code": "3310"}'
    rows = [row(line), row({**line, "custom_id": "n-2"}, failed, 400)]
    server.on(f"GET {JOBS}/{JOB}", Say(told("SUCCESS", outputs=rows)))
    one, two = mistral(server).rows(JOB, JobStatus(JobState.ENDED, "success"))
    assert (one.custom_id, one.body, one.ok) == ("n-1", completion(BODY), True)
    assert (two.status, two.body["message"], two.retryable) == (400, "bad", False)
    assert mistral(server).input_ids(JOB) == {"n-1", "n-2"}


def test_rows_in_files(server: Loopback) -> None:
    import json

    server.on(f"GET {JOBS}/{JOB}", Say(told("SUCCESS", output_file="f")))
    data = json.dumps(row({"custom_id": "n-1", "body": BODY})).encode()
    server.on("GET /v1/files/f/content", Say(data))
    status = mistral(server).status(JOB)
    (one,) = mistral(server).rows(JOB, status)
    assert one.custom_id == "n-1"
    server.on("GET /v1/files/f/content", Say({"error": "gone"}, 404))
    with pytest.raises(JobNotFoundError):
        list(mistral(server).rows(JOB, status))


def test_the_list_of_mistral(server: Loopback) -> None:
    server.on(f"GET {JOBS}", Say({"object": "list", "total": 1, "data": [told("SUCCESS"), "x"]}))
    (found,) = mistral(server).find(0)
    assert (found.job_id, found.nonce, found.endpoint, found.model) == (JOB, "n", CHAT, "m")
    assert list(mistral(server).find(2000)) == []

"""Gemini's own words and shapes, through its SDK and by hand, against a server on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from support.loopback import Loopback, Say, Seen, loopback
from support.suite import BATCH, Suite, output, verdict

from pytest_langasync.exceptions import ConfigurationError, CreateUnknownError
from pytest_langasync.models import Credentials, JobState, JobStatus, Request, Target
from pytest_langasync.providers import Submission, dialect, recognise
from pytest_langasync.providers.dialects import GENERATE_CONTENT
from pytest_langasync.providers.google import GOOGLE, Google, GoogleClient
from pytest_langasync.providers.http import Policy

JOB = "batches/abcdefghijklmnopqrstuvwxyz0123456789"
ENDPOINT = "/models/gemini-2.5-flash:generateContent"
HOST = "https://generativelanguage.googleapis.com"


def answer(text: str) -> dict[str, Any]:
    """Return an answer of the service; a batch's claims the standard tier."""
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11}
        | {"serviceTier": "standard"},
        "modelVersion": "gemini-2.5-flash",
    }


def job(state: str, **metadata: Any) -> dict[str, Any]:
    facts = {"model": "models/gemini-2.5-flash", "createTime": "2026-08-10T10:00:00.123456789Z"}
    named = {"displayName": "langasync-n-suite", "state": f"BATCH_STATE_{state}"}
    return {"name": JOB, "metadata": {**facts, **named, **metadata}}


def told_twice(*rows: Any) -> dict[str, Any]:
    """Return a job that has ended, with its rows at both places."""
    output = {"inlinedResponses": {"inlinedResponses": list(rows)}}
    ended = job("SUCCEEDED", output=output, batchStats={"requestCount": str(len(rows))})
    return {**ended, "done": True, "response": output}


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.fixture
def client(server: Loopback) -> GoogleClient:
    provider = Google(Policy(sleep=lambda seconds: None))
    return provider.client(f"{server.url}/v1beta", Credentials({"x-goog-api-key": "k"}), ())


def test_what_is_created(server: Loopback, client: GoogleClient) -> None:
    server.on("POST /v1beta/models/gemini-2.5-flash:batchGenerateContent", Say(job("PENDING")))
    body = {"contents": [{"parts": [{"text": "é"}]}]}
    made = client.create(Submission("n", ENDPOINT, (), [("n-1", body)], 1, "suite"))
    assert made.job_id == JOB and made.created_at == pytest.approx(1786356000.123456)
    (seen,) = server.seen
    assert seen.headers["x-goog-api-key"] == "k"
    row = {"request": body, "metadata": {"key": "n-1"}}
    requests = {"requests": {"requests": [row]}}
    assert seen.json == {"batch": {"displayName": "langasync-n-suite", "inputConfig": requests}}
    line = len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode())
    size = len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
    assert line <= GOOGLE.line_bytes("n-1", size) <= line + 20


def test_a_creation_that_names_no_job(server: Loopback, client: GoogleClient) -> None:
    server.on("POST /v1beta/models/gemini-2.5-flash:batchGenerateContent", Say({}))
    with pytest.raises(CreateUnknownError):
        client.create(Submission("n", ENDPOINT, (), [("n-1", {})], 1))


@pytest.mark.parametrize(
    ("told", "state", "unready"),
    [
        (job("PENDING"), JobState.RUNNING, False),
        (job("RUNNING", batchStats={"requestCount": "2", "pendingRequestCount": "2"}), None, False),
        (job("NEW_WORD"), JobState.RUNNING, False),
        ({"name": JOB}, JobState.RUNNING, False),
        (told_twice({"metadata": {"key": "a"}, "response": {}}), JobState.ENDED, False),
        (job("SUCCEEDED"), JobState.ENDED, True),
        ({**job("CANCELLED"), "done": True, "error": {"code": 13}}, JobState.ENDED, False),
        (job("EXPIRED"), JobState.ENDED, False),
        ({**job("FAILED"), "done": True, "error": {"code": 3}}, JobState.REJECTED, False),
    ],
)
def test_states(
    server: Loopback, client: GoogleClient, told: Any, state: JobState | None, unready: bool
) -> None:
    server.on(f"GET /v1beta/{JOB}", Say(told))
    status = client.status(JOB)
    assert (status.state, status.unready) == (state or JobState.RUNNING, unready)


def test_counters_of_zero_are_absent(server: Loopback, client: GoogleClient) -> None:
    stats = {"requestCount": "3", "successfulRequestCount": "2"}
    server.on(f"GET /v1beta/{JOB}", Say(job("RUNNING", batchStats=stats)))
    status = client.status(JOB)
    assert (status.total, status.completed, status.failed) == (3, 2, 0)
    assert (status.nonce, status.suite) == ("n", "suite")


@pytest.mark.parametrize(
    ("wrong", "status", "retryable"),
    [
        ({"error": {"code": 3, "message": "m"}}, 400, False),
        ({"error": {"code": 8, "message": "m"}}, 429, True),
        ({"status": {"code": 14, "message": "m"}}, 503, True),
        ({"error": {"code": 400, "message": "m"}}, 400, False),
        ({"error": "m"}, 500, True),
        ({}, 500, True),
    ],
)
def test_rows(
    server: Loopback, client: GoogleClient, wrong: Any, status: int, retryable: bool
) -> None:
    good = {"metadata": {"key": "a"}, "response": answer("hi")}
    server.on(f"GET /v1beta/{JOB}", Say(told_twice(good, {"metadata": {"key": "b"}, **wrong})))
    one, two = client.rows(JOB, JobStatus(JobState.ENDED, "succeeded"))
    assert (one.custom_id, one.status, one.body, one.ok) == ("a", 200, answer("hi"), True)
    assert (two.custom_id, two.status, two.retryable) == ("b", status, retryable)
    assert two.body["error"]["code"] == status and two.body["error"].keys() == {
        "code", "message", "status"
    }  # fmt: skip
    assert client.input_ids(JOB) == {"a", "b"}


def test_find_reads_pages(server: Loopback, client: GoogleClient) -> None:
    listed = [job("SUCCEEDED", batchStats={"requestCount": "2"}), job("RUNNING")]
    pages = (Say({"operations": listed[:1], "nextPageToken": "t"}), Say({"operations": listed[1:]}))
    server.on("GET /v1beta/batches", *pages)
    one, two = client.find(0)
    assert (one.job_id, one.total, one.nonce, one.suite) == (JOB, 2, "n", "suite")
    assert (one.endpoint, one.model, one.running) == (ENDPOINT, "gemini-2.5-flash", False)
    assert two.running and "pageToken=t" in server.seen[1].query


@pytest.mark.parametrize(
    ("say", "has"),
    [
        (Say({}), True),
        (Say({"operations": []}), True),
        (Say({"data": []}), False),
        (Say({"error": {"code": 403, "message": "m", "status": "PERMISSION_DENIED"}}, 403), True),
        (Say({}, 404), False),
    ],
)
def test_whether_there_are_batches(
    server: Loopback, client: GoogleClient, say: Say, has: bool
) -> None:
    server.on("GET /v1beta/batches", say)
    assert client.has_batch_api() is has


@pytest.mark.parametrize("status", [400, 409])
def test_cancelling(server: Loopback, client: GoogleClient, status: int) -> None:
    server.on(f"POST /v1beta/{JOB}:cancel", Say({}), Say({}, status), Say({}, 403))
    client.cancel(JOB)
    client.cancel(JOB)
    with pytest.raises(ConfigurationError):
        client.cancel(JOB)


@pytest.mark.parametrize(
    ("url", "base", "endpoint"),
    [
        (f"{HOST}/v1beta{ENDPOINT}", f"{HOST}/v1beta", ENDPOINT),
        (f"{HOST}/v1/models/m:streamGenerateContent?alt=sse", f"{HOST}/v1",
         "/models/m:generateContent"),
        (f"{HOST}/v1beta/models/m:embedContent", "", ""),
        ("https://us-aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/google/models/m"
         ":generateContent", "", ""),
        (f"https://gateway.example/v1beta{ENDPOINT}", "", ""),
    ],
)  # fmt: skip
def test_which_calls_are_recognised(url: str, base: str, endpoint: str) -> None:
    called = recognise(url, {})
    assert ((called.base_url, called.endpoint) if called else ("", "")) == (base, endpoint)


def test_a_key_in_the_query() -> None:
    called = recognise(f"{HOST}/v1beta{ENDPOINT}?key=secret", {})
    assert called is not None and called.headers == {"x-goog-api-key": "secret"}
    assert "secret" not in repr(called)


@pytest.mark.parametrize("name", ["responseJsonSchema", "response_json_schema"])
def test_a_schema_that_batches_ignore_is_kept_out_of_them(name: str) -> None:
    target = Target("google", HOST, ENDPOINT)
    assert "ignores" in GOOGLE.rejected(Request(target, {"generationConfig": {name: {}}}))
    assert not GOOGLE.rejected(Request(target, {"generationConfig": {"responseSchema": {}}}))


def test_what_the_dialect_reads() -> None:
    body: dict[str, Any] = {
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]},
            {
                "role": "user",
                "parts": [{"inlineData": {"mimeType": "image/png", "data": "A" * 99}}],
            },
        ],
        "generationConfig": {"maxOutputTokens": 7},
    }
    shape = dialect("google", ENDPOINT)
    assert shape is GENERATE_CONTENT and shape.model(ENDPOINT) == "gemini-2.5-flash"
    assert shape.last_text(body) == "[image/png]"
    said = [("systemInstruction", "be brief"), ("user", "hi"), ("model", "f({'a': 1})")]
    assert shape.messages(body) == [*said, ("user", "[image/png]")]
    assert shape.answer_text(answer("yes")) == "yes"
    assert shape.output_limit(body) == 7
    assert shape.output_limit(shape.with_output_limit(body, 5)) == 5
    size = shape.size(body)
    assert size.images == 1 and size.bounded and 0 < size.text < 60
    assert not shape.size({**body, "tools": [{"googleSearch": {}}]}).bounded


# ---- a whole run


class Service:
    """Plays the service: jobs have ended, and name their rows, at the second poll."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.live: list[str] = []
        self.polls = 0

    def asked(self, body: Mapping[str, Any]) -> str:
        return str(body["contents"][-1]["parts"][-1]["text"])

    def __call__(self, seen: Seen) -> Say:
        if (
            seen.path.endswith(("enerateContent", "streamGenerateContent"))
            and "batch" not in seen.path
        ):
            self.live.append(self.asked(seen.json))
            return Say(answer(f"[{self.asked(seen.json)}]"))
        if seen.path.endswith(":batchGenerateContent"):
            batch = seen.json["batch"]
            rows = [
                {"metadata": one["metadata"], "response": answer(f"[{self.asked(one['request'])}]")}
                for one in batch["inputConfig"]["requests"]["requests"]
            ]
            name = f"batches/{len(self.jobs):036d}"
            ended = {**told_twice(*rows), "name": name}
            ended["metadata"]["displayName"] = batch["displayName"]
            self.jobs[name] = ended
            return Say({"name": name, "metadata": job("PENDING")["metadata"]})
        name = seen.path.partition("/v1beta/")[2]
        if name == "batches":
            return Say({"operations": list(self.jobs.values())} if self.jobs else {})
        self.polls += 1
        if self.polls == 1:  # ended, and the rows are not there yet
            return Say({**job("SUCCEEDED"), "name": name})
        return Say(self.jobs[name])


EVALS = """
import httpx
from google import genai

URL = "{url}"

def client():  # whoever drops it closes it
    return genai.Client(api_key="k", http_options={{"base_url": URL, "api_version": "v1beta"}})

def gemini(text, **config):
    kept = client()
    done = kept.models.generate_content(model="gemini-2.5-flash", contents=text, config=config)
    return done.text

@pytest.mark.langasync
def test_two_steps():
    assert gemini("twice " + gemini("once")) == "[twice [once]]"

@pytest.mark.langasync
def test_streamed():
    kept = client()
    parts = kept.models.generate_content_stream(model="gemini-2.5-flash", contents="stream")
    assert "".join(part.text for part in parts) == "[stream]"

@pytest.mark.langasync
async def test_asynchronous():
    kept = client()
    done = await kept.aio.models.generate_content(model="gemini-2.5-flash", contents="async")
    assert done.text == "[async]"

@pytest.mark.langasync
def test_by_hand():
    url = URL + "/v1beta/models/gemini-2.5-flash:generateContent?key=k"
    body = {{"contents": [{{"parts": [{{"text": "hand"}}]}}]}}
    said = httpx.post(url, json=body).json()
    assert said["candidates"][0]["content"]["parts"][0]["text"] == "[hand]"

@pytest.mark.langasync
def test_schema():
    assert gemini("schema", response_json_schema={{"type": "string"}}) == "[schema]"
"""


def test_a_suite_that_calls_gemini(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.genai")
    with loopback() as server:
        service = server.other = Service()
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        suite.write(EVALS.format(url=server.url))
        suite.pytester.makeini("[pytest]\nasyncio_mode = auto\n")
        result = suite.plain(*BATCH)
        assert verdict(result) == {"passed": 5}, output(result)
        assert service.live == ["schema"] and len(service.jobs) == 2
        assert "ignores responseJsonSchema" in output(result)
        assert "google" in output(result) and "gemini-2.5-flash" in output(result)
        before = len(server.seen)
        assert verdict(suite.plain(*BATCH)) == {"passed": 5}
        assert len(server.seen) == before

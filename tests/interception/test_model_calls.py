"""Model calls that no batch takes: caught from whichever client, sent once, recorded, replayed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3  # noqa: F401  (what is imported here, the runs need not import anew)
import google.genai  # noqa: F401
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.suite import Suite, output

from pytest_langasync.costs.prices import PriceBook
from pytest_langasync.engine import payloads
from pytest_langasync.interception.wire import Reply
from pytest_langasync.models import Request, Target
from pytest_langasync.providers.model_calls import ModelCalls

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(ThreadingHTTPServer):
    """Answers every call with something else, as models do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One call to ``Model``."""

    protocol_version = "HTTP/1.1"
    server: Model

    def do_POST(self) -> None:
        """Answer a call: by a picture, a stream, a failure or a JSON object."""
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = self._chunks()
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.seen.append((self.path, self.headers.get("authorization", ""), body))
        n = len(self.server.seen)
        status, kind, content = 200, "application/json", json.dumps({"n": n}).encode()
        if "speech" in self.path:
            kind, content = "audio/mpeg", bytes(range(256)) + str(n).encode()
        elif "stream" in self.path:
            kind, content = "application/x-ndjson", f'{{"n": {n}}}\n{{"done": true}}\n'.encode()
        elif "moderations" in self.path:
            status, content = 400, b'{"error": {"message": "no"}}'
        elif "converse" in self.path:
            message = {"role": "assistant", "content": [{"text": f"answer {n}"}]}
            content = json.dumps(
                {"output": {"message": message}, "stopReason": "end_turn"}
            ).encode()
        elif "generateContent" in self.path:
            parts = {"role": "model", "parts": [{"text": f"answer {n}"}]}
            content = json.dumps({"candidates": [{"content": parts}]}).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Run a model on this machine."""
    with Model() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("MODEL_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        yield server
        server.shutdown()
        thread.join()


CLIENTS = """
import asyncio, io, os
import aiohttp, boto3, botocore.exceptions, httpx, httpx2, openai, pytest, requests, urllib3
from google import genai
from llm import ask

pytestmark = pytest.mark.langasync
URL = os.environ["MODEL_URL"]
AUDIO = {"model": "voice", "input": "hello", "voice": "alloy"}

def by_httpx():
    return httpx.post(URL + "/v1/rerank", json={"by": "httpx"}).text

def by_requests():
    with requests.Session() as session:
        reply = session.post(URL + "/v1/rerank", json={"by": "requests"}, auth=("me", "secret"))
    assert type(reply) is requests.Response and reply.ok and reply.json()
    assert reply.headers["Content-Type"] == "application/json" and reply.reason == "OK"
    return reply.text

def by_requests_streaming():
    reply = requests.post(URL + "/v1/rerank", data=iter([b"{}", b" "]), stream=True)
    return b"".join(reply.iter_content(3)).decode()

def by_urllib3():
    reply = urllib3.request("POST", URL + "/v1/rerank", json={"by": "urllib3"})
    assert reply.status == 200 and reply.json()
    return reply.data.decode()

def by_aiohttp():
    async def main():
        async with aiohttp.ClientSession() as session:
            async with session.post(URL + "/v1/rerank", json={"by": "aiohttp"}) as reply:
                return await reply.text()
    return asyncio.run(main())

def by_boto3():
    client = boto3.client("bedrock-runtime", endpoint_url=URL, region_name="us-east-1")
    hello = [{"role": "user", "content": [{"text": "hello"}]}]
    reply = client.converse(modelId="anthropic.some-model:0", messages=hello)
    return reply["output"]["message"]["content"][0]["text"]

def by_boto3_invoke():
    client = boto3.client("bedrock-runtime", endpoint_url=URL, region_name="us-east-1")
    return client.invoke_model(modelId="a.model", body=b"{}")["body"].read().decode()

def genai_client():  # its key is in the environment
    return genai.Client(http_options={"base_url": URL})

def by_genai():
    client = genai_client()
    return client.models.generate_content(model="gemini-x", contents="hello").text

def by_genai_asynchronously():
    async def main():
        client = genai_client().aio
        return (await client.models.generate_content(model="gemini-y", contents="hello")).text
    return asyncio.run(main())

def by_ollama_streaming():
    with httpx2.stream("POST", URL + "/stream/api/chat", json={"model": "llama"}) as reply:
        return "|".join(reply.iter_lines())

def sdk():
    return openai.OpenAI(base_url=URL + "/v1", api_key="sk-secret")

def picture_of_a_voice():
    content = sdk().audio.speech.create(**AUDIO).content
    assert content[:256] == bytes(range(256))
    return content[256:].decode()

def transcription():
    voice = ("a.wav", io.BytesIO(b"\\x00\\xff" * 1000))
    reply = sdk().audio.transcriptions.create(file=voice, model="whisper-1")
    return reply.to_json(indent=None)

def asynchronous_transcription():
    async def main():
        http = openai.DefaultAioHttpClient()
        made = openai.AsyncOpenAI(base_url=URL + "/v1", api_key="x", http_client=http)
        async with made as client:
            voice = ("a.wav", io.BytesIO(b"other"))
            reply = await client.audio.transcriptions.create(file=voice, model="w")
            return reply.to_json(indent=None)
    return asyncio.run(main())

def image():
    return sdk().images.generate(model="image-1", prompt="hello").to_json(indent=None)

@pytest.mark.parametrize("call", [
    by_httpx, by_requests, by_requests_streaming, by_urllib3, by_aiohttp, by_boto3,
    by_boto3_invoke, by_genai, by_genai_asynchronously, by_ollama_streaming, picture_of_a_voice,
    transcription, asynchronous_transcription, image], ids=lambda call: call.__name__)
def test_a_batched_judge(call):
    answer = call()
    assert answer and answer in ask(f"judge {answer}")
"""
COUNT = 14
INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
langasync_model_calls = 127.0.0.1:*/stream/*
"""
JUDGED = """
@pytest.mark.langasync
def test_it():
    import httpx, os
    answer = httpx.post(os.environ["MODEL_URL"] + "/v1/rerank", json={}).text
    assert answer in ask(f"judge {answer}")
"""


def test_every_model_call_is_sent_once_and_replayed(
    suite: Suite, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    suite.pytester.makepyfile(test_models=CLIENTS)
    suite.pytester.makeini(INI)
    result = suite.run()
    result.assert_outcomes(passed=COUNT)
    assert len(model.seen) == COUNT
    says = f"{COUNT} calls to 127.0.0.1:* ran in real time: no batch takes such calls"
    result.stdout.fnmatch_lines([says])
    assert len(suite.ledger()) == COUNT and all(row["job_id"] for row in suite.ledger())
    suite.run().assert_outcomes(passed=COUNT)
    monkeypatch.delenv("GEMINI_API_KEY")
    suite.run("--langasync-offline").assert_outcomes(passed=COUNT)
    assert len(model.seen) == COUNT
    stored = b"".join(p.read_bytes() for p in suite.path.rglob("*.jsonl"))
    assert b"secret" not in stored and b"gemini-x" in stored


@pytest.mark.parametrize("option", ["--langasync-offline", "--langasync-estimate"])
def test_nothing_is_sent_where_nothing_may_be(suite: Suite, model: Model, option: str) -> None:
    suite.pytester.makepyfile(test_models=CLIENTS)
    suite.pytester.makeini(INI)
    result = suite.run(option)
    assert "passed" not in result.parseoutcomes() and "failed" not in result.parseoutcomes()
    assert not model.seen


def test_the_cost_guard_holds_back_what_has_no_price(suite: Suite, model: Model) -> None:
    suite.write(JUDGED)
    result = suite.run("--langasync-max-cost=1")
    assert result.ret != 0 and not model.seen
    assert "--langasync-max-cost: no upper bound is known for '/v1/rerank'" in output(result)


def test_an_unmarked_test_is_left_alone(suite: Suite, model: Model) -> None:
    suite.write(JUDGED.replace("@pytest.mark.langasync", ""))
    suite.run().assert_outcomes(passed=1)
    suite.run().assert_outcomes(passed=1)
    assert len(model.seen) == 2


def test_the_summary_says_which_tests_made_no_call(suite: Suite, model: Model) -> None:
    suite.write(
        """
pytestmark = pytest.mark.langasync
def test_one(): pass
def test_two(): assert False
def test_three(): pytest.skip()
def test_four(): assert ask("hi")
"""
    )
    line = "2 marked tests made no call to a model that was seen"
    suite.run().stdout.fnmatch_lines([line])
    suite.run("-k", "one or two", "-v").stdout.fnmatch_lines([line])
    assert line not in suite.run("--langasync-all").stdout.str()
    assert "no call" not in suite.run("-k", "four").stdout.str()


def test_an_error_is_raised_and_asked_again(suite: Suite, model: Model) -> None:
    suite.write(
        """
import os, requests
@pytest.mark.langasync
def test_it():
    reply = requests.post(os.environ["MODEL_URL"] + "/v1/moderations", json={})
    with pytest.raises(requests.HTTPError, match="400 Client Error: Bad Request"):
        reply.raise_for_status()
    assert reply.json()["error"]["message"] == "no"
"""
    )
    suite.run().assert_outcomes(passed=1)
    suite.run().assert_outcomes(passed=1)


def test_what_nobody_charges_for_costs_nothing() -> None:
    book = PriceBook()
    assert book.cost("openai", "/v1/moderations", "m", {"results": []}, at=0.0).list_price == 0
    request = Request(Target("anthropic", "https://x", "/v1/messages/count_tokens"), {"model": "m"})
    assert book.estimate(request).list_upper == 0
    asked = Request(Target("google", "https://x", "/v1/gemini-2.5-flash:ask"), {"contents": "x"})
    named = replace(asked, model_in_path="gemini-2.5-flash")
    assert book.estimate(named).list_upper is None


PROVIDERS = [
    "https://api.openai.com/v1/images/generations",
    "https://api.openai.com/v1/something_new",
    "https://me.openai.azure.com/openai/deployments/gpt/images/generations",
    "https://generativelanguage.googleapis.com/v1beta/models/gemini:generateContent",
    "https://us-central1-aiplatform.googleapis.com/v1/projects/p/publishers/x/models/c:rawPredict",
    "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude/converse",
    "https://api.cohere.com/v2/chat",
    "https://api.voyageai.com/v1/embeddings",
    "https://api.mistral.ai/v1/ocr",
    "http://localhost:11434/api/chat",
    "https://gateway.example/v1/moderations",
    "https://api.replicate.com/v1/models/some/one/predictions",
]
OTHERS = [
    "https://api.openai.com/v1/files",
    "https://api.openai.com/v1/vector_stores/vs_1/search",
    "https://api.openai.com/v1/responses/resp_1/cancel",
    "https://api.anthropic.com/v1/messages/batches",
    "https://bedrock.us-east-1.amazonaws.com/model-invocation-job",
    "https://oauth2.googleapis.com/token",
    "http://localhost:8000/api/chat",
    "http://localhost:8000/predictions",
    "http://localhost:8000/api/moderations",
    "https://app.example/v1/login",
]


@pytest.mark.parametrize("url", PROVIDERS)
def test_a_model_call(url: str) -> None:
    assert ModelCalls().matches(url) and ModelCalls().matches(url + "?alt=sse")
    assert not ModelCalls(("!*",)).matches(url)


@pytest.mark.parametrize("url", OTHERS)
def test_no_model_call(url: str) -> None:
    assert not ModelCalls().matches(url)
    place = url.partition("://")[2]
    assert ModelCalls((place.partition("/")[0] + "/*",)).matches(url)


@pytest.mark.parametrize(
    ("url", "model", "kept"),
    [
        ("https://api.openai.com/v1/conversations", False, True),
        ("https://api.openai.com/v1/conversations/conv_1/items", False, True),
        ("https://api.openai.com/v1/files/file-1/content", False, True),
        ("https://api.openai.com/v1/responses/resp_1", False, True),
        ("https://api.openai.com/v1/responses", True, False),
        ("https://api.anthropic.com/v1/files?beta=true", False, True),
        ("https://generativelanguage.googleapis.com/upload/v1beta/files", False, True),
        ("https://api.mistral.ai/v1/conversations", True, False),
        ("https://api.mistral.ai/v1/conversations/conv_1", True, False),
        ("https://app.example/v1/files", False, False),
        ("https://api.openai.com/v1/models", False, False),
        ("https://api.openai.com/v1/batches", False, False),
    ],
)
def test_what_is_kept_is_no_model_call(url: str, model: bool, kept: bool) -> None:
    assert (ModelCalls().matches(url), ModelCalls().keeps(url)) == (model, kept)


def test_hosts_of_models_keep_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    calls = ModelCalls()
    assert not calls.keeps("http://gateway.example:4000/v1/files")
    calls.called_at("http://gateway.example:4000/v1")
    assert calls.keeps("http://gateway.example:4000/v1/files")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other.example/v1")
    assert calls.keeps("http://other.example/v1/files")
    assert not ModelCalls(("!api.openai.com/*",)).keeps("https://api.openai.com/v1/files")


@given(st.binary(), st.sampled_from(["audio/mpeg", "application/json", "text/plain", ""]))
def test_an_answer_is_kept_without_loss(content: bytes, kind: str) -> None:
    kept = payloads.answer_body(Reply(200, {"content-type": kind}, content))
    back = payloads.reply_body(json.loads(json.dumps(kept)))
    assert back == (kind, content) or json.loads(back[1]) == json.loads(content)


def test_a_form_is_known_by_what_it_holds() -> None:
    def form(boundary: str, file: bytes) -> dict[str, Any]:
        parts = (
            f"--{boundary}\r\ncontent-disposition: form-data; name=model\r\n\r\nwhisper\r\n"
            f"--{boundary}\r\ncontent-disposition: form-data; name=file; filename=a\r\n\r\n"
        )
        content = parts.encode() + file + f"\r\n--{boundary}--\r\n".encode()
        return payloads.request_body(content, f"multipart/form-data; boundary={boundary}")

    assert form("one", b"x") == form("two", b"x") != form("one", b"y")
    assert form("one", b"x")["form"][0] == {"name": "model", "value": "whisper"}

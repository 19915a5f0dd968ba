"""The sandbox and the world outside: what must not reach it, and what must."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.loopback import Loopback, Say, loopback
from support.suite import Suite

from pytest_langasync.providers.hosts import detour
from pytest_langasync.sandbox import Sandbox

pytestmark = pytest.mark.filterwarnings("ignore")

NO_NAMES = """
import socket
import pytest

@pytest.fixture(autouse=True)
def looked_up(monkeypatch):
    '''No name is looked up: everything stays on this machine.'''
    names, genuine = [], socket.getaddrinfo
    def look_up(host, *rest, **more):
        names.append(host)
        return genuine(host, *rest, **more)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    yield
    assert {str(name) for name in names} <= {"127.0.0.1", "b'127.0.0.1'"}
"""

ELSEWHERE = """
import asyncio
import anthropic, httpx, httpx2, openai, pytest

marked = pytest.mark.parametrize("", [pytest.param(marks=pytest.mark.langasync), ()])
GEMINI = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"

@marked
def test_what_the_sandbox_serves():
    client, claude = openai.OpenAI(), anthropic.Anthropic()
    assert "gpt-4o-mini" in [model.id for model in client.models.list()]
    assert client.models.retrieve("org/some-model").id == "org/some-model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("unknown-model")
    assert claude.models.list().data[0].display_name
    assert claude.models.retrieve("claude-x").type == "model"
    message = {"role": "user", "content": "one two three four"}
    assert claude.messages.count_tokens(model="claude-x", messages=[message]).input_tokens > 4
    made = client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert client.files.list(limit=1).data[0].id == made.id
    params = {"model": "claude-x", "max_tokens": 9, "messages": [message]}
    batch = claude.messages.batches.create(requests=[{"custom_id": "a", "params": params}])
    done = claude.messages.batches.retrieve(batch.id)
    assert done.results_url.startswith("http://127.0.0.1")
    assert list(claude.messages.batches.results(batch.id))[0].result.type == "succeeded"

@marked
def test_what_it_does_not_serve():
    client = openai.OpenAI(max_retries=9)
    for act, path in [
        (lambda: client.images.generate(prompt="x"), "POST /v1/images/generations"),
        (lambda: client.moderations.create(input="x"), "POST /v1/moderations"),
        (lambda: client.completions.create(model="m", prompt="x"), "POST /v1/completions"),
        (lambda: client.responses.retrieve("resp_1"), "GET /v1/responses/resp_1"),
    ]:
        with pytest.raises(openai.NotFoundError, match=f"does not serve {path}; nothing was sent"):
            act()
    with pytest.raises(anthropic.NotFoundError, match="does not serve PUT /v1/messages/x"):
        anthropic.Anthropic().put("/v1/messages/x", cast_to=object)

@marked
@pytest.mark.parametrize("library", [httpx, httpx2])
def test_other_providers(library):
    with library.Client() as client:
        reply = client.post(GEMINI, json={}, headers={"x-goog-api-key": "k"})
        assert reply.status_code == 404 and reply.headers["x-should-retry"] == "false"
        text = "POST /generativelanguage.googleapis.com/v1beta/models/gemini"
        assert text in reply.json()["error"]["message"] and type(reply) is library.Response
        azure = client.get("https://me.openai.azure.com/openai/v1/models")
        assert "does not serve GET /me.openai.azure.com" in azure.text

    async def ask():
        async with library.AsyncClient() as client:
            async with client.stream("GET", "https://api.groq.com/openai/v1/models") as reply:
                await reply.aread()
                return reply
    assert asyncio.run(ask()).status_code == 404

@marked
def test_a_body_that_is_streamed():
    def body():
        yield b'{"model": "gpt-4o-mini", '
        yield b'"messages": [{"role": "user", "content": "hello"}]}'
    headers = {"authorization": "Bearer k"}
    url = "https://api.openai.com/v1/chat/completions"
    reply = httpx.post(url, content=body(), headers=headers)
    assert "hello" in reply.json()["choices"][0]["message"]["content"]

    async def chunks():
        for chunk in body():
            yield chunk
    async def ask():
        async with httpx.AsyncClient() as client:
            return await client.post(url, content=chunks(), headers=headers)
    assert asyncio.run(ask()).status_code == 200

@marked
def test_mocks():
    seen = []
    def answer(request):
        seen.append(request.url.host)
        return httpx2.Response(200, json={"object": "list", "data": []})
    class Retrying(httpx2.BaseTransport):
        def __init__(self): self.inner = httpx2.MockTransport(answer)
        def handle_request(self, request): return self.inner.handle_request(request)
    for transport in (httpx2.MockTransport(answer), Retrying()):
        client = openai.OpenAI(http_client=httpx2.Client(transport=transport))
        assert client.models.list().data == []
    assert seen == ["api.openai.com"] * 2
"""


@pytest.fixture
def server() -> Iterator[Loopback]:
    """Return an OpenAI-compatible server, such as Ollama's."""
    with loopback() as server:
        message = {"role": "assistant", "content": "from behind"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        chat = {"id": "c", "object": "chat.completion", "created": 1, "model": "llama"}
        server.on("POST /v1/chat/completions", Say({**chat, "choices": [choice], "usage": usage}))
        part = {"type": "output_text", "text": "from behind", "annotations": []}
        item = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
        item |= {"status": "completed"}
        response = {"id": "r", "object": "response", "created_at": 1, "model": "llama"}
        response |= {"status": "completed", "output": [item], "usage": None}
        response |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        server.on("POST /v1/responses", Say(response))
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        server.on("POST /v1/embeddings", Say({"object": "list", "data": [vector], "model": "e"}))
        yield server


FORWARDED = """
import anthropic, openai, pytest
marked = pytest.mark.parametrize("", [pytest.param(marks=pytest.mark.langasync), ()])
CHAT = {"model": "llama", "messages": [{"role": "user", "content": "hi"}]}

@marked
def test_every_endpoint():
    client = openai.OpenAI()
    done = client.chat.completions.create(**CHAT)
    assert done.choices[0].message.content == "from behind"
    parts = client.chat.completions.create(**CHAT, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "from behind"
    assert client.responses.create(model="llama", input="hi").output_text == "from behind"
    with client.responses.stream(model="llama", input="hi") as stream:
        assert stream.get_final_response().output_text == "from behind"
    assert client.embeddings.create(model="e", input="x").data[0].embedding == [0.5, 0.25]

@marked
def test_claude():
    with pytest.raises(anthropic.NotFoundError, match="does not serve POST /messages; the sandbox"):
        anthropic.Anthropic().messages.create(
            model="claude-x", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
"""


def test_nothing_reaches_a_real_provider(suite: Suite) -> None:
    suite.pytester.makeconftest(NO_NAMES)
    suite.pytester.makepyfile(test_elsewhere=ELSEWHERE)
    suite.run().assert_outcomes(passed=12)


def test_the_variables_name_providers_and_other_hosts_are_let_be(
    suite: Suite, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback() as gateway:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway.url}/v1")
        server.on("GET /v1/models", Say({"mine": 1}))
        suite.write(
            "import httpx, openai\n"
            "def test_it():\n"
            "    assert openai.OpenAI().models.list().data\n"
            f"    assert httpx.get({server.url!r} + '/v1/models').json() == {{'mine': 1}}\n"
        )
        suite.run().assert_outcomes(passed=1)
        assert not gateway.seen and server.count("GET /v1/models") == 1


def test_without_the_sandbox_nothing_is_sent_elsewhere(suite: Suite, provider: Sandbox) -> None:
    suite.write("import openai\ndef test_it(): assert openai.OpenAI().models.list().data\n")
    suite.plain("--langasync-batch").assert_outcomes(passed=1)
    assert provider.requests() == {"GET /v1/models": 1}


@pytest.mark.parametrize("base", ["forward", "both"])
def test_a_server_behind_the_sandbox(
    suite: Suite, server: Loopback, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the SDKs' variable names the very same server."""
    if base == "both":
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    suite.pytester.makepyfile(test_forwarded=FORWARDED)
    url = f"--langasync-sandbox-url={server.url}/v1"
    suite.plain("-n0", url).assert_outcomes(passed=4)
    assert server.count("POST /v1/chat/completions") == 4
    assert all("authorization" not in seen.headers for seen in server.seen)
    assert all("stream" not in seen.json for seen in server.seen)


def test_what_the_hook_sends_goes_out_as_it_is(suite: Suite, server: Loopback) -> None:
    suite.pytester.makeconftest(
        f"""
import asyncio, openai, pytest

@pytest.hookimpl(optionalhook=True)
def pytest_langasync_sandbox_reply(request):
    given = {{"model": "llama", "messages": request.body["messages"]}}
    if "asynchronous" in request.prompt:
        client = openai.AsyncOpenAI(base_url={server.url!r} + "/v1", api_key="k")
        done = asyncio.run(client.chat.completions.create(**given))
    else:
        client = openai.OpenAI(base_url={server.url!r} + "/v1", api_key="k")
        done = client.chat.completions.create(**given)
    return "local: " + done.choices[0].message.content
"""
    )
    suite.write(
        "@pytest.mark.langasync\n"
        "def test_marked():\n"
        "    assert ask('one') == ask('asynchronous') == 'local: from behind'\n"
        "def test_plain():\n"
        "    assert ask('one') == ask('asynchronous') == 'local: from behind'\n"
    )
    suite.run("-n0").assert_outcomes(passed=2)
    assert server.count("POST /v1/chat/completions") == 4


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("42", "The sandbox_reply hook returned a value of type int: no str, dict, Reply or None"),
        ("{'id': object()}", "hook returned a reply that cannot be sent: Object of type object"),
        ("{'error': {}, 'status': 'bad'}", "hook returned a reply that cannot be sent: invalid"),
        ("Reply(text=42)", "hook raised TypeError: Reply: text and refusal must be strings"),
        ("Reply(tool_calls=('f',))", "hook raised AttributeError: 'str' object has no"),
        ("pytest.fail('not today')", "hook raised Failed: not today"),
    ],
)
def test_a_hook_that_goes_wrong_fails_its_request_alone(
    suite: Suite, reply: str, says: str
) -> None:
    suite.pytester.makeconftest(
        f"""
import pytest
from pytest_langasync.sandbox import Reply

@pytest.hookimpl(optionalhook=True)
def pytest_langasync_sandbox_reply(request):
    if "bad" in request.prompt:
        return {reply}
"""
    )
    suite.write(
        "@pytest.mark.langasync(max_retries=0)\ndef test_bad(): ask('bad')\n"
        "@pytest.mark.langasync\ndef test_good(): assert ask('good')\n"
    )
    result = suite.run("--langasync-timeout=20s")
    result.assert_outcomes(passed=1, failed=1)
    assert says in result.stdout.str().replace("\n", " ")


def test_usage_that_is_no_number_ends_no_batch(suite: Suite) -> None:
    body: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": None, "total_tokens": "9"}}
    suite.pytester.makeconftest(
        "import pytest\n@pytest.hookimpl(optionalhook=True)\n"
        f"def pytest_langasync_sandbox_reply(request): return {body!r}\n"
    )
    suite.write(
        "import openai\n@pytest.mark.langasync\ndef test_it():\n"
        "    message = [{'role': 'user', 'content': 'x'}]\n"
        "    done = openai.OpenAI().chat.completions.create(model='m', messages=message)\n"
        "    assert done.choices == []\n"
    )
    suite.run("--langasync-timeout=20s").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("https://api.openai.com/v1/files?limit=2", "http://127.0.0.1:1/v1/files?limit=2"),
        ("https://eu.api.openai.com/v1/models", "http://127.0.0.1:1/v1/models"),
        ("https://api.anthropic.com/api/x", "http://127.0.0.1:1/api.anthropic.com/api/x"),
        ("https://gw.example:443/llm/v1/files", "http://127.0.0.1:1/v1/files"),
        (
            "https://us-east1-aiplatform.googleapis.com/v1/projects/p",
            "http://127.0.0.1:1/us-east1-aiplatform.googleapis.com/v1/projects/p",
        ),
        (
            "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/invoke",
            "http://127.0.0.1:1/bedrock-runtime.us-east-1.amazonaws.com/model/m/invoke",
        ),
        ("https://eu-west-1.api.x.ai/v1/x", "http://127.0.0.1:1/eu-west-1.api.x.ai/v1/x"),
        ("https://s3.us-east-1.amazonaws.com/b", ""),
        ("https://api.smith.langchain.com/runs", ""),
        ("https://notapi.openai.com.evil.example/v1/files", ""),
        ("http://127.0.0.1:1/v1/files", ""),
        ("http://127.0.0.1:2/v1/files", ""),
    ],
)
def test_detours(monkeypatch: pytest.MonkeyPatch, url: str, there: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://user:pw@GW.example/llm/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    assert detour("http://127.0.0.1:1/v1", url) == there
    assert detour("", url) == ""

"""Which calls are caught, from which clients, and what comes back through the SDKs."""

from __future__ import annotations

import sys

import aiohttp
import httpx
import httpx2
import pytest
from support.loopback import Say, loopback
from support.suite import Suite

from pytest_langasync.providers.openai import to_result
from pytest_langasync.providers.wire import Row
from pytest_langasync.sandbox import Sandbox

pytestmark = pytest.mark.filterwarnings("ignore")

CLIENTS = """
import asyncio
import anthropic, httpx, httpx2, openai, pytest

EARLY, EARLY_ASYNC, EARLY_CLAUDE = openai.OpenAI(), openai.AsyncOpenAI(), anthropic.Anthropic()
pytestmark = pytest.mark.langasync
SAY = lambda text: [{"role": "user", "content": text}]
CHAT = lambda text: {"model": "gpt-4o-mini", "messages": SAY(text)}
MESSAGE = lambda text: {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": SAY(text)}

def test_clients_made_at_import_time():
    assert "one" in EARLY.chat.completions.create(**CHAT("one")).choices[0].message.content
    assert EARLY_CLAUDE.messages.create(**MESSAGE("one")).content[0].text

def test_clients_made_inside():
    assert openai.OpenAI().responses.create(model="gpt-4o-mini", input="two").output_text
    assert anthropic.Anthropic().messages.create(**MESSAGE("two")).usage.output_tokens

def test_asynchronous():
    async def main():
        chat, message = await asyncio.gather(
            EARLY_ASYNC.chat.completions.create(**CHAT("three")),
            anthropic.AsyncAnthropic().messages.create(**MESSAGE("three")))
        vectors = await EARLY_ASYNC.embeddings.create(model="text-embedding-3-small", input="x")
        return chat.usage.total_tokens and message.id and len(vectors.data[0].embedding)
    assert asyncio.run(main())

def test_a_client_over_httpx():
    client = openai.OpenAI(http_client=httpx.Client())
    assert client.chat.completions.create(**CHAT("four")).id

def test_asynchronous_client_over_httpx():
    client = openai.AsyncOpenAI(http_client=httpx.AsyncClient())
    assert asyncio.run(client.chat.completions.create(**CHAT("five"))).id

def test_aiohttp_clients():
    async def main():
        async with openai.AsyncOpenAI(http_client=openai.DefaultAioHttpClient()) as one:
            first = await one.chat.completions.create(**CHAT("six"))
        async with anthropic.AsyncAnthropic(http_client=anthropic.DefaultAioHttpClient()) as two:
            return first.id and (await two.messages.create(**MESSAGE("six"))).id
    assert asyncio.run(main())

def test_raw_and_streaming_response():
    raw = EARLY.chat.completions.with_raw_response.create(**CHAT("seven"))
    assert raw.status_code == 200 and raw.parse().id and raw.headers["x-request-id"]
    with EARLY.chat.completions.with_streaming_response.create(**CHAT("eight")) as streaming:
        assert streaming.parse().id
    raw = EARLY_CLAUDE.messages.with_raw_response.create(**MESSAGE("seven"))
    assert raw.parse().id
    with EARLY_CLAUDE.messages.with_streaming_response.create(**MESSAGE("eight")) as streaming:
        assert b"content" in b"".join(streaming.iter_bytes())

def test_request_ids():
    assert EARLY.chat.completions.create(**CHAT("nine"))._request_id

def test_streams():
    parts = [c.choices[0].delta.content or "" for c in
             EARLY.chat.completions.create(**CHAT("ten"), stream=True) if c.choices]
    assert "ten" in "".join(parts)
    with EARLY_CLAUDE.messages.stream(**MESSAGE("ten")) as stream:
        assert "ten" in stream.get_final_text()
    with EARLY.responses.stream(model="gpt-4o-mini", input="ten") as stream:
        assert "ten" in stream.get_final_response().output_text

    async def main():
        client = openai.AsyncOpenAI()
        stream = await client.chat.completions.create(**CHAT("eleven"), stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    assert "eleven" in asyncio.run(main())

def test_event_hooks_run():
    seen = []
    http = httpx2.Client(event_hooks={"request": [seen.append], "response": [seen.append]})
    openai.OpenAI(http_client=http).chat.completions.create(**CHAT("twelve"))
    assert [type(x).__name__ for x in seen] == ["Request", "Response"]

def test_custom_transport_around_a_real_one():
    class Retrying(httpx2.BaseTransport):
        def __init__(self): self.inner = httpx2.HTTPTransport()
        def handle_request(self, request): return self.inner.handle_request(request)
    client = openai.OpenAI(http_client=httpx2.Client(transport=Retrying()))
    assert client.chat.completions.create(**CHAT("thirteen")).id
"""

REPLACED = """
import asyncio, functools
import httpx, httpcore, httpx2, openai, pytest, wrapt
pytestmark = pytest.mark.langasync
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}
BODY = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "mocked"}}]}

def ask(**given):
    done = openai.OpenAI(**given).chat.completions.create(**CHAT)
    return done.choices[0].message.content

def test_a_class(monkeypatch):
    fake = lambda transport, request: httpx2.Response(200, json=BODY)
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", fake)
    assert ask() == "mocked"

def test_an_asynchronous_class(monkeypatch):
    async def fake(transport, request): return httpx2.Response(200, json=BODY)
    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", fake)
    assert asyncio.run(openai.AsyncOpenAI().chat.completions.create(**CHAT)).id == "x"

def test_an_instance(monkeypatch):
    client = httpx.Client()
    fake = lambda request: httpx.Response(200, json=BODY)
    monkeypatch.setattr(client._transport, "handle_request", fake)
    assert ask(http_client=client) == "mocked"

def test_inside_a_transport_of_ones_own(monkeypatch):
    class Retrying(httpx2.BaseTransport):
        def __init__(self): self.inner = httpx2.HTTPTransport()
        def handle_request(self, request): return self.inner.handle_request(request)
    fake = lambda transport, request: httpx2.Response(200, json=BODY)
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", fake)
    assert ask(http_client=httpx2.Client(transport=Retrying())) == "mocked"
"""

INSTRUMENTED = """
import functools
import httpx2, openai, pytest, wrapt
pytestmark = pytest.mark.langasync
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}

def ask(**given):
    return "hello" in openai.OpenAI(**given).chat.completions.create(
        **CHAT).choices[0].message.content

def wrapper(wrapped, instance, args, kwargs): return wrapped(*args, **kwargs)

def test_functools(monkeypatch):
    original = httpx2.HTTPTransport.handle_request
    @functools.wraps(original)
    def counting(*args): return original(*args)
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", counting)
    assert ask()

def test_opentelemetry_on_the_class(monkeypatch):
    wrapped = wrapt.FunctionWrapper(httpx2.HTTPTransport.handle_request, wrapper)
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", wrapped)
    assert ask()

def test_opentelemetry_on_one_client():
    client = httpx2.Client()
    wrapt.wrap_function_wrapper(client._transport, "handle_request", wrapper)
    assert ask(http_client=client)

def test_a_subclass():
    class Mine(httpx2.HTTPTransport):
        def handle_request(self, request): return super().handle_request(request)
    assert ask(http_client=httpx2.Client(transport=Mine()))
"""

ADDED_ON_THE_WAY = """
import asyncio
import httpx, httpx2, openai, pytest
pytestmark = pytest.mark.langasync
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}

def ask(http):
    client = openai.OpenAI(api_key="invalid", http_client=http)
    return client.chat.completions.create(**CHAT).choices[0].message.content

async def aask(http):
    client = openai.AsyncOpenAI(api_key="invalid", http_client=http)
    return (await client.chat.completions.create(**CHAT)).choices[0].message.content

class Token(httpx2.Auth):
    def auth_flow(self, request):
        request.headers["authorization"] = "Bearer sk-from-the-flow"
        yield request

class OldToken(httpx.Auth):
    auth_flow = Token.auth_flow

def hook(request): request.headers["authorization"] = "Bearer sk-from-the-hook"
async def ahook(request): hook(request)

def test_an_auth_flow(): assert "hello" in ask(httpx2.Client(auth=Token()))
def test_an_auth_flow_of_httpx(): assert "hello" in ask(httpx.Client(auth=OldToken()))
def test_an_asynchronous_auth_flow():
    assert "hello" in asyncio.run(aask(httpx2.AsyncClient(auth=Token())))
def test_a_hook(): assert "hello" in ask(httpx2.Client(event_hooks={"request": [hook]}))
def test_an_asynchronous_hook():
    assert "hello" in asyncio.run(aask(httpx.AsyncClient(event_hooks={"request": [ahook]})))

def test_a_mount():
    class Adding(httpx2.HTTPTransport):
        def handle_request(self, request):
            hook(request)
            return super().handle_request(request)
    assert "hello" in ask(httpx2.Client(mounts={"all://": Adding()}))

def test_a_transport_for_each_loop():
    class LoopScoped(httpx2.AsyncBaseTransport):
        def __init__(self): self.inner = {}
        async def handle_async_request(self, request):
            loop = asyncio.get_running_loop()
            inner = self.inner.setdefault(loop, httpx2.AsyncHTTPTransport())
            hook(request)
            return await inner.handle_async_request(request)
    client = httpx2.AsyncClient(transport=LoopScoped())
    assert "hello" in asyncio.run(aask(client)) and "hello" in asyncio.run(aask(client))

def test_a_proxy_is_not_asked():
    keyed = openai.OpenAI(http_client=httpx2.Client(proxy="http://127.0.0.1:9"))
    assert "hello" in keyed.chat.completions.create(**CHAT).choices[0].message.content
    keyed.close()
"""

AIOHTTP = """
import asyncio, json
import aiohttp, pytest
pytestmark = pytest.mark.langasync
URL = "https://api.openai.com/v1/chat/completions"
HEADERS = {"Authorization": "Bearer sk-test"}
SAY = lambda text, **more: {"model": "gpt-4o-mini", "messages": [
    {"role": "user", "content": text}], **more}

def run(act, **options):
    async def main():
        async with aiohttp.ClientSession(headers=HEADERS, **options) as session:
            return await act(session)
    return asyncio.run(main())

def test_json():
    async def act(session):
        async with session.post(URL, json=SAY("one")) as response:
            assert response.status == 200 and response.ok and response.reason == "OK"
            assert response.content_type == "application/json"
            assert str(response.url) == URL and response.headers["x-request-id"]
            return (await response.json())["choices"][0]["message"]["content"]
    assert "one" in run(act)

def test_bytes_and_a_base_url():
    async def act(session):
        response = await session.post("/v1/chat/completions", data=json.dumps(SAY("two")).encode())
        return await response.text()
    assert "two" in run(act, base_url="https://api.openai.com")

def test_side_by_side():
    async def act(session):
        async def ask(n):
            async with session.request("post", URL, json=SAY(f"side {n}")) as response:
                return await response.read()
        return await asyncio.gather(*map(ask, range(3)))
    assert len(run(act)) == 3

def test_a_stream():
    async def act(session):
        async with session.post(URL, json=SAY("three", stream=True)) as response:
            assert response.content_type == "text/event-stream"
            return [line async for line in response.content]
    assert run(act)[-2:] == [b"data: [DONE]\\n", b"\\n"]

def test_errors():
    async def act(session):
        with pytest.raises(aiohttp.ClientResponseError) as error:
            await session.post(URL, json=SAY("[[status:400]]"), raise_for_status=True)
        return error.value.status
    assert run(act) == 400

def test_a_session_that_raises():
    async def act(session):
        with pytest.raises(aiohttp.ClientResponseError) as error:
            await session.post(URL, json=SAY("[[status:422]]"))
        return error.value.status
    assert run(act, raise_for_status=True) == 422
"""

FAILURES = """
import time
import anthropic, openai, pytest
pytestmark = pytest.mark.langasync

@pytest.mark.parametrize("status, kind", [
    (400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)])
def test_openai(status, kind):
    client = openai.OpenAI()
    content = f"[[status:{status}]]"
    with pytest.raises(kind) as error:
        client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": content}])
    assert error.value.body["message"] and error.value.status_code == status

def test_anthropic():
    with pytest.raises(anthropic.APIStatusError) as error:
        anthropic.Anthropic().messages.create(model="claude-haiku-4-5", max_tokens=9, messages=[
            {"role": "user", "content": "[[status:529]]"}])
    assert type(error.value).__name__ == "OverloadedError"
    assert error.value.body["error"]["type"] == "overloaded_error"
"""

UNTOUCHED = """
import json
import anthropic, httpx, httpx2, openai, pytest
BODY = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "mocked"}}]}
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}

def ask(http):
    client = openai.OpenAI(http_client=http, base_url="https://api.openai.com/v1", max_retries=0)
    return client.chat.completions.create(**CHAT).choices[0].message.content

@pytest.mark.langasync
@pytest.mark.parametrize("lib", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_mock_transport(lib):
    transport = lib.MockTransport(lambda request: lib.Response(200, json=BODY))
    assert ask(lib.Client(transport=transport)) == "mocked"

@pytest.mark.langasync
def test_wsgi():
    def app(environ, start):
        start("200 OK", [("content-type", "application/json")])
        return [json.dumps(BODY).encode()]
    assert ask(httpx.Client(transport=httpx.WSGITransport(app=app))) == "mocked"

@pytest.mark.langasync
def test_asgi():
    import asyncio
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(BODY).encode()})
    client = openai.AsyncOpenAI(http_client=httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app)))
    assert asyncio.run(client.chat.completions.create(**CHAT)).id == "x"

@pytest.mark.langasync
def test_respx():
    import respx
    with respx.mock:
        respx.post("https://api.openai.com/v1/chat/completions").respond(json=BODY)
        assert ask(httpx.Client()) == "mocked"

@pytest.mark.langasync
def test_pytest_httpx(httpx_mock):
    httpx_mock.add_response(json=BODY)
    assert ask(httpx.Client()) == "mocked"

@pytest.mark.langasync
def test_vcr(tmp_path):
    import vcr, yaml
    tape = tmp_path / "tape.yaml"
    tape.write_text(yaml.safe_dump({"version": 1, "interactions": [{
        "request": {"method": "POST", "uri": "https://api.openai.com/v1/chat/completions",
                    "body": "", "headers": {}},
        "response": {"status": {"code": 200, "message": "OK"},
                     "headers": {"content-type": ["application/json"]},
                     "body": {"string": json.dumps(BODY)}}}]}))
    with vcr.use_cassette(str(tape), record_mode="none"):
        assert ask(httpx.Client()) == "mocked"
"""

OTHERS = """
import httpx2, openai, os, pytest
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "plain"}]}

def test_unmarked():
    assert openai.OpenAI().chat.completions.create(**CHAT).id

@pytest.mark.langasync
def test_files_and_models_and_other_paths():
    client = openai.OpenAI()
    made = client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert client.files.retrieve(made.id).id == made.id
    with pytest.raises(openai.NotFoundError):
        client.post("/elsewhere", cast_to=object, body={})
"""


LEAVES = (
    (httpx.HTTPTransport, "handle_request"),
    (httpx.AsyncHTTPTransport, "handle_async_request"),
    (httpx2.HTTPTransport, "handle_request"),
    (httpx2.AsyncHTTPTransport, "handle_async_request"),
    (aiohttp.ClientSession, "_request"),
)


def test_every_client_is_caught(suite: Suite) -> None:
    suite.pytester.makepyfile(test_callers=CLIENTS)
    suite.run().assert_outcomes(passed=11)
    rows = suite.ledger()
    assert len(rows) == 22 and all(row["job_id"] for row in rows)


def test_a_failed_request_raises_what_the_sdk_raises_without_a_retry(suite: Suite) -> None:
    suite.pytester.makepyfile(test_failures=FAILURES)
    suite.run("--langasync-max-retries=0").assert_outcomes(passed=4)
    assert len(suite.ledger()) == 4
    assert suite.provider.exists()


def test_mocks_and_applications_answer_themselves(suite: Suite) -> None:
    suite.pytester.makepyfile(test_untouched=UNTOUCHED)
    suite.use("pytest_httpx", "respx.plugin")
    suite.run().assert_outcomes(passed=7)
    assert suite.ledger() == []


def test_a_function_in_a_transports_place_answers_itself(suite: Suite) -> None:
    suite.pytester.makepyfile(test_replaced=REPLACED)
    suite.run().assert_outcomes(passed=4)
    assert suite.ledger() == []


def test_a_wrapper_around_a_transport_changes_nothing(suite: Suite) -> None:
    suite.pytester.makepyfile(test_instrumented=INSTRUMENTED)
    suite.run().assert_outcomes(passed=4)
    assert len(suite.ledger()) == 4 and all(row["job_id"] for row in suite.ledger())


def test_what_is_added_to_a_call_on_its_way_is_in_the_batch(suite: Suite) -> None:
    """Auth flows, hooks and mounts have run by the time a call is caught."""
    suite.pytester.makepyfile(test_added=ADDED_ON_THE_WAY)
    suite.run().assert_outcomes(passed=8)
    assert len(suite.ledger()) == 9 and all(row["job_id"] for row in suite.ledger())


def test_aiohttp(suite: Suite) -> None:
    suite.pytester.makepyfile(test_aiohttp=AIOHTTP)
    suite.run("--langasync-max-retries=0").assert_outcomes(passed=6)
    assert len(suite.ledger()) == 8 and all(row["job_id"] for row in suite.ledger())
    suite.run("--langasync-offline", "-k", "not raises and not errors").assert_outcomes(passed=4)


def test_what_goes_out_in_real_time_is_what_the_client_made(
    suite: Suite, provider: Sandbox
) -> None:
    """Each kind of client sends for itself: with its auth flow, and what it was told to stream."""
    for module, source in (("added", ADDED_ON_THE_WAY), ("callers", CLIENTS)):
        suite.pytester.makepyfile(
            **{f"test_{module}": source.replace("def test_a_proxy", "def no")}
        )
    result = suite.plain("--langasync-realtime")
    result.assert_outcomes(passed=18)
    assert len(provider.ledger()) == 30 and not any(row["job_id"] for row in provider.ledger())
    suite.plain("--langasync-offline").assert_outcomes(passed=18)


def test_nothing_else_is_touched(suite: Suite, provider: Sandbox) -> None:
    suite.pytester.makepyfile(test_others=OTHERS)
    result = suite.plain("--langasync-batch")
    result.assert_outcomes(passed=2)
    assert [row["job_id"] for row in provider.ledger()] == [""]


def test_what_no_batch_takes_is_sent_at_once_and_named(suite: Suite, provider: Sandbox) -> None:
    suite.write(
        """
import openai

def question(**options):
    message = [{"role": "user", "content": "hi"}]
    options = {"model": "gpt-4o-mini", "messages": message, **options}
    return openai.OpenAI().chat.completions.create(**options).choices[0].message.content

@pytest.mark.langasync
def test_it():
    for trace in ("yes", "no"):
        question(extra_query={"trace": trace})
    openai.OpenAI().responses.create(model="gpt-4o-mini", input="hi", background=True)
    question()
"""
    )
    batch = ("--langasync-batch", "--langasync-poll-interval=0.02")
    result = suite.plain(*batch)
    result.assert_outcomes(passed=1)
    assert [bool(row["job_id"]) for row in provider.ledger()] == [False] * 3 + [True]
    result.stdout.fnmatch_lines(
        [
            "1 call to * ran in real time: a background response cannot be batched",
            "2 calls to * ran in real time: a batch takes no query string",
        ]
    )
    suite.plain(*batch).assert_outcomes(passed=1)
    assert len(provider.ledger()) == 4


def test_headers_of_one_call_make_no_job_of_their_own(suite: Suite) -> None:
    """Tracing and gateways add headers that differ from call to call."""
    suite.write(
        """
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    names = ["X-Client-Request-Id", "sentry-trace", "b3", "X-B3-TraceId", "x-datadog-trace-id",
             "traceparent", "Helicone-Request-Id", "Helicone-Session-Id", "X-Request-Id",
             "newrelic", "x-my-own-header"]
    headers = {name: f"{name}-{n}" for name in names} | {"Helicone-Auth": "Bearer same"}
    assert ask(f"hello {n}", extra_headers=headers)

@pytest.mark.langasync
def test_another_account():
    assert ask("hello", extra_headers={"Authorization": "Bearer another"})
"""
    )
    suite.run().assert_outcomes(passed=5)
    assert sorted(map(len, suite.waves())) == [1, 4]


def test_what_an_answer_told_besides_is_replayed(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"x-ratelimit-remaining-requests": "9", "openai-processing-ms": "12"}
    message = {"role": "assistant", "content": "hi"}
    body = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    suite.write(
        """
import openai
@pytest.mark.langasync
def test_it():
    hello = [{"role": "user", "content": "hello"}]
    raw = openai.OpenAI().chat.completions.with_raw_response.create(model="m", messages=hello)
    assert raw.headers["x-ratelimit-remaining-requests"] == "9"
    assert raw.headers["openai-processing-ms"] == "12" and "set-cookie" not in raw.headers
"""
    )
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with loopback() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        server.on("POST /v1/chat/completions", Say(body, 200, {**told, "set-cookie": "secret"}))
        suite.plain("--langasync-realtime").assert_outcomes(passed=1)
    suite.plain("--langasync-offline").assert_outcomes(passed=1)
    row = Row.model_validate(
        {"custom_id": "c", "response": {"status_code": 200, "body": body, "headers": told}}
    )
    assert to_result(row).headers == told


def test_all_marks_every_test(suite: Suite) -> None:
    suite.pytester.makepyfile(test_others=OTHERS.partition("@pytest")[0])
    suite.run("--langasync-all").assert_outcomes(passed=1)
    assert len(suite.ledger()) == 1 and suite.ledger()[0]["job_id"]


def test_patches_are_undone_and_absent_without_the_flag(suite: Suite) -> None:
    import threading
    from concurrent.futures import ThreadPoolExecutor

    def patched() -> list[object]:
        leaves = [getattr(owner, name) for owner, name in LEAVES]
        return [*leaves, threading.Thread.start, ThreadPoolExecutor.submit, *sys.meta_path]

    before = patched()
    suite.pytester.makepyfile(
        test_inside="""
        import httpx2, pytest
        @pytest.mark.langasync
        def test_module():
            code = httpx2.HTTPTransport.handle_request.__code__.co_filename
            assert ("pytest_langasync" in code) == EXPECTED
        """.replace("EXPECTED", "True")
    )
    suite.run().assert_outcomes(passed=1)
    assert patched() == before
    path = suite.path / "test_inside.py"
    path.write_text(path.read_text().replace("== True", "== False"))
    suite.plain().assert_outcomes(passed=1)

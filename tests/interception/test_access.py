"""A batch gets in where its calls got in: through their proxy, with a token of its own time."""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx
import httpx2
import openai
import pytest
from support.loopback import Say, loopback
from support.suite import BATCH, Suite, output

from pytest_langasync.exceptions import ConfigurationError, ProviderError
from pytest_langasync.interception.clients import Interceptor
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.interception.httpx_leaf import HttpxCall
from pytest_langasync.interception.senders import Sender, sender_here, transport_options
from pytest_langasync.interception.wire import Decision, Reply, Wire
from pytest_langasync.models import Credentials, LiveCredentials, MissingCall, Target
from pytest_langasync.plugin.xdist_messages import Wanted, encode, read_worker_message
from pytest_langasync.providers.http import Policy
from pytest_langasync.providers.openai import OpenAI
from pytest_langasync.sandbox import Sandbox

pytestmark = pytest.mark.filterwarnings("ignore")


# ---- tokens


class Tokens:
    """Where a client gets its token from: another one each time."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self) -> str:
        self.given += 1
        return f"token-{self.given}"


class Flow(httpx2.Auth):
    """Gets a token once, and again when it was refused."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.token = tokens, ""

    def auth_flow(self, request: Any) -> Any:
        """Let a request in."""
        self.token = self.token or self.tokens()
        request.headers["authorization"] = f"Bearer {self.token}"
        response = yield request
        if response.status_code == 401:
            self.token = self.tokens()
            request.headers["authorization"] = f"Bearer {self.token}"
            yield request


class OldFlow(httpx.Auth):
    """The same for httpx."""

    __init__ = Flow.__init__
    auth_flow = Flow.auth_flow  # type: ignore[assignment]


BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
URL = "https://llm.example/v1"


def by_an_auth_flow(tokens: Tokens) -> None:
    http = httpx2.Client(auth=Flow(tokens))
    openai.OpenAI(api_key="none", base_url=URL, http_client=http).post(
        "/chat/completions", cast_to=object, body=BODY
    )


def by_httpx_alone(tokens: Tokens) -> None:
    with httpx.Client(auth=OldFlow(tokens)) as client:
        client.post(f"{URL}/chat/completions", json=BODY)


def by_a_hook(tokens: Tokens) -> None:
    def hook(request: Any) -> None:
        request.headers["authorization"] = f"Bearer {tokens()}"

    with httpx2.Client(event_hooks={"request": [hook]}) as client:
        client.post(f"{URL}/chat/completions", json=BODY)


def by_a_function_for_the_key(tokens: Tokens) -> None:
    client = openai.OpenAI(api_key=tokens, base_url=URL)
    client.post("/chat/completions", cast_to=object, body=BODY)


def by_a_credentials_provider(tokens: Tokens) -> None:
    def provider(**_: Any) -> anthropic.AccessToken:
        return anthropic.AccessToken(token=tokens(), expires_at=None)

    client = anthropic.Anthropic(credentials=provider, base_url=URL.removesuffix("/v1"))
    client.post("/v1/messages", cast_to=object, body=BODY)


def by_an_asynchronous_flow(tokens: Tokens) -> None:
    async def main() -> None:
        async with httpx2.AsyncClient(auth=Flow(tokens)) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url=URL, http_client=http)
            await client.post("/chat/completions", cast_to=object, body=BODY)

    asyncio.run(main())


WAYS_IN = (
    by_an_auth_flow,
    by_httpx_alone,
    by_a_hook,
    by_a_function_for_the_key,
    by_a_credentials_provider,
    by_an_asynchronous_flow,
)


class Parked(BaseException):
    """Nobody is parked here."""


class Catch:
    """A router that answers every call, and keeps who made it."""

    def __init__(self) -> None:
        self.senders: list[Sender | None] = []
        self.headers: list[Mapping[str, str]] = []

    def concerns(self, method: str, url: str, path: str) -> bool:
        """Take every call."""
        return True

    def decide(self, wire: Wire) -> Decision:
        """Look who is there."""
        self.senders.append(sender_here(None, None))
        self.headers.append(wire.headers)
        return Reply(200, {"content-type": "application/json"}, b"{}")


@pytest.mark.parametrize("ask", WAYS_IN, ids=lambda ask: ask.__name__)
def test_short_lived_tokens(ask: Callable[[Tokens], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of a call says what it would carry now, whichever way it gets its token."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    catch, tokens = Catch(), Tokens()
    interceptor = Interceptor(catch, ConcurrencyTracker(Parked))
    interceptor.install()
    try:
        ask(tokens)
    finally:
        interceptor.uninstall()
    sender = catch.senders[0]
    assert sender is not None and catch.headers[0]["authorization"] == "Bearer token-1"
    for _ in range(2):
        before = tokens.given
        headers = sender.headers(f"{URL}/models")
        assert tokens.given > before
        assert headers["authorization"] == f"Bearer token-{tokens.given}"


def live(renew: Callable[[], Credentials | None]) -> LiveCredentials:
    return LiveCredentials({"authorization": "Bearer one"}, renew=renew)


def test_a_refused_token_is_replaced() -> None:
    new = Credentials({"authorization": "Bearer two"})
    with loopback() as server:
        server.on("GET /v1/batches/b1", Say({"error": {"message": "old"}}, 401), Say({"id": "b1"}))
        client = OpenAI().client(f"{server.url}/v1", live(lambda: new), ())
        assert client.status("b1")
        sent = [seen.headers["authorization"] for seen in server.at("GET /v1/batches/b1")]
    assert sent == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("patience", [600.0, 0.0])
def test_a_refusal_in_the_middle_waits_for_a_new_token(patience: float) -> None:
    """Trouble, and no end of the run, until the patience is over."""

    def fail() -> Credentials | None:
        raise OSError("no network")

    no = Say({"error": {"message": "no"}}, 401)
    with loopback() as server:
        server.on("GET /v1/batches/b1", Say({"id": "b1"}), no)
        client = OpenAI(Policy(patience=patience)).client(f"{server.url}/v1", live(fail), ())
        client.status("b1")
        kind, says = (
            (ProviderError, "waiting for a new token")
            if patience
            else (ConfigurationError, "check the key the test uses")
        )
        with pytest.raises(kind, match=says):
            client.status("b1")
        server.on("GET /v1/batches/b1", no)
        never_in = OpenAI().client(f"{server.url}/v1", live(fail), ())
        with pytest.raises(ConfigurationError, match="check the key"):
            never_in.status("b1")


REFRESHED = """
import anthropic, httpx2, openai, pathlib, pytest
LOG = pathlib.Path("tokens.txt")

def token():
    given = LOG.read_text().split() if LOG.exists() else []
    LOG.write_text(" ".join([*given, "x"]))
    return f"sk-short-lived-{len(given)}"

def hook(request):
    request.headers["authorization"] = "Bearer " + token()

@pytest.mark.langasync
def test_it():
    http = httpx2.Client(event_hooks={"request": [hook]})
    client = openai.OpenAI(api_key="invalid", http_client=http)
    hello = [{"role": "user", "content": "hello"}]
    assert client.chat.completions.create(model="gpt-4o-mini", messages=hello).id
"""


def test_a_refusal_in_the_middle_of_a_run(suite: Suite, provider: Sandbox) -> None:
    suite.pytester.makepyfile(test_it=REFRESHED)
    provider.set_faults({"http": [{"path": "GET /v1/batches/*", "status": 401, "count": 1}]})
    suite.plain(*BATCH).assert_outcomes(passed=1)
    assert len(provider.ledger()) == 1
    assert "short-lived" not in "".join(
        path.read_text() for path in (suite.path / ".langasync").rglob("*.json*")
    )


# ---- networks


class Proxy(ThreadingHTTPServer):
    """An HTTP proxy: the one way to a host of no real name, behind which is a sandbox."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.behind = urlsplit(behind).netloc
        self.seen: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class ProxyHandler(BaseHTTPRequestHandler):
    """One request that goes through the proxy."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        """Hand a request on."""
        self.server.seen.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        connection = http.client.HTTPConnection(self.server.behind)
        path = self.path.partition("llm.test")[2]
        headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
        connection.request(self.command, path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815
    do_DELETE = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def proxy(provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Run the proxy; nothing else leads to ``http://llm.test``."""
    with Proxy(provider.url) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", "http://llm.test/v1")
        monkeypatch.setenv("PROXY_URL", server.url)
        yield server
        server.shutdown()
        thread.join()


BEHIND = """
import asyncio, os
import aiohttp, httpx2, openai, pytest, requests
PROXY = os.environ["PROXY_URL"]
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
HEADERS = {"Authorization": "Bearer sk-test-of-NAME"}

def httpx_():
    client = openai.OpenAI(http_client=httpx2.Client(proxy=PROXY))
    return client.chat.completions.create(**HELLO)
def mounted():
    mounts = {"all://llm.test": httpx2.HTTPTransport(proxy=PROXY)}
    return openai.OpenAI(http_client=httpx2.Client(mounts=mounts)).chat.completions.create(**HELLO)
def asynchronous():
    client = openai.AsyncOpenAI(http_client=httpx2.AsyncClient(proxy=PROXY))
    return asyncio.run(client.chat.completions.create(**HELLO))
def aiohttp_():
    async def main():
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            async with session.post(URL, json=HELLO, proxy=PROXY) as reply:
                return await reply.json()
    return asyncio.run(main())

@pytest.mark.langasync
def test_it():
    assert NAME()
"""


@pytest.mark.parametrize("name", ["httpx_", "mounted", "asynchronous", "aiohttp_"])
def test_a_batch_goes_through_the_proxy_of_its_calls(
    suite: Suite, provider: Sandbox, proxy: Proxy, name: str
) -> None:
    suite.pytester.makepyfile(test_it=BEHIND.replace("NAME", name))
    result = suite.plain(*BATCH)
    result.assert_outcomes(passed=1)
    assert [bool(row["job_id"]) for row in provider.ledger()] == [True]
    assert "POST http://llm.test/v1/batches" in proxy.seen
    assert proxy.url not in "".join(
        path.read_text() for path in (suite.path / ".langasync").rglob("*.json*")
    )


def test_workers_of_xdist_tell_the_way(suite: Suite, provider: Sandbox, proxy: Proxy) -> None:
    suite.pytester.makepyfile(test_it=BEHIND.replace("NAME", "httpx_"))
    suite.use("xdist.plugin")
    result = suite.pytester.runpytest_subprocess("-n1", *BATCH)
    assert result.ret == 0, output(result)
    assert "POST http://llm.test/v1/batches" in proxy.seen


def way_of(transport: Any, library: Any) -> Any:
    request = library.Request("POST", "https://llm.example/v1/chat/completions")
    return HttpxCall(library, None, transport, request).way()


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_the_clients_own_way(library: Any, tmp_path: Path) -> None:
    """What a transport was told is told to another one, in this process and in another."""
    certificate = Path(os.environ["SSL_CERT_FILE"])  # one authority: see the tests' own conftest
    two = tmp_path / "two.pem"
    two.write_text(certificate.read_text() + second_authority())
    plain = way_of(library.HTTPTransport(), library).network
    assert plain.verify and not (plain.authorities or plain.proxy or plain.uds)
    assert not way_of(library.HTTPTransport(verify=False), library).network.verify
    own = way_of(library.HTTPTransport(verify=str(two)), library)
    assert own.network.authorities.count("BEGIN CERTIFICATE") == 2
    proxied = library.HTTPTransport(
        proxy=library.Proxy("http://me:secret@proxy.example:3128", headers={"x-team": "evals"}),
        uds=None,
    )
    way = way_of(proxied, library).network
    assert way.proxy == "http://proxy.example:3128/"
    assert [name for name, _ in way.proxy_headers] == ["proxy-authorization", "x-team"]
    assert "secret" not in repr(way_of(proxied, library)) + repr(Credentials({}, {}, way))
    for one in (plain, own.network, way):
        credentials = Credentials({"authorization": "Bearer x"}, network=one)
        missing = MissingCall("k", "o", 0, Target("openai", "u", "/e", (), credentials), "m", 1)
        there = read_worker_message(encode(Wanted(missing=missing, body={})))
        assert isinstance(there, Wanted)
        assert there.missing.target.credentials.network == one
        made = library.HTTPTransport(**transport_options(library, one))
        assert way_of(made, library).network == one


def second_authority() -> str:
    import certifi

    end = "-----END CERTIFICATE-----\n"
    return Path(certifi.where()).read_text(encoding="utf-8").split(end)[1] + end

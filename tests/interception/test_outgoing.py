"""Requests that are kept at the leaf and sent later: the same request, the same way, any thread."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from support.loopback import Loopback, Say, loopback

from pytest_langasync.interception.outgoing import Outgoing, Transports, outgoing

BODY = b'{"model": "m"}'


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as script:
        script.on("POST /v1/chat/completions", Say({"answer": 1}))
        yield script


@pytest.fixture
def transports() -> Iterator[Transports]:
    opened = Transports()
    yield opened
    opened.close()


def kept(library: ModuleType, client: Any, url: str, *, target: str = "") -> Outgoing | None:
    """Return what the leaf of this client would keep of a POST."""
    request = client.build_request("POST", url, headers={"authorization": "Bearer k"}, content=b"x")
    transport = client._transport_for_url(request.url)
    return outgoing(library, transport, request)


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_sent_from_another_thread_after_the_client_was_closed(
    library: ModuleType, kind: str, server: Loopback, transports: Transports
) -> None:
    client = getattr(library, kind)()
    url = f"{server.url}/v1/chat/completions?api-version=3"
    found = kept(library, client, url)
    assert found is not None
    found = transports.keep(found)
    client.close() if kind == "Client" else asyncio.run(client.aclose())
    replies = []

    def send() -> None:
        replies.append(transports.send(found, BODY))

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(10)
    assert replies[0].status == 200 and json.loads(replies[0].content) == {"answer": 1}
    (seen,) = server.seen
    assert (seen.query, seen.data) == ("api-version=3", BODY)
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["content-length"] == str(len(BODY))


def test_through_the_clients_proxy(server: Loopback, transports: Transports) -> None:
    server.on("POST http://model.test/v1/chat/completions", Say({"answer": 2}))
    client = httpx2.AsyncClient(proxy=f"http://me:secret@{server.url.removeprefix('http://')}")
    found = kept(httpx2, client, "http://model.test/v1/chat/completions")
    assert found is not None
    reply = transports.send(transports.keep(found), BODY)
    assert json.loads(reply.content) == {"answer": 2}
    assert server.seen[0].headers["proxy-authorization"].startswith("Basic ")
    there = f"{server.url}/v1/chat/completions"
    assert json.loads(transports.send(found, BODY, url=there).content) == {"answer": 1}
    assert "proxy-authorization" not in server.seen[1].headers, "sent past the proxy"


def test_a_time_out_is_the_clients_own(server: Loopback, transports: Transports) -> None:
    server.on("POST /v1/chat/completions", Say(fault="hang"))
    found = kept(httpx2, httpx2.Client(timeout=0.05), f"{server.url}/v1/chat/completions")
    assert found is not None
    with pytest.raises(httpx2.ReadTimeout):
        transports.send(transports.keep(found), BODY)
    server.stop.set()


def test_tls_contexts_that_are_alike_are_kept_once(transports: Transports) -> None:
    url = "https://model.test/v1/chat/completions"
    clients = [httpx2.Client(), httpx2.AsyncClient(), httpx2.Client(verify=False)]
    found = [transports.keep(one) for client in clients if (one := kept(httpx2, client, url))]
    contexts: list[ssl.SSLContext] = [one.made_of["ssl_context"] for one in found]
    assert contexts[0] is contexts[1] and contexts[2] is not contexts[0]
    other = kept(httpx2, clients[0], "https://gateway.test/v1/chat/completions")
    assert other is not None and transports.keep(other).way != found[0].way


def test_a_transport_of_its_own_is_not_kept() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200)

    url = "https://model.test/v1/chat/completions"
    assert kept(httpx2, httpx2.Client(transport=httpx2.MockTransport(answer)), url) is None
    client = httpx2.Client()
    client._transport._pool._network_backend = object()
    assert kept(httpx2, client, url) is None

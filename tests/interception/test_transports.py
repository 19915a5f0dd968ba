"""Requests that are kept at the leaf and sent later: the same request, the same way, any thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from support.loopback import Loopback, Say, loopback

from pytest_langasync.interception.httpx_leaf import AsyncHttpxCall, HttpxCall
from pytest_langasync.interception.transports import Transports
from pytest_langasync.interception.wire import Fail, Wire
from pytest_langasync.models import Credentials

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


def leaf(library: ModuleType, client: Any, url: str) -> HttpxCall | AsyncHttpxCall:
    request = client.build_request("POST", url, headers={"authorization": "Bearer k"}, content=b"x")
    kind = AsyncHttpxCall if hasattr(client, "aclose") else HttpxCall
    return kind(library, None, client._transport_for_url(request.url), request)


def wire(library: ModuleType, client: Any, url: str) -> Wire:
    """Return what the leaf of this client tells of a POST."""
    return leaf(library, client, url)._wire(b"x")


def way(found: Wire) -> Credentials:
    told = found.way()
    return Credentials({}, network=told.network if told else None)


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_sent_from_another_thread_after_the_client_was_closed(
    library: ModuleType, kind: str, server: Loopback, transports: Transports
) -> None:
    client = getattr(library, kind)()
    found = wire(library, client, f"{server.url}/v1/chat/completions?api-version=3")
    assert found.outgoing is not None
    client.close() if kind == "Client" else asyncio.run(client.aclose())
    replies = []

    def send() -> None:
        assert found.outgoing is not None
        replies.append(transports.send(found.outgoing, BODY, way(found)))

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
    found = wire(httpx2, client, "http://model.test/v1/chat/completions")
    assert found.outgoing is not None
    reply = transports.send(found.outgoing, BODY, way(found))
    assert json.loads(reply.content) == {"answer": 2}
    assert server.seen[0].headers["proxy-authorization"].startswith("Basic ")
    there = f"{server.url}/v1/chat/completions"
    assert json.loads(transports.send(found.outgoing, BODY, None, url=there).content) == {
        "answer": 1
    }
    assert "proxy-authorization" not in server.seen[1].headers, "sent past the proxy"


def test_a_time_out_is_the_clients_own(server: Loopback, transports: Transports) -> None:
    server.on("POST /v1/chat/completions", Say(fault="hang"))
    call = leaf(httpx2, httpx2.Client(timeout=0.05), f"{server.url}/v1/chat/completions")
    found = call._wire(b"x")
    assert found.outgoing is not None
    with pytest.raises(httpx.ReadTimeout) as failed:
        transports.send(found.outgoing, BODY, way(found))
    error = call.failure(Fail(type(failed.value).__name__, str(failed.value)))
    assert type(error) is httpx2.ReadTimeout, "the caller's library is another one than ours"
    server.stop.set()


def test_a_network_of_its_own_is_not_kept() -> None:
    client = httpx2.Client()
    client._transport._pool._network_backend = object()
    assert wire(httpx2, client, "https://model.test/v1/chat/completions").outgoing is None

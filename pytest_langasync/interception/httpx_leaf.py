"""The leaf of httpx and httpx2: ``handle_request`` of the transport that opens connections.

Auth flows, event hooks, redirects and the choice of a proxy have run by then, and mock transports,
in-process applications and cassettes have answered.
"""

from __future__ import annotations

import ssl
from types import ModuleType
from typing import Any

from pytest_langasync.interception.senders import network
from pytest_langasync.interception.wire import Fail, Reply, Send, Way, Wire, answers_itself
from pytest_langasync.models import Outgoing

__all__ = ["AsyncHttpxCall", "HttpxCall"]

OWN = frozenset({"httpcore", "httpcore2"})
BACKENDS = frozenset({"AnyIOBackend", "AutoBackend", "SyncBackend", "TrioBackend"})
"""httpcore's own ways to open a connection. Another one is somebody's own."""
LENGTHS = ("content-length", "transfer-encoding")


class _Call:
    """What both kinds of client have in common."""

    def __init__(self, library: ModuleType, original: Any, transport: Any, request: Any) -> None:
        self.method: str = request.method
        self.url = str(request.url)
        self.path: str = request.url.path
        self._library = library
        self._original = original
        self._transport = transport
        self._request = request

    def _mocked(self, name: str) -> bool:
        """respx, by default, answers in the place of the connection pool."""
        handler = getattr(getattr(self._transport, "_pool", None), name, None)
        return handler is not None and answers_itself(handler, OWN)

    def _wire(self, content: bytes) -> Wire:
        headers = dict(self._request.headers)
        outgoing = None
        backend = getattr(getattr(self._transport, "_pool", None), "_network_backend", None)
        if type(backend).__name__ in BACKENDS:
            timeout = self._request.extensions.get("timeout", {})
            outgoing = Outgoing.of(self.method, self.url, headers, timeout)
        return Wire(self.method, self.url, self.path, headers, content, self.way, outgoing)

    def failure(self, failed: Fail) -> Exception:
        """See ``LeafCall``."""
        kind = getattr(self._library, failed.kind, self._library.TransportError)
        error: Exception = kind(failed.message, request=self._request)
        return error

    def way(self) -> Way | None:
        """Read the connection pool.

        Relies on the attributes of httpcore's pools; ``test_the_clients_own_way`` would notice.
        """
        pool = getattr(self._transport, "_pool", None)
        tls = getattr(pool, "_ssl_context", None)
        if pool is None or not isinstance(tls, ssl.SSLContext | None):
            return None
        proxy, headers = getattr(pool, "_proxy_url", None), getattr(pool, "_proxy_headers", ())
        auth = getattr(pool, "_proxy_auth", None)  # of a SOCKS proxy
        to = network(
            tls,
            proxy=_url(proxy, auth) if proxy is not None else "",
            proxy_headers=tuple(sorted((_text(n).lower(), _text(v)) for n, v in headers)),
            uds=getattr(pool, "_uds", None) or "",
            local_address=getattr(pool, "_local_address", None) or "",
        )
        return Way(to, tls)

    def _changed(self, decision: Send) -> Any:
        """Return the request with the decision's URL and body."""
        if decision.content is None and not decision.url:
            return self._request
        there = self._library.URL(decision.url or self._request.url)
        headers = dict(self._request.headers) | {"host": there.netloc.decode("ascii")}
        body: dict[str, Any] = {"stream": self._request.stream}
        if decision.content is not None:
            body = {"content": decision.content}
            headers = {n: v for n, v in headers.items() if n not in LENGTHS}
        extensions = self._request.extensions
        return self._library.Request(
            self.method, there, headers=headers, extensions=extensions, **body
        )

    def _respond(self, reply: Reply) -> Any:
        return self._library.Response(
            reply.status,
            headers=dict(reply.headers),
            # A stream and not ``content``: only a response that was read knows how long it took.
            stream=self._library.ByteStream(reply.content),
            extensions={"http_version": b"HTTP/1.1"},
        )


class HttpxCall(_Call):
    """``LeafCall`` of ``HTTPTransport.handle_request``."""

    def mocked(self) -> bool:
        """See ``LeafCall``."""
        return self._mocked("handle_request")

    def wire(self) -> Wire:
        """See ``LeafCall``."""
        return self._wire(self._request.read())

    def pass_on(self) -> Any:
        """See ``LeafCall``."""
        return self._original(self._transport, self._request)

    def send(self, decision: Send) -> Reply:
        """See ``LeafCall``."""
        request = self._changed(decision)
        if not decision.url:
            return self._read(self._original(self._transport, request))
        with self._library.HTTPTransport(verify=False, trust_env=False) as direct:
            return self._read(self._original(direct, request))

    def respond(self, reply: Reply) -> Any:
        """See ``LeafCall``."""
        return self._respond(reply)

    def _read(self, response: Any) -> Reply:
        return Reply.of(response.status_code, response.headers, response.read())


class AsyncHttpxCall(_Call):
    """``AsyncLeafCall`` of ``AsyncHTTPTransport.handle_async_request``."""

    def mocked(self) -> bool:
        """See ``LeafCall``."""
        return self._mocked("handle_async_request")

    async def wire(self) -> Wire:
        """See ``LeafCall``."""
        return self._wire(await self._request.aread())

    async def pass_on(self) -> Any:
        """See ``LeafCall``."""
        return await self._original(self._transport, self._request)

    async def send(self, decision: Send) -> Reply:
        """See ``LeafCall``."""
        request = self._changed(decision)
        if not decision.url:
            return await self._read(await self._original(self._transport, request))
        # A transport of its own: the caller's may lead through a proxy, and none may be outgoing,
        # because each belongs to the event loop it was first used in.
        async with self._library.AsyncHTTPTransport(verify=False, trust_env=False) as direct:
            return await self._read(await self._original(direct, request))

    async def respond(self, reply: Reply) -> Any:
        """See ``LeafCall``."""
        return self._respond(reply)

    async def _read(self, response: Any) -> Reply:
        return Reply.of(response.status_code, response.headers, await response.aread())


def _url(url: Any, auth: Any) -> str:
    text = bytes(url).decode("ascii")
    if not auth:
        return text
    scheme, _, place = text.partition("://")
    return f"{scheme}://{':'.join(map(_text, auth))}@{place}"


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)

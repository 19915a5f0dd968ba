"""The leaf of aiohttp: ``ClientSession._request``, below every way to make a request with it.

Transports of httpx that stand on aiohttp (httpx-aiohttp, the SDKs' ``DefaultAioHttpClient``,
LiteLLM's) end here, too. It is the function that VCR and aioresponses replace.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

from pytest_langasync.interception.senders import network
from pytest_langasync.interception.wire import Fail, Reply, Send, Way, Wire
from pytest_langasync.models import Outgoing

__all__ = ["AiohttpCall"]

LENGTHS = ("content-length", "transfer-encoding", "host")
ASKED = ("data", "json", "auth", "headers")
"""Arguments that are put together anew where something else is sent."""
WAY = ("proxy", "ssl", "server_", "verify_")
"""Beginnings of the arguments that say which way a request takes."""


class AiohttpCall:
    """``AsyncLeafCall`` of ``ClientSession._request``."""

    def __init__(
        self,
        library: ModuleType,
        original: Any,
        session: Any,
        method: str,
        str_or_url: Any,
        **kwargs: Any,
    ) -> None:
        self._library = library
        self._original = original
        self._session = session
        self._given = str_or_url
        self._kwargs = kwargs
        # What the session itself does first; both are the same in all of aiohttp 3.
        self._url = session._build_url(str_or_url)
        if params := kwargs.get("params"):
            self._url = self._url.update_query(params)
        self.method = method.upper()
        self.url = str(self._url.with_user(None)) if self._url.user else str(self._url)
        self.path: str = self._url.path

    def mocked(self) -> bool:
        """See ``LeafCall``: mocking libraries replace the leaf itself."""
        return False

    async def wire(self) -> Wire:
        """See ``LeafCall``."""
        content = await self._content()
        headers = self._headers()
        outgoing = Outgoing.of(self.method, self.url, headers, self._timeout())
        return Wire(self.method, self.url, self.path, headers, content, self.way, outgoing)

    def _timeout(self) -> dict[str, float | None]:
        given = self._kwargs.get("timeout")
        limits: Any = given if hasattr(given, "sock_read") else self._session.timeout
        whole = getattr(limits, "total", None)
        return {
            "connect": limits.sock_connect or limits.connect or whole,
            "read": limits.sock_read or whole,
            "write": whole,
        }

    def failure(self, failed: Fail) -> Exception:
        """See ``LeafCall``."""
        late = failed.kind.endswith("Timeout")
        kind = self._library.ServerTimeoutError if late else self._library.ClientConnectionError
        error: Exception = kind(failed.message)
        return error

    def way(self) -> Way | None:
        """See ``LeafCall``; None where the environment's proxies count."""
        session = self._session
        proxy = self._kwargs.get("proxy") or getattr(session, "_default_proxy", None)
        if proxy is None and session.trust_env:
            return None
        given = self._kwargs.get("ssl")
        if given is None or given is True:
            given = getattr(session.connector, "_ssl", True)
        tls = given if isinstance(given, ssl.SSLContext) else None
        auth = self._kwargs.get("proxy_auth") or getattr(session, "_default_proxy_auth", None)
        headers = dict(self._kwargs.get("proxy_headers") or {})
        if auth is not None:
            headers["proxy-authorization"] = auth.encode()
        to = network(tls, proxy=str(proxy or ""), proxy_headers=tuple(sorted(headers.items())))
        return Way(replace(to, verify=False) if given is False else to, tls)

    async def pass_on(self) -> Any:
        """See ``LeafCall``."""
        return await self._original(self._session, self.method, self._given, **self._kwargs)

    async def send(self, decision: Send) -> Reply:
        """See ``LeafCall``."""
        # What came is recorded before anybody raises for its status.
        kwargs = {**self._kwargs, "raise_for_status": False}
        if "auto_decompress" in kwargs:  # httpx-aiohttp leaves that to httpx
            kwargs["auto_decompress"] = True
        if decision.content is not None or decision.url:
            content = await self._content() if decision.content is None else decision.content
            headers = {n: v for n, v in self._headers().items() if n not in LENGTHS}
            kwargs = {name: value for name, value in kwargs.items() if name not in ASKED}
            kwargs |= {"data": content or None, "headers": headers}
        if not decision.url:
            return await self._read(
                await self._original(self._session, self.method, self._given, **kwargs)
            )
        kwargs = {n: v for n, v in kwargs.items() if not n.startswith(WAY) and n != "params"}
        async with self._library.ClientSession() as direct:
            there = await self._original(direct, self.method, decision.url, **kwargs)
            return await self._read(there)

    async def respond(self, reply: Reply) -> Any:
        """See ``LeafCall``."""
        response = _response(self._library, self._session, self.method, self._url, reply)
        raises = self._kwargs.get("raise_for_status")
        if raises is None:
            raises = self._session._raise_for_status
        if callable(raises):
            await raises(response)
        elif raises:
            response.raise_for_status()
        return response

    async def _read(self, response: Any) -> Reply:
        async with response:
            return Reply.of(response.status, response.headers, await response.read())

    def _headers(self) -> dict[str, str]:
        found = self._session._prepare_headers(self._kwargs.get("headers"))
        headers = {name.lower(): value for name, value in found.items()}
        auth = self._kwargs.get("auth") or getattr(self._session, "_default_auth", None)
        if auth is None and self._url.user is not None:
            auth = self._library.BasicAuth(self._url.user, self._url.password or "")
        if auth is not None:
            headers.setdefault("authorization", auth.encode())
        return headers

    async def _content(self) -> bytes:
        """Return the body, which then is no stream and no form any more."""
        given = self._kwargs.get("data")
        if (value := self._kwargs.pop("json", None)) is not None:
            given, kind = self._session._json_serialize(value), "application/json"
        else:
            given, kind = await self._whole(given)
        content = given.encode() if isinstance(given, str) else bytes(given or b"")
        self._kwargs["data"] = content or None
        headers = self._session._prepare_headers(self._kwargs.get("headers"))
        if kind and "content-type" not in headers:
            self._kwargs["headers"] = {**(self._kwargs.get("headers") or {}), "content-type": kind}
        return content

    async def _whole(self, data: Any) -> tuple[Any, str]:
        """Return a body as text or bytes, and its content type where only the body has it."""
        if data is None or isinstance(data, str | bytes | bytearray | memoryview):
            return data, ""
        if hasattr(data, "read"):
            return data.read(), ""
        if hasattr(data, "__aiter__"):
            return b"".join([part async for part in data]), ""
        payload = data
        if not isinstance(data, self._library.Payload):
            form = data if isinstance(data, self._library.FormData) else None
            payload = (form or self._library.FormData(data))()
        writer = _Buffer()
        await payload.write(writer)
        return bytes(writer.content), str(payload.headers.get("content-type", ""))


class _Buffer:
    """Takes what a payload would write to a connection."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, chunk: Any) -> None:
        self.content += chunk


def _response(library: ModuleType, session: Any, method: str, url: Any, reply: Reply) -> Any:
    """Make a response that looks as if it had come over a connection which is closed by now.

    Relies on the attributes that ``ClientResponse.start`` sets; ``test_aiohttp`` would notice.
    """
    from multidict import CIMultiDict, CIMultiDictProxy

    loop = asyncio.get_running_loop()
    url = url.with_user(None) if url.user else url
    headers = CIMultiDictProxy(CIMultiDict(reply.headers))
    given: dict[str, Any] = {
        "writer": None,
        "continue100": None,
        "timer": None,
        "request_info": library.RequestInfo(url, method, CIMultiDictProxy(CIMultiDict()), url),
        "traces": [],
        "loop": loop,
        "session": session,
        "stream_writer": SimpleNamespace(output_size=0),  # asked for since aiohttp 3.14
    }
    kind = session._response_class
    known = inspect.signature(kind.__init__).parameters
    response = kind(method, url, **{n: v for n, v in given.items() if n in known})
    response.version = library.HttpVersion11
    response.status = reply.status
    response.reason = _reason(reply.status)
    response._headers = headers
    response._raw_headers = tuple((n.encode(), v.encode()) for n, v in headers.items())
    protocol = SimpleNamespace(
        _reading_paused=False,
        connected=False,
        pause_reading=lambda: None,
        resume_reading=lambda *_, **__: None,
    )
    response.content = library.StreamReader(protocol, max(len(reply.content), 2**16), loop=loop)
    response.content.feed_data(reply.content)
    response.content.feed_eof()
    return response


def _reason(status: int) -> str:
    from http import HTTPStatus

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

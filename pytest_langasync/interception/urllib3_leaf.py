"""The leaf of urllib3: ``urlopen`` of its connection pools, below ``requests`` and ``botocore``.

What ``responses``, ``requests-mock``, botocore's ``Stubber`` and moto answer does not reach it.
"""

from __future__ import annotations

import inspect
import io
import ssl
from dataclasses import replace
from http import HTTPStatus
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.interception.senders import network
from pytest_langasync.interception.wire import MOCKING, Fail, Reply, Send, Way, Wire

__all__ = ["Urllib3Call"]

LENGTHS = ("content-length", "transfer-encoding", "host")


class Urllib3Call:
    """``LeafCall`` of ``HTTPConnectionPool.urlopen``."""

    def __init__(
        self,
        library: ModuleType,
        original: Any,
        pool: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        **kwargs: Any,
    ) -> None:
        self._library = library
        self._original = original
        self._pool = pool
        self._given = url
        self._body = body
        self._sent_headers = headers
        self._kwargs = kwargs
        self.method = method.upper()
        self.url = url
        if url.startswith("/"):  # else it is whole, for a proxy
            host = f"[{pool.host}]" if ":" in pool.host else pool.host
            own = pool.port in (None, {"http": 80, "https": 443}.get(pool.scheme))
            self.url = f"{pool.scheme}://{host}{'' if own else f':{pool.port}'}{url}"
        self.path = urlsplit(self.url).path

    def mocked(self) -> bool:
        """See ``LeafCall``: VCR answers in the place of the connection, if its cassette can."""
        connection = self._pool.ConnectionCls
        if connection.__module__.partition(".")[0] not in MOCKING:
            return False
        cassette = getattr(connection, "cassette", None)
        if cassette is None:
            return True
        from vcr.request import Request  # type: ignore[import-untyped]

        request = Request(self.method, self.url, self._content(), self._headers())
        plays: bool = cassette.can_play_response_for(request)
        return plays or cassette.write_protected

    def wire(self) -> Wire:
        """See ``LeafCall``."""
        content = self._content()
        return Wire(self.method, self.url, self.path, self._headers(), content, self.way)

    def way(self) -> Way | None:
        """See ``LeafCall``."""
        pool = self._pool
        proxy = getattr(pool, "proxy", None)
        headers = dict(getattr(pool, "proxy_headers", None) or {})
        if pool.scheme == "http" and not self._given.startswith("/"):
            return None  # by way of a proxy that the pool does not know of
        tls = None
        if (authorities := getattr(pool, "ca_certs", None)) or getattr(pool, "cert_file", None):
            tls = ssl.create_default_context(cafile=authorities)
            if pool.cert_file:
                tls.load_cert_chain(pool.cert_file, pool.key_file)
        to = network(
            tls,
            proxy=str(proxy or ""),
            proxy_headers=tuple(sorted((_text(n).lower(), _text(v)) for n, v in headers.items())),
        )
        if getattr(pool, "cert_reqs", None) in ("CERT_NONE", ssl.CERT_NONE):
            return Way(replace(to, verify=False))
        return Way(to, tls)

    def pass_on(self) -> Any:
        """See ``LeafCall``."""
        return self._original(
            self._pool, self.method, self._given, self._body, self._sent_headers, **self._kwargs
        )

    def send(self, decision: Send) -> Reply:
        """See ``LeafCall``."""
        body = self._body if decision.content is None else decision.content
        headers = {n: v for n, v in self._headers().items() if n not in LENGTHS}
        if not decision.url:
            given = headers if decision.content is not None else self._sent_headers
            return self._read(
                self._original(self._pool, self.method, self._given, body, given, **self._unread())
            )
        with self._library.PoolManager() as direct:
            return self._read(
                direct.request(
                    self.method, decision.url, body=body, headers=headers, preload_content=False
                )
            )

    def failure(self, failed: Fail) -> Exception:
        """See ``LeafCall``."""
        error: Exception = self._library.exceptions.ProtocolError(failed.message)
        return error

    def respond(self, reply: Reply) -> Any:
        """See ``LeafCall``."""
        known = inspect.signature(self._library.HTTPResponse.__init__).parameters
        given = {
            "version": 11,
            "version_string": "HTTP/1.1",
            "reason": _reason(reply.status),
            "request_method": self.method,
            "request_url": self._given,
            "retries": self._kwargs.get("retries"),
            "preload_content": self._kwargs.get("preload_content", True),
            "decode_content": self._kwargs.get("decode_content", True),
        }
        return self._library.HTTPResponse(
            body=io.BytesIO(reply.content),
            headers=dict(reply.headers),
            status=reply.status,
            **{name: value for name, value in given.items() if name in known},
        )

    def _unread(self) -> dict[str, Any]:
        return {**self._kwargs, "preload_content": False}

    def _read(self, response: Any) -> Reply:
        content = response.read(decode_content=True)
        response.release_conn()
        return Reply.of(response.status, response.headers, content)

    def _headers(self) -> dict[str, str]:
        headers = self._pool.headers if self._sent_headers is None else self._sent_headers
        return {_text(name).lower(): _text(value) for name, value in (headers or {}).items()}

    def _content(self) -> bytes:
        """Return the body, which then is no stream any more."""
        body = self._body
        if isinstance(body, str):
            self._body = body.encode()
        elif hasattr(body, "read"):
            self._body = _bytes(body.read())
        elif not isinstance(body, bytes | bytearray | memoryview | None):
            self._body = b"".join(map(_bytes, body))
        return bytes(self._body or b"")


def _bytes(part: Any) -> bytes:
    return part.encode() if isinstance(part, str) else bytes(part)


def _text(value: Any) -> str:
    """botocore signs with bytes, requests may send them."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

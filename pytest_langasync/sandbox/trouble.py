"""The outermost layer of the server: it logs every exchange, and commits the faults."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_langasync.sandbox.errors import error_body, stamped
from pytest_langasync.sandbox.faults import HttpFault
from pytest_langasync.sandbox.state import State, dumps

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Troublemaker", "provider_of"]

_PIECE = 256


def provider_of(path: str) -> str:
    """Return whose protocol a path belongs to."""
    return "anthropic" if path.startswith("/v1/messages") else "openai"


class Troublemaker:
    """Wraps the app. The control paths below ``/_sandbox`` are neither logged nor spoiled."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["path"].startswith("/_sandbox"):
            await self._app(scope, receive, send)
            return
        self._state.log(scope["method"], scope["path"])
        fault = self._state.http_fault(f"{scope['method']} {scope['path']}")
        if fault is None:
            await self._app(scope, receive, send)
            return
        await asyncio.sleep(fault.delay)
        reply = _Reply()
        if fault.acts:
            await self._app(scope, receive, reply.take)
        else:
            await _drain(receive)
        if fault.reset:
            _reset(send)
            return
        if fault.status:
            reply = _error(fault, provider_of(scope["path"]))
        else:
            reply.spoil(fault)
        await reply.give(send, fault)


class _Reply:
    """A whole response, kept back."""

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers: dict[str, str] = dict(headers or {})
        self.body = b""

    async def take(self, message: Message) -> None:
        """Receive what the app sends."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            pairs = message.get("headers", ())
            self.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in pairs}
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    def spoil(self, fault: HttpFault) -> None:
        """Change the response as the fault says."""
        for pattern, replacement in fault.replace:
            self.body = re.sub(pattern.encode(), replacement.encode(), self.body)
        if fault.insert is not None:
            first, newline, rest = self.body.partition(b"\n")
            self.body = first + newline + fault.insert.encode() + b"\n" + rest
        self.headers |= {name.lower(): value for name, value in fault.headers.items()}

    async def give(self, send: Send, fault: HttpFault) -> None:
        """Send the response; a truncated one ends with its connection."""
        self.headers["content-length"] = str(len(self.body))
        pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": pairs})
        body = self.body if fault.truncate is None else self.body[: fault.truncate]
        step = _PIECE if fault.drip else max(len(body), 1)
        for start in range(0, len(body), step):
            part = {"body": body[start : start + step], "more_body": True}
            await send({"type": "http.response.body", **part})
            await asyncio.sleep(fault.drip)
        if fault.truncate is not None and len(body) < len(self.body):
            _transport(send).close()
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _error(fault: HttpFault, provider: str) -> _Reply:
    text = f"The sandbox was told to answer {fault.status}."
    stamp, body = stamped(provider, error_body(provider, fault.status, text))
    body = body if fault.body is None else fault.body
    html = isinstance(body, str)
    kind = "text/html" if html else "application/json"
    reply = _Reply(fault.status, {"content-type": kind, **stamp})
    reply.headers |= {name.lower(): value for name, value in fault.headers.items()}
    reply.body = body.encode() if html else dumps(body)
    return reply


async def _drain(receive: Receive) -> None:
    """Read the request, so that the client is not cut off while it still writes."""
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def _transport(send: Send) -> asyncio.Transport:
    """Return the connection: uvicorn's ``send`` is a method of the object that holds it."""
    transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]
    return transport


def _reset(send: Send) -> None:
    transport = _transport(send)
    connection = transport.get_extra_info("socket")
    # Lingering for zero seconds makes the close a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()

"""Call in, answer out: the HTTP clients' ``send``, patched while batch mode is on.

The only module that knows httpx and httpx2. It recognises a model call by its method and path,
hands it to the desk as a ``Wire``, and turns the desk's decision into a genuine response of the
same library, an exception that parks the caller, or the original ``send``.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import Any, Protocol

from pytest_langasync.strands import Strands

__all__ = ["Desk", "Interceptor", "Park", "RealTime", "Redirect", "Reply", "Wire"]

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("langasync_inside", default=False)

LIBRARIES = ("httpx", "httpx2")
IN_PROCESS = frozenset({"MockTransport", "ASGITransport", "WSGITransport"})
MOCKING = frozenset({"respx", "pytest_httpx", "vcr", "pook", "mocket", "unittest"})
"""Packages whose functions, found in a transport's place, answer calls themselves."""


@dataclass(frozen=True)
class Wire:
    """A model call as it was about to leave the process."""

    url: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """Decision: answer the call with this."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Park:
    """Decision: there is no answer yet."""

    message: str
    hold: bool = True
    """Whether siblings may be about to make calls that belong to the same wave."""


@dataclass(frozen=True)
class RealTime:
    """Decision: send it now with this body; ``record`` stores what came and returns the reply."""

    content: bytes = field(repr=False)
    record: Callable[[int, Mapping[str, str], bytes], Reply]
    url: str = ""
    """Where to send it instead, or an empty string."""


@dataclass(frozen=True)
class Redirect:
    """Decision: send it as it is, but to this URL."""

    url: str


Decision = Reply | Park | RealTime | Redirect | None


class Desk(Protocol):
    """Decides what becomes of a call."""

    def decide(self, wire: Wire) -> Decision:
        """Return the decision; None sends the call as if nobody had looked."""

    def unreached(self, wire: Wire, transport: str) -> None:
        """Learn of a call left alone because nobody knows where its transport leads."""


class Interceptor:
    """Patches ``Client.send`` and ``AsyncClient.send`` of httpx and httpx2."""

    def __init__(self, desk: Desk, strands: Strands, endpoints: tuple[str, ...]) -> None:
        self._desk = desk
        self._strands = strands
        self._endpoints = endpoints
        self._patched: list[tuple[type, Any, Any]] = []

    def install(self) -> None:
        """Patch each client class once; ``alias_httpx`` can make both libraries one module."""
        seen: set[type] = set()
        for name in LIBRARIES:
            try:
                library = importlib.import_module(name)
            except ImportError:
                continue
            for owner, wrap in ((library.Client, self._sync), (library.AsyncClient, self._async)):
                if owner in seen:
                    continue
                seen.add(owner)
                original = owner.send
                replacement = functools.wraps(original)(wrap(library, original))
                owner.send = replacement
                self._patched.append((owner, original, replacement))

    def uninstall(self) -> None:
        """Put back every ``send`` that is still ours."""
        for owner, original, replacement in reversed(self._patched):
            if vars(owner).get("send") is replacement:
                setattr(owner, "send", original)  # noqa: B010
        self._patched.clear()

    # ---- the two patched methods

    def _sync(self, library: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
        def send(client: Any, request: Any, **kwargs: Any) -> Any:
            wire = self._recognise(client, request)
            decision = self._desk.decide(wire) if wire is not None else None
            if decision is None:
                return original(client, request, **kwargs)
            if isinstance(decision, Park):
                raise self._strands.parked(decision.message)
            if isinstance(decision, Reply):
                for hook in client.event_hooks["request"]:
                    hook(request)
                response = respond(library, request, decision, kwargs.get("stream", False))
                for hook in client.event_hooks["response"]:
                    hook(response)
                return response
            token = _inside.set(True)
            try:
                if isinstance(decision, Redirect):
                    return original(client, readdress(library, request, decision.url), **kwargs)
                copy = readdress(library, request, decision.url, decision.content)
                real = original(client, copy, **(kwargs | {"stream": False}))
            finally:
                _inside.reset(token)
            reply = decision.record(real.status_code, real.headers, real.content)
            return respond(library, request, reply, kwargs.get("stream", False))

        return send

    def _async(self, library: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
        async def send(client: Any, request: Any, **kwargs: Any) -> Any:
            wire = self._recognise(client, request)
            decision = self._desk.decide(wire) if wire is not None else None
            if decision is None:
                return await original(client, request, **kwargs)
            if isinstance(decision, Park):
                if decision.hold:
                    await self._strands.hold()
                raise self._strands.parked(decision.message)
            if isinstance(decision, Reply):
                for hook in client.event_hooks["request"]:
                    await hook(request)
                response = respond(library, request, decision, kwargs.get("stream", False))
                for hook in client.event_hooks["response"]:
                    await hook(response)
                return response
            token = _inside.set(True)
            try:
                if isinstance(decision, Redirect):
                    redirected = readdress(library, request, decision.url)
                    return await original(client, redirected, **kwargs)
                copy = readdress(library, request, decision.url, decision.content)
                real = await original(client, copy, **(kwargs | {"stream": False}))
            finally:
                _inside.reset(token)
            reply = decision.record(real.status_code, real.headers, real.content)
            return respond(library, request, reply, kwargs.get("stream", False))

        return send

    def _recognise(self, client: Any, request: Any) -> Wire | None:
        """Return the call, or None for whatever is none of our business."""
        path = request.url.path
        if request.method != "POST" or not path.endswith(self._endpoints) or _inside.get():
            return None
        try:
            content = request.content
        except Exception:  # a body that is streamed cannot be one of the SDKs' JSON bodies
            return None
        wire = Wire(url=str(request.url), path=path, headers=dict(request.headers), content=content)
        transport = transport_of(client, request)
        if answers_itself(client, transport):
            return None
        if not reaches_network(transport):
            self._desk.unreached(wire, type(transport).__qualname__)
            return None
        return wire


# ---- transports


def transport_of(client: Any, request: Any) -> Any:
    """Return the transport that the client would use for this request."""
    choose = getattr(client, "_transport_for_url", None)
    return choose(request.url) if choose else getattr(client, "_transport", None)


def answers_itself(client: Any, transport: Any) -> bool:
    """Whether a mock, an in-process app or a mocking library would answer instead of a network."""
    if any(base.__name__ in IN_PROCESS for base in type(transport).__mro__):
        return True
    pool = getattr(transport, "_pool", None)
    functions = [
        getattr(owner, name, None)
        for owner in (transport, pool)
        for name in ("handle_request", "handle_async_request")
    ]
    functions += [getattr(client, "_send_single_request", None)]
    return any(is_foreign(function) for function in functions if function is not None)


def is_foreign(function: Any) -> bool:
    """Whether a mocking library put this function, or a wrapper around it, in its place."""
    while function is not None:
        function = getattr(function, "__func__", function)
        modules = {getattr(function, "__module__", None) or "", type(function).__module__}
        code = getattr(function, "__code__", None)
        if code is not None:
            # functools.wraps copies the name of the wrapped function's module, not its globals.
            modules.add(getattr(function, "__globals__", {}).get("__name__", ""))
        if any(module.partition(".")[0] in MOCKING for module in modules):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def reaches_network(transport: Any, depth: int = 3) -> bool:
    """Whether a transport is, or wraps, one of those that open connections."""
    for name in LIBRARIES:
        library = sys.modules.get(name)
        if library and isinstance(transport, (library.HTTPTransport, library.AsyncHTTPTransport)):
            return True
    if any("aiohttp" in base.__name__.lower() for base in type(transport).__mro__):
        return True
    if depth == 0:
        return False
    return any(
        reaches_network(inner, depth - 1)
        for inner in getattr(transport, "__dict__", {}).values()
        if hasattr(inner, "handle_request") or hasattr(inner, "handle_async_request")
    )


# ---- requests and responses


def readdress(library: ModuleType, request: Any, url: str, content: bytes | None = None) -> Any:
    """Copy a request with another URL and, where given, another body."""
    headers = {
        name: value
        for name, value in request.headers.items()
        if name not in ("host", "content-length", "transfer-encoding")
    }
    return library.Request(
        request.method,
        url or request.url,
        headers=headers,
        content=request.content if content is None else content,
        extensions=request.extensions,
    )


def respond(library: ModuleType, request: Any, reply: Reply, stream: bool) -> Any:
    """Return a genuine response of the library that made the request."""
    body: dict[str, Any] = {"content": reply.content}
    if stream:
        body = {"stream": _stream_type(library)(reply.content)}
    response = library.Response(
        reply.status,
        headers=dict(reply.headers),
        request=request,
        extensions={"http_version": b"HTTP/1.1"},
        **body,
    )
    response.elapsed = timedelta(0)
    return response


@functools.cache
def _stream_type(library: ModuleType) -> type:
    """A body that has not been read yet, for either kind of client."""

    class Stored(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, content: bytes) -> None:
            self._content = content

        def __iter__(self) -> Iterator[bytes]:
            yield self._content

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield self._content

    return Stored

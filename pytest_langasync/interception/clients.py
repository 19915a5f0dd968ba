"""Call in, answer out: the HTTP clients' ``send``, patched while batch mode is on.

The only module that knows httpx and httpx2. It hands what concerns the router to it as a ``Wire``,
and turns the router's decision into a genuine response of the same library, an exception that parks
the caller, or the original ``send``.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import Any, Protocol

from pytest_langasync.interception.concurrency import ConcurrencyTracker

__all__ = ["Interceptor", "Park", "RealTime", "Redirect", "Reply", "Router", "Wire", "untouched"]

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("langasync_inside", default=False)

LIBRARIES = ("httpx", "httpx2")
NETWORKING = frozenset({*LIBRARIES, "httpcore", "httpcore2"})
"""Packages whose own functions lead to the network."""
IN_PROCESS = frozenset({"MockTransport", "ASGITransport", "WSGITransport"})
MOCKING = frozenset({"respx", "pytest_httpx", "vcr", "pook", "mocket", "unittest"})
"""Packages whose functions, found in a transport's place, answer calls themselves."""
LENGTHS = ("content-length", "transfer-encoding")


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Let what is sent in this context, or in a copy of it, go out as it is."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


@dataclass(frozen=True)
class Wire:
    """A request as it was about to leave the process; ``content`` is empty where it is streamed."""

    method: str
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


class Router(Protocol):
    """Decides what becomes of a call."""

    def concerns(self, method: str, url: str, path: str) -> bool:
        """Return, fast, whether a request may need a decision: all others go out as they are."""

    def decide(self, wire: Wire) -> Decision:
        """Return the decision; None sends the request as if nobody had looked."""

    def unreached(self, wire: Wire, transport: str) -> Redirect | None:
        """Decide on a request of which nobody knows where its transport leads."""


class Interceptor:
    """Patches ``Client.send`` and ``AsyncClient.send`` of httpx and httpx2."""

    def __init__(self, router: Router, concurrency: ConcurrencyTracker) -> None:
        self._router = router
        self._concurrency = concurrency
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
            decision = self._decide(client, request)
            if decision is None:
                return original(client, request, **kwargs)
            if isinstance(decision, Park):
                raise self._concurrency.parked(decision.message)
            if isinstance(decision, Reply):
                for hook in client.event_hooks["request"]:
                    hook(request)
                response = respond(library, request, decision, kwargs.get("stream", False))
                for hook in client.event_hooks["response"]:
                    hook(response)
                return response
            with untouched():
                if isinstance(decision, Redirect):
                    return original(client, readdress(library, request, decision.url), **kwargs)
                copy = readdress(library, request, decision.url, decision.content)
                real = original(client, copy, **(kwargs | {"stream": False}))
            reply = decision.record(real.status_code, real.headers, real.content)
            return respond(library, request, reply, kwargs.get("stream", False))

        return send

    def _async(self, library: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
        async def send(client: Any, request: Any, **kwargs: Any) -> Any:
            decision = self._decide(client, request)
            if decision is None:
                return await original(client, request, **kwargs)
            if isinstance(decision, Park):
                if decision.hold:
                    await self._concurrency.hold()
                raise self._concurrency.parked(decision.message)
            if isinstance(decision, Reply):
                for hook in client.event_hooks["request"]:
                    await hook(request)
                response = respond(library, request, decision, kwargs.get("stream", False))
                for hook in client.event_hooks["response"]:
                    await hook(response)
                return response
            with untouched():
                if isinstance(decision, Redirect):
                    redirected = readdress(library, request, decision.url)
                    return await original(client, redirected, **kwargs)
                copy = readdress(library, request, decision.url, decision.content)
                real = await original(client, copy, **(kwargs | {"stream": False}))
            reply = decision.record(real.status_code, real.headers, real.content)
            return respond(library, request, reply, kwargs.get("stream", False))

        return send

    def _decide(self, client: Any, request: Any) -> Decision:
        """Return the router's decision, or None for whatever is none of our business."""
        url, path = str(request.url), request.url.path
        if _inside.get() or not self._router.concerns(request.method, url, path):
            return None
        transports = reachable(transport_of(client, request))
        genuine = [one for one in transports if not answers_itself(client, one)]
        if len(genuine) < len(transports) and not any(map(reaches_network, genuine)):
            return None
        headers = dict(request.headers)
        wire = Wire(request.method, url, path, headers, body_of(request) or b"")
        if not any(map(reaches_network, genuine)):
            return self._router.unreached(wire, type(transports[0]).__qualname__)
        return self._router.decide(wire)


# ---- transports


def transport_of(client: Any, request: Any) -> Any:
    """Return the transport that the client would use for this request."""
    choose = getattr(client, "_transport_for_url", None)
    return choose(request.url) if choose else getattr(client, "_transport", None)


def reachable(transport: Any, depth: int = 3) -> list[Any]:
    """Return a transport and those that it wraps."""
    leaf = not depth or reaches_network(transport)
    inner = () if leaf else getattr(transport, "__dict__", {}).values()
    wrapped = [
        one
        for one in inner
        if hasattr(one, "handle_request") or hasattr(one, "handle_async_request")
    ]
    return [transport, *(found for one in wrapped for found in reachable(one, depth - 1))]


def reaches_network(transport: Any) -> bool:
    """Whether a transport is one of those that open connections."""
    for name in LIBRARIES:
        library = sys.modules.get(name)
        if library and isinstance(transport, (library.HTTPTransport, library.AsyncHTTPTransport)):
            return True
    return any("aiohttp" in base.__name__.lower() for base in type(transport).__mro__)


def answers_itself(client: Any, transport: Any) -> bool:
    """Whether a mock, an in-process app or a test's function would answer, and no network."""
    if any(base.__name__ in IN_PROCESS for base in type(transport).__mro__):
        return True
    pool = getattr(transport, "_pool", None)
    return is_replaced(client, "_send_single_request") or any(
        is_replaced(owner, name)
        for owner in (transport, pool)
        for name in ("handle_request", "handle_async_request")
    )


def is_replaced(owner: Any, name: str) -> bool:
    """Whether a function that is not a library's own stands in the place of one that is."""
    for holder in (owner, *type(owner).__mro__):
        function = getattr(holder, "__dict__", {}).get(name)
        if function is None:
            continue
        own = package(holder.__module__) in NETWORKING
        if is_foreign(function) or (own and origin(function) not in NETWORKING):
            return True
    return False


def package(module: Any) -> str:
    """Return the first part of a module's name."""
    return str(module).partition(".")[0]


def origin(function: Any) -> str:
    """Return the package that wrote a function; one around it that names it counts as itself."""
    inner = inspect.unwrap(getattr(function, "__func__", function))
    module = getattr(inner, "__globals__", {}).get("__name__") or type(inner).__module__
    return package(module)


def is_foreign(function: Any) -> bool:
    """Whether a mocking library put this function, or a wrapper around it, in its place."""
    while function is not None:
        function = getattr(function, "__func__", function)
        modules = {getattr(function, "__module__", None) or "", type(function).__module__}
        code = getattr(function, "__code__", None)
        if code is not None:
            # functools.wraps copies the name of the wrapped function's module, not its globals.
            modules.add(getattr(function, "__globals__", {}).get("__name__", ""))
        if any(package(module) in MOCKING for module in modules):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


# ---- requests and responses


def readdress(library: ModuleType, request: Any, url: str, content: bytes | None = None) -> Any:
    """Copy a request with another URL and, where given, another body."""
    there = library.URL(url or request.url)
    headers = dict(request.headers) | {"host": there.netloc.decode("ascii")}
    if content is None:
        content = body_of(request)
    if content is None:
        body = {"stream": request.stream}
    else:
        body = {"content": content}
        headers = {n: v for n, v in headers.items() if n not in LENGTHS}
    return library.Request(
        request.method, there, headers=headers, extensions=request.extensions, **body
    )


def body_of(request: Any) -> bytes | None:
    """Return the body, or None where it is streamed: it cannot be one of the SDKs' JSON bodies."""
    try:
        content: bytes = request.content
    except Exception:
        return None
    return content


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

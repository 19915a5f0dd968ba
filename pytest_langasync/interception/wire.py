"""What passes between an HTTP library's leaf and whoever decides what becomes of a call."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pytest_langasync.models import Network, Outgoing

__all__ = [
    "AsyncLeafCall",
    "Decision",
    "Fail",
    "LeafCall",
    "Park",
    "Reply",
    "Router",
    "Send",
    "Way",
    "Wire",
    "answers_itself",
    "is_untouched",
    "untouched",
]

_untouched: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "langasync_untouched", default=False
)

MOCKING = frozenset({"respx", "vcr", "pook", "mocket", "unittest"})
"""Packages whose functions, found below a leaf, answer calls themselves."""
HOP = frozenset({"content-encoding", "content-length", "transfer-encoding", "connection"})
"""Headers of a reply that are about how it came, not about it."""


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Let what is sent in this context, or in a copy of it, go out as it is."""
    token = _untouched.set(True)
    try:
        yield
    finally:
        _untouched.reset(token)


def is_untouched() -> bool:
    """Return whether what is sent now goes out as it is."""
    return _untouched.get()


@dataclass(frozen=True)
class Way:
    """How a call reaches its host. ``tls`` is the client's ``SSLContext``, or None."""

    network: Network
    tls: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Wire:
    """A request as it was about to leave the process, with what auth flows and hooks added."""

    method: str
    url: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    way: Callable[[], Way | None] = field(default=lambda: None, repr=False)
    """Tells how it reaches its host, where that is known."""
    outgoing: Outgoing | None = field(default=None, repr=False)
    """What is needed to send it later, by its way; None: it can be sent at once only."""


@dataclass(frozen=True)
class Reply:
    """A status, headers and a body, decoded. As a decision: answer the call with it."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], content: bytes) -> Reply:
        """Make one of what came, without the headers that speak of its way here."""
        kept = {name.lower(): value for name, value in headers.items()}
        return cls(status, {n: v for n, v in kept.items() if n not in HOP}, content)


@dataclass(frozen=True)
class Park:
    """Decision: there is no answer yet."""

    message: str
    hold: bool = True
    """Whether siblings may be about to make calls that belong to the same wave."""


@dataclass(frozen=True)
class Send:
    """Decision: send it now; ``record`` takes what came and returns what the caller gets."""

    record: Callable[[Reply], Reply]
    content: bytes | None = field(default=None, repr=False)
    """The body to send instead, or None to send it as it is."""
    url: str = ""
    """Where to send it instead, without the caller's proxy, or an empty string."""


@dataclass(frozen=True)
class Fail:
    """Decision: it was sent already, and the network failed: the caller sees it fail so."""

    kind: str
    """The name of httpx's exception, such as ``ReadTimeout``."""
    message: str


Decision = Reply | Park | Send | Fail | None


class Router(Protocol):
    """Decides what becomes of a call."""

    def concerns(self, method: str, url: str, path: str) -> bool:
        """Return, fast, whether a request may need a decision: all others go out as they are."""

    def decide(self, wire: Wire) -> Decision:
        """Return the decision; None sends the request as if nobody had looked."""


class LeafCall(Protocol):
    """One call at the leaf of an HTTP library: the last function before its network code."""

    method: str
    url: str
    path: str

    def mocked(self) -> bool:
        """Return whether a mocking library that patches below the leaf would answer."""

    def wire(self) -> Wire:
        """Return the request whole; its body is read where it was a stream."""

    def way(self) -> Way | None:
        """Return how the call reaches its host, or None where that is not known."""

    def pass_on(self) -> Any:
        """Return what the library itself makes of the call."""

    def send(self, decision: Send) -> Reply:
        """Send it with the library's own network code, and read what comes."""

    def respond(self, reply: Reply) -> Any:
        """Return a genuine response of the library."""

    def failure(self, failed: Fail) -> Exception:
        """Return the library's own exception for what the network failed with."""


class AsyncLeafCall(Protocol):
    """The same for a library that does not block."""

    method: str
    url: str
    path: str

    def mocked(self) -> bool:
        """See ``LeafCall.mocked``."""

    async def wire(self) -> Wire:
        """See ``LeafCall.wire``."""

    def way(self) -> Way | None:
        """See ``LeafCall.way``."""

    async def pass_on(self) -> Any:
        """See ``LeafCall.pass_on``."""

    async def send(self, decision: Send) -> Reply:
        """See ``LeafCall.send``."""

    async def respond(self, reply: Reply) -> Any:
        """See ``LeafCall.respond``."""

    def failure(self, failed: Fail) -> Exception:
        """See ``LeafCall.failure``."""


def answers_itself(function: Any, own: frozenset[str]) -> bool:
    """Return whether a function below a leaf is a mock, and not one of the packages ``own``.

    Instrumentation (OpenTelemetry, Sentry) wraps such functions, too; what it wraps tells.
    """
    package = ""
    while function is not None:
        function = getattr(function, "__func__", function)
        package = getattr(function, "__globals__", {}).get("__name__", "").partition(".")[0]
        if package in MOCKING or type(function).__module__.partition(".")[0] in MOCKING:
            return True
        function = getattr(function, "__wrapped__", None)
    return package not in own

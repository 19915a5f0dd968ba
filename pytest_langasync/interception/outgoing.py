"""Requests that were about to leave, kept in memory to be sent later and from any thread.

What was recorded of a request (its target and its body) cannot rebuild it: query, proxy, TLS
settings and what auth flows added are missing. The caller's own transport is not used again: it
may be closed by then, or belong to an event loop that has ended. A pool of our own takes over what
the caller's pool was made of. Relies on the names under which httpcore's pools keep that;
``tests/interception/test_outgoing.py`` would notice.
"""

from __future__ import annotations

import hashlib
import inspect
import ssl
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pytest_langasync.interception.wire import Reply, untouched

__all__ = ["Outgoing", "Transports", "outgoing"]

POOLS = frozenset({"ConnectionPool", "HTTPProxy", "SOCKSProxy"})
BACKENDS = frozenset({"AnyIOBackend", "AutoBackend", "SyncBackend", "TrioBackend"})
"""httpcore's own ways to open a connection; any other one is somebody's own transport."""
LENGTHS = frozenset({b"content-length", b"transfer-encoding"})
OURS = frozenset({"max_connections", "max_keepalive_connections", "network_backend", "self"})
"""What a pool is made of that ours does not take over: how many connections it may open."""


@dataclass(frozen=True)
class Outgoing:
    """A finished request, and the way that it was to take. Its body is not in it."""

    method: str
    url: str
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    timeout: Mapping[str, float | None]
    """Seconds, by what httpx calls them: ``connect``, ``read``, ``write``, ``pool``."""
    library: ModuleType = field(repr=False)
    pool: type = field(repr=False)
    made_of: Mapping[str, Any] = field(repr=False)
    """The arguments of ``pool``."""
    way: tuple[Any, ...] = field(default=(), repr=False)
    """Equal for requests that may share a pool; ``Transports.keep`` fills it in."""


def outgoing(library: ModuleType, transport: Any, request: Any) -> Outgoing | None:
    """Return what is to be kept of a request of httpx or httpx2, at its leaf.

    None where the transport opens its connections in a way of its own: such a request can only be
    sent at once.
    """
    theirs = getattr(transport, "_pool", None)
    core = sys.modules.get(type(theirs).__module__.partition(".")[0])
    name = type(theirs).__name__.removeprefix("Async")
    pool = getattr(core, name, None) if name in POOLS else None
    if pool is None or type(getattr(theirs, "_network_backend", None)).__name__ not in BACKENDS:
        return None
    names = inspect.signature(pool.__init__).parameters.keys() - OURS
    made_of = {name: vars(theirs)[f"_{name}"] for name in names if f"_{name}" in vars(theirs)}
    return Outgoing(
        method=request.method,
        url=str(request.url),
        headers=tuple((n, v) for n, v in request.headers.raw if n.lower() not in LENGTHS),
        timeout=dict(request.extensions.get("timeout", {})),
        library=library,
        pool=pool,
        made_of=made_of,
    )


class Transports:
    """The pools over which kept requests are sent; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[Any, ...], Any] = {}
        self._ways: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self._contexts: WeakKeyDictionary[ssl.SSLContext, tuple[Any, ...]] = WeakKeyDictionary()

    def keep(self, kept: Outgoing) -> Outgoing:
        """Return a request in the form in which it may be kept for long.

        Each client makes a TLS context of its own, of half a megabyte. Of those that are alike only
        the first is kept. A client's certificate cannot be seen in them; so hosts are kept apart.
        """
        host = kept.library.URL(kept.url).netloc
        facts = sorted((name, self._facts(value)) for name, value in kept.made_of.items())
        way = (kept.library.__name__, kept.pool.__name__, host, *facts)
        with self._lock:
            return replace(kept, way=way, made_of=self._ways.setdefault(way, kept.made_of))

    def _facts(self, value: Any) -> Any:
        """Return what is equal for values that make equal pools."""
        if isinstance(value, ssl.SSLContext):
            if value not in self._contexts:
                self._contexts[value] = _fingerprint(value)
            return self._contexts[value]
        plain = isinstance(value, str | bytes | bool | int | float | None | list | tuple)
        return repr(value) if plain or type(value).__name__ == "URL" else id(value)

    def send(
        self, kept: Outgoing, content: bytes, *, patience: float | None = None, url: str = ""
    ) -> Reply:
        """Send a request with this body and return what comes, read whole.

        Args:
            kept: the request.
            content: its body.
            patience: the least number of seconds to wait for an answer, where the client's own
                time-out is shorter.
            url: where to send it instead, past the client's proxy.

        Raises:
            Exception: what the library raises when the network fails, of its own class.
        """
        library = kept.library
        # Our pools have as many connections as there are calls: none waits for one.
        timeout = {**kept.timeout, "pool": None}
        read = timeout.get("read")
        if patience is not None and read is not None:
            timeout["read"] = max(read, patience)
        there = library.URL(url or kept.url)
        headers = [(name, value) for name, value in kept.headers if name.lower() != b"host"]
        request = library.Request(
            kept.method,
            there,
            headers=[(b"host", there.netloc), *headers],
            content=content,
            extensions={"timeout": timeout},
        )
        with untouched():
            response = self._transport(kept, direct=bool(url)).handle_request(request)
            response.request = request
            try:
                return Reply.of(response.status_code, response.headers, response.read())
            finally:
                response.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for transport in self._open.values():
                transport.close()
            self._open.clear()

    def _transport(self, kept: Outgoing, *, direct: bool) -> Any:
        way = (kept.library.__name__, "direct") if direct else kept.way
        with self._lock:
            if way not in self._open:
                if direct:
                    limits = kept.library.Limits(max_connections=None)
                    transport = kept.library.HTTPTransport(
                        verify=False, trust_env=False, limits=limits
                    )
                else:
                    # ``__init__`` would load the certificates once more, which takes 10 ms.
                    transport = object.__new__(kept.library.HTTPTransport)
                    transport._pool = kept.pool(
                        **kept.made_of, max_connections=None, max_keepalive_connections=None
                    )
                self._open[way] = transport
            return self._open[way]


def _fingerprint(context: ssl.SSLContext) -> tuple[Any, ...]:
    """Return what tells TLS contexts apart, as far as it can be seen."""
    try:
        certificates = context.get_ca_certs(binary_form=True)
    except NotImplementedError:
        return (id(context),)
    trusted = hashlib.sha256(b"".join(sorted(certificates))).hexdigest()
    facts = (context.verify_mode, context.check_hostname, context.minimum_version, context.options)
    return (type(context).__name__, trusted, *map(int, facts))

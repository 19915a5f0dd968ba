"""Sending requests that were kept at their leaf: later, from any thread, by the same way.

The caller's own transport is not used again: it may be closed by then, or belong to an event loop
that has ended. One of ours takes the same way (proxy, TLS, socket), as batches do.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pytest_langasync.interception.senders import transport_options
from pytest_langasync.interception.wire import Reply, untouched

if TYPE_CHECKING:
    import httpx

    from pytest_langasync.models import Credentials, Outgoing

__all__ = ["Transports"]

KEPT_ALIVE = 100
"""Connections to a host that are kept for the next call, of any number that is open."""


class Transports:
    """The connections over which kept requests are sent; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Any, httpx.HTTPTransport] = {}

    def send(
        self,
        outgoing: Outgoing,
        content: bytes,
        way: Credentials | None,
        *,
        patience: float | None = None,
        url: str = "",
    ) -> Reply:
        """Send a request with this body and return what comes, read whole.

        Args:
            outgoing: the request.
            content: its body.
            way: tells the way of its client; None: straight to ``url``.
            patience: the least number of seconds to wait for an answer, where the client's own
                time-out is shorter.
            url: where to send it instead.

        Raises:
            httpx.TransportError: the network failed.
        """
        import httpx

        # Our connections are as many as there are calls: none waits for one.
        timeout = {**outgoing.timeout, "pool": None}
        read = timeout.get("read")
        if patience is not None and read is not None:
            timeout["read"] = max(read, patience)
        there = httpx.URL(url or outgoing.url)
        request = httpx.Request(
            outgoing.method,
            there,
            headers=[("host", there.netloc.decode("ascii")), *outgoing.headers],
            content=content,
            extensions={"timeout": timeout},
        )
        with untouched():
            response = self._transport(way).handle_request(request)
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

    def _transport(self, way: Credentials | None) -> httpx.HTTPTransport:
        import httpx

        network, tls = (way.network, getattr(way, "tls", None)) if way else (None, None)
        with self._lock:
            found = self._open.get((network, id(tls)))
            if found is None:
                options: dict[str, Any] = {"verify": False, "trust_env": False}
                if network is not None:
                    options = transport_options(httpx, network, tls)
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_ALIVE)
                found = httpx.HTTPTransport(limits=limits, **options)
                self._open[network, id(tls)] = found
            return found

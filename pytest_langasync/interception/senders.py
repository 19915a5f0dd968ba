"""Who sends a call, and by which way: what a batch needs to go there again, hours later.

A batch goes where the call would have gone: through the client's proxy, with its certificates, and
let in by what its auth flow says at that time. Nothing of this is found by asking the call itself:
the way is in the transport, the client and the SDK are up the stack.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pytest_langasync.interception.wire import untouched
from pytest_langasync.models import Network

__all__ = ["Sender", "network", "sender_here", "transport_options"]

HOP = ("content-encoding", "content-length", "transfer-encoding")


def network(tls: ssl.SSLContext | None, **facts: Any) -> Network:
    """Return the way of a client with this context as data that another process can use.

    A client's own certificate cannot be told from its context.
    """
    verify = tls is None or tls.verify_mode is not ssl.CERT_NONE
    authorities = ""
    if tls is not None and verify and tls.cert_store_stats() != _usual():
        certificates = sorted(tls.get_ca_certs(binary_form=True))
        authorities = "".join(map(ssl.DER_cert_to_PEM_cert, certificates))
    return Network(verify=verify, authorities=authorities, **facts)


@functools.cache
def _usual() -> dict[str, int]:
    """Return how many certificates a client's context has by default."""
    library = sys.modules.get("httpx2") or sys.modules.get("httpx")
    context: ssl.SSLContext = (
        library.create_ssl_context() if library else ssl.create_default_context()
    )
    return context.cert_store_stats()


@dataclass(frozen=True)
class Sender:
    """A client in the middle of a call: its auth flow and hooks, and the SDK around it.

    ``library`` is httpx or httpx2, ``auth`` its ``Auth``, ``sdk`` an SDK's client, or None.
    """

    library: ModuleType
    auth: Any = field(repr=False)
    hooks: tuple[Callable[..., Any], ...] = field(repr=False)
    asynchronous: bool
    sdk: Any = field(default=None, repr=False)
    network: Network | None = field(default=None, repr=False)
    tls: Any = field(default=None, repr=False)

    def headers(self, url: str) -> Mapping[str, str]:
        """Return what a request to ``url`` would carry now, with names in lower case.

        The request itself is not sent; those by which an auth flow gets a token are. The client is
        told once that what it carries was refused: tokens are kept until then. Raises what the
        client does where it gets no further than that.
        """
        caught: dict[str, str] = {}
        try:
            with untouched():
                if self.asynchronous:
                    _run(lambda: self._ask_async(url, caught))
                else:
                    self._ask(url, caught)
        except Exception:
            if not caught:
                raise
        return caught

    def _ask(self, url: str, caught: dict[str, str]) -> None:
        def answer(request: Any) -> Any:
            if status := self._catches(request, url, caught):
                return self.library.Response(status, json={})
            with self.library.HTTPTransport(**self._way()) as transport:
                response = transport.handle_request(request)
                return self._whole(response, response.read())

        with self.library.Client(**self._client(answer)) as client:
            if self.sdk is None:
                client.get(url)
            else:
                self.sdk.copy(http_client=client, max_retries=1).get(url, cast_to=object)

    async def _ask_async(self, url: str, caught: dict[str, str]) -> None:
        async def answer(request: Any) -> Any:
            if status := self._catches(request, url, caught):
                return self.library.Response(status, json={})
            async with self.library.AsyncHTTPTransport(**self._way()) as transport:
                response = await transport.handle_async_request(request)
                return self._whole(response, await response.aread())

        async with self.library.AsyncClient(**self._client(answer)) as client:
            if self.sdk is None:
                await client.get(url)
            else:
                sdk = self.sdk.copy(http_client=client, max_retries=1)
                await sdk.get(url, cast_to=object)

    def _catches(self, request: Any, url: str, caught: dict[str, str]) -> int:
        """Keep the headers of what goes to ``url``; return the status to answer, 0 for others."""
        if request.url != self.library.URL(url):
            return 0
        status = 200 if caught else 401
        caught.clear()
        caught.update(request.headers)
        return status

    def _whole(self, response: Any, content: bytes) -> Any:
        headers = {name: value for name, value in response.headers.items() if name not in HOP}
        return self.library.Response(response.status_code, headers=headers, content=content)

    def _client(self, answer: Callable[..., Any]) -> dict[str, Any]:
        hooks = {"request": list(self.hooks)}
        transport = self.library.MockTransport(answer)
        return {"auth": self.auth, "event_hooks": hooks, "transport": transport}

    def _way(self) -> dict[str, Any]:
        if self.network is None:
            return {}
        return transport_options(self.library, self.network, self.tls)


def transport_options(library: ModuleType, to: Network, tls: Any = None) -> dict[str, Any]:
    """Return the arguments of a transport of httpx's or httpx2's that goes this way.

    ``tls`` is the ``SSLContext`` of the client that went it, or None.
    """
    if tls is None and to.authorities:
        tls = ssl.create_default_context(cadata=to.authorities)
    elif tls is None and to.verify:  # those that the environment names count, its proxies do not
        tls = library.create_ssl_context()
    made: dict[str, Any] = {"verify": to.verify if tls is None else tls, "trust_env": False}
    if to.proxy:
        made["proxy"] = library.Proxy(to.proxy, headers=list(to.proxy_headers))
    ends = {"uds": to.uds, "local_address": to.local_address}
    return made | {name: value for name, value in ends.items() if value}


def sender_here(network: Network | None, tls: Any) -> Sender | None:
    """Return who sends the call that is on the stack, or None where no client of httpx's does.

    Relies on ``_send_handling_auth`` of httpx's clients, whose ``auth`` is the one of this call,
    and on ``_prepare_options``, ``copy`` and ``get`` of the SDKs that Stainless makes;
    ``test_short_lived_tokens`` would notice a change.
    """
    client = auth = sdk = None
    frame = sys._getframe(1) if hasattr(sys, "_getframe") else None
    while frame is not None:
        if client is None and frame.f_code.co_name == "_send_handling_auth":
            client, auth = frame.f_locals.get("self"), frame.f_locals.get("auth")
        elif client is not None and sdk is None and frame.f_code.co_name == "request":
            caller = frame.f_locals.get("self")
            stainless = all(hasattr(caller, n) for n in ("_prepare_options", "copy", "get"))
            sdk = caller if stainless else None
        frame = frame.f_back
    kinds = [one for one in type(client).__mro__ if one.__name__ in ("Client", "AsyncClient")]
    if client is None or not kinds:
        return None
    library = sys.modules[kinds[-1].__module__.partition(".")[0]]
    hooks = tuple(client.event_hooks["request"])
    asynchronous = kinds[-1].__name__ == "AsyncClient"
    return Sender(library, auth, hooks, asynchronous, sdk, network, tls)


def _run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run in a thread and a loop of its own: the caller's may be the one that is asked for."""
    failed: list[BaseException] = []

    async def main() -> None:
        with untouched():
            await act()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]

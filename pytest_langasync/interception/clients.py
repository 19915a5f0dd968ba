"""Call in, answer out: the leaves of HTTP libraries, patched while batch mode is on.

A leaf is the last function of a library before its network code. What was added to a request on
the way (credentials, headers) is in it by then, and whatever answers without a network has done so.
The router decides what becomes of a call; what comes back is a genuine response of the same
library, or the exception that parks the caller.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.interception import sockets
from pytest_langasync.interception.aiohttp_leaf import AiohttpCall
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.interception.httpx_leaf import AsyncHttpxCall, HttpxCall
from pytest_langasync.interception.patches import ImportWatcher
from pytest_langasync.interception.urllib3_leaf import Urllib3Call
from pytest_langasync.interception.wire import (
    AsyncLeafCall,
    Fail,
    LeafCall,
    Park,
    Router,
    Send,
    is_untouched,
    untouched,
)

__all__ = ["Interceptor"]

LIBRARIES = ("httpx", "httpx2", "aiohttp", "urllib3")


class Interceptor:
    """Patches each leaf once, as soon as its library is imported: nothing is imported for it.

    ``guards`` says whether a call fails where sockets are taken away from it, as in real time.
    Where nothing is ever sent, a guard only proves that.
    """

    def __init__(
        self, router: Router, concurrency: ConcurrencyTracker, *, guards: bool = True
    ) -> None:
        self._router = router
        self._guards = guards
        self._concurrency = concurrency
        self._installed = False
        self._patched: list[tuple[type, str, Any, Any]] = []
        self._watcher = ImportWatcher(LIBRARIES, self._patch)

    def install(self) -> None:
        """Patch what is imported, and what will be."""
        self._installed = True
        for name in LIBRARIES:
            if name in sys.modules:
                self._patch(sys.modules[name])
        sys.meta_path.insert(0, self._watcher)

    def uninstall(self) -> None:
        """Put back every leaf that is still ours; one that somebody wrapped does nothing."""
        self._installed = False
        if self._watcher in sys.meta_path:
            sys.meta_path.remove(self._watcher)
        for owner, name, original, replacement in reversed(self._patched):
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)
            _replace_saved(replacement, original)
        self._patched.clear()

    def _patch(self, library: ModuleType) -> None:
        patched = {(owner, name) for owner, name, _, _ in self._patched}
        for owner, name, make in _leaves(library):
            # ``httpx2.alias_httpx`` makes two names one library.
            if (owner, name) in patched:
                continue
            original = vars(owner)[name]
            call: Any = functools.partial(make, library, original)
            wrap = self._async if asyncio.iscoroutinefunction(original) else self._sync
            replacement = functools.wraps(original)(wrap(call))
            setattr(owner, name, replacement)
            self._patched.append((owner, name, original, replacement))
            _replace_saved(original, replacement)

    def _sync(self, make: Callable[..., LeafCall]) -> Callable[..., Any]:
        def leaf(*args: Any, **kwargs: Any) -> Any:
            call = make(*args, **kwargs)
            decision = self._router.decide(call.wire()) if self._concerns(call) else None
            if decision is None:
                return call.pass_on()
            if isinstance(decision, Park):
                raise self._concurrency.parked(decision.message)
            if isinstance(decision, Fail):
                raise call.failure(decision)
            if isinstance(decision, Send):
                with untouched():
                    came = call.send(decision)
                return call.respond(decision.record(came))
            return call.respond(decision)

        return leaf

    def _async(self, make: Callable[..., AsyncLeafCall]) -> Callable[..., Any]:
        async def leaf(*args: Any, **kwargs: Any) -> Any:
            call = make(*args, **kwargs)
            decision = self._router.decide(await call.wire()) if self._concerns(call) else None
            if decision is None:
                return await call.pass_on()
            if isinstance(decision, Park):
                if decision.hold:
                    await self._concurrency.hold()
                raise self._concurrency.parked(decision.message)
            if isinstance(decision, Fail):
                raise call.failure(decision)
            if isinstance(decision, Send):
                with untouched():
                    came = await call.send(decision)
                return await call.respond(decision.record(came))
            return await call.respond(decision)

        return leaf

    def _concerns(self, call: LeafCall | AsyncLeafCall) -> bool:
        if not self._installed or is_untouched():
            return False
        if not self._router.concerns(call.method, call.url, call.path) or call.mocked():
            return False
        if not self._guards:
            return True
        parts = urlsplit(call.url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        return not sockets.are_closed_to(parts.hostname or "", port)


def _replace_saved(old: Any, new: Any) -> None:
    """Replace a leaf where VCR keeps it to record with: else it records past everything.

    Relies on ``vcr.patch`` keeping what it found when it was imported;
    ``test_a_cassette_that_records`` would notice a change.
    """
    keeper = sys.modules.get("vcr.patch")
    for name, value in list(vars(keeper).items()) if keeper is not None else ():
        if value is old:
            setattr(keeper, name, new)


def _leaves(library: ModuleType) -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """Yield the classes and methods that are a library's leaves, and what a call of each is."""
    if library.__name__ == "urllib3":
        yield library.HTTPConnectionPool, "urlopen", Urllib3Call
    elif library.__name__ == "aiohttp":
        yield library.ClientSession, "_request", AiohttpCall
    else:
        yield library.HTTPTransport, "handle_request", HttpxCall
        yield library.AsyncHTTPTransport, "handle_async_request", AsyncHttpxCall

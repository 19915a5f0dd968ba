"""How a batch gets in where its calls got in: the way of their client, and its tokens, hours later.

In memory only. For each account the client of the first call is kept, none of the others: each may
hold the certificates of all authorities.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

from pytest_langasync.interception.senders import Sender, sender_here
from pytest_langasync.interception.wire import Way, Wire
from pytest_langasync.models import Credentials, LiveCredentials
from pytest_langasync.providers import Called

__all__ = ["Access"]


class Access:
    """Remembers who made the calls of each account."""

    def __init__(self) -> None:
        self._ways: dict[str, Way | None] = {}
        self._live: dict[str, LiveCredentials] = {}
        self._lock = threading.Lock()

    def remember(self, wire: Wire, called: Called) -> Credentials:
        """Return the credentials of a call that is on the stack, and keep who makes it in mind."""
        sent = {name.lower(): value for name, value in wire.headers.items()}
        headers = {**sent, **called.headers}
        found = called.provider.credentials(headers, called.base_url)
        account = found.account
        if account not in self._ways:
            with self._lock:
                self._ways[account] = way = wire.way()
                network, tls = (way.network, way.tls) if way else (None, None)
                sender = sender_here(network, tls)
                self._live[account] = LiveCredentials(
                    found.headers, found.others, network, _renewal(sender, called), tls
                )
        way = self._ways[account]
        return dataclasses.replace(found, network=way.network if way else None)

    def live(self, credentials: Credentials) -> Credentials:
        """Return credentials that can be renewed, where their client was seen in this process."""
        return self._live.get(credentials.account, credentials)


def _renewal(sender: Sender | None, called: Called) -> Callable[[], Credentials | None]:
    def renew() -> Credentials | None:
        if sender is None:
            return None
        headers = sender.headers(f"{called.base_url}/models")
        return called.provider.credentials(headers, called.base_url) if headers else None

    return renew

"""Whether a connection would be opened at all: guards and mocks that take sockets away.

Where pytest-socket, pytest-recording's ``block_network`` or a conftest's own guard would make a
call fail in real time, it fails in batch mode, too: it is left to fail by itself.
"""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace
from typing import Any

__all__ = ["are_closed_to"]

GENUINE: Any = socket.socket
CONNECT: Any = socket.socket.connect
MOCKS = frozenset({"httpretty", "mocket"})
"""Packages whose sockets answer themselves."""


def are_closed_to(host: str, port: int) -> bool:
    """Return whether a connection to ``host`` would be refused by a guard, or answered by a mock.

    Nothing is sent, and without a guard nothing is even looked up.
    """
    if socket.socket is not GENUINE:
        if socket.socket.__module__.partition(".")[0] in MOCKS:
            return True
        if not _goes(lambda: socket.socket().close()):
            return True
    connect: Any = socket.socket.connect
    if connect is CONNECT:
        return False
    places = [(host, port)]
    with contextlib.suppress(OSError):
        # A guard sees addresses in place of names.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        places += [(str(address[0]), port) for *_, address in found]
    return not any(_goes(lambda place=place: connect(_PRETENDED, place)) for place in places)


_PRETENDED = SimpleNamespace(family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0)
"""No socket: what a guard lets through fails at the genuine ``connect``, before the network."""


def _goes(act: Any) -> bool:
    """Return whether a guard lets something happen: a genuine function takes no pretended socket.

    Guards also raise what is no ``Exception``: pytest's own failures are not.
    """
    try:
        act()
    except (KeyboardInterrupt, SystemExit):
        raise
    except TypeError:
        return True
    except BaseException:
        return False
    return True

"""The sandbox itself: the application on a loopback port, in a thread of this process."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pytest_langasync.sandbox.app import build_app
from pytest_langasync.sandbox.batches import Batches
from pytest_langasync.sandbox.model import Hook, Model
from pytest_langasync.sandbox.state import State

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Sandbox"]

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class Sandbox:
    """A local provider that speaks OpenAI's and Anthropic's protocols, without key or cost.

    OpenAI's base URL is ``sandbox.url + "/v1"``, Anthropic's is ``sandbox.url``. What it knows
    lies in ``directory``: another sandbox there, now or later, goes on with it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        latency: float = 0.0,
        reply: Hook | None = None,
        faults: Mapping[str, Any] | None = None,
        forward_url: str | None = None,
        port: int = 0,
    ) -> None:
        """Prepare it; ``start()`` opens the port.

        Args:
            directory: where its state lies; made when missing.
            latency: seconds from a batch's creation to its end.
            reply: answers a request, or returns None for the default reply.
            faults: ``{"http": [...], "batch": [...], "limits": {...}}``, see ``HttpFault`` and
                ``BatchFault``; None keeps those that are set.
            forward_url: base URL (with ``/v1``) of an OpenAI-compatible server that replies.
            port: the loopback port; 0 takes a free one.

        Raises:
            ValueError: an unknown kind or field of a fault.
        """
        self._port = port
        self._state = State(Path(directory))
        if faults is not None:
            self._state.set_faults(faults)
        self._model = Model(reply, forward_url)
        self._batches = Batches(self._state, self._model, latency)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The URL without a path, such as ``http://127.0.0.1:4321``."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Open the port and serve from a daemon thread.

        Raises:
            OSError: the port is taken.
            RuntimeError: the server did not come up.
        """
        import uvicorn

        listener = _listen(self._port)
        self._port = listener.getsockname()[1]
        ready = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready.set()

        app = build_app(self._state, self._model, self._batches)
        config = uvicorn.Config(
            app, log_config=None, log_level="critical", access_log=False, lifespan="off",
            proxy_headers=False, loop="asyncio", timeout_graceful_shutdown=1,
            timeout_keep_alive=60,
        )  # fmt: skip
        self._server = Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="langasync-sandbox", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS):
            raise RuntimeError("the sandbox did not start")
        return self

    def stop(self) -> None:
        """Close the port. The state stays on disk."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_STOP_SECONDS)
            self._server = self._thread = None
        self._batches.close()
        self._state.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def ledger(self) -> list[dict[str, Any]]:
        """Return every request that was executed, in batches and in real time, oldest first.

        Each has ``seq, at, provider, endpoint, job_id, custom_id, attempt, status, body, headers``;
        ``job_id`` is empty in real time. Rows that expired or were cancelled are not in it.
        """
        return self._state.ledger()

    def requests(self) -> Counter[str]:
        """Return the HTTP exchanges so far, counted by method and path."""
        return Counter(f"{e['method']} {e['path']}" for e in self._state.exchanges())

    def set_faults(self, faults: Mapping[str, Any]) -> None:
        """Replace all faults, and start to count anew. Raises ``ValueError`` for unknown ones."""
        self._state.set_faults(faults)

    def reset(self) -> None:
        """Forget everything, on disk too."""
        self._state.reset()


def _listen(port: int) -> socket.socket:
    # asyncio turns Nagle's delay (40 ms an answer) off only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener

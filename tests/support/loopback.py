"""A scripted HTTP server on loopback, for tests of what happens on the wire."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal


@dataclass(frozen=True)
class Say:
    """One scripted response. ``fault`` spoils it on the way."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Literal["", "reset", "cut", "close", "hang"] = ""
    """Reset instead of answering; promise 100 bytes more than come; end without a length;
    answer only once the server is told to stop."""

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Seen:
    """One request as it arrived, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def parts(self) -> dict[str, Any]:
        """The parts of a multipart form by name."""
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + self.data)
        parts = message.iter_parts()
        return {str(p.get_param("name", header="content-disposition")): p for p in parts}


class Loopback:
    """Answers each route from its script; the last line of a script is said again and again."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Say]] = defaultdict(list)
        self.seen: list[Seen] = []
        self.other: Callable[[Seen], Say] | None = None
        """Answers what no script has."""
        self.stop = threading.Event()
        self.url = ""

    def on(self, route: str, *says: Say) -> None:
        """Script ``route`` (``"GET /v1/batches"``)."""
        self.scripts[route] = list(says)

    def count(self, route: str) -> int:
        return len(self.at(route))

    def at(self, route: str) -> list[Seen]:
        return [seen for seen in self.seen if f"{seen.method} {seen.path}" == route]

    def next(self, seen: Seen) -> Say:
        self.seen.append(seen)
        script = self.scripts[f"{seen.method} {seen.path}"]
        if not script and self.other is not None:
            return self.other(seen)
        if not script:
            error = {"message": f"no route {seen.path}", "type": "x", "param": None, "code": None}
            return Say({"error": error}, 404)
        return script.pop(0) if len(script) > 1 else script[0]


@contextmanager
def loopback() -> Iterator[Loopback]:  # noqa: C901 (the methods of its handler count)
    """Run a server on a free port."""
    script = Loopback()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def respond(self) -> None:
            path, _, query = self.path.partition("?")
            headers = {name.lower(): value for name, value in self.headers.items()}
            say = script.next(Seen(self.command, path, query, headers, self.receive(headers)))
            if say.fault == "hang":
                script.stop.wait(30)
            if say.fault in ("hang", "reset"):
                reset = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                self.close_connection = True
                return
            self.say(say)

        do_GET = do_POST = do_DELETE = respond  # noqa: N815

        def receive(self, headers: Mapping[str, str]) -> bytes:
            if headers.get("transfer-encoding") == "chunked":
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)
            return self.rfile.read(int(headers.get("content-length", 0)))

        def say(self, say: Say) -> None:
            self.send_response(say.status)
            headers = {"content-type": "application/json", **say.headers}
            if say.fault != "close":
                headers["content-length"] = str(len(say.data) + 100 * (say.fault == "cut"))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(say.data)
            self.close_connection = self.close_connection or bool(say.fault)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield script
    finally:
        script.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()

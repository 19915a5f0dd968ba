"""The processes of one distributed run: workers run the tests, the foreman buys for all of them.

They talk over a local connection that needs the run's own secret. What a worker misses, and the
credentials to send it with, pass through it in memory; a worker that dies hangs up.
"""

from __future__ import annotations

import json
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from pytest_langasync.cache.store import Store
from pytest_langasync.engine.buyer import WaveResult
from pytest_langasync.exceptions import ConfigurationError, LangasyncError
from pytest_langasync.models import AttemptOptions, Credentials, MissingCall, Request, Target

__all__ = ["Controller", "WaveReply", "WorkerLink", "WorkerState"]

HANG_UP = 10.0
"""Seconds in which a worker that has ended must have hung up."""


@dataclass(frozen=True)
class WaveReply:
    """The foreman's reply to a worker that waited."""

    bought: WaveResult
    realtime_bases: tuple[str, ...] = ()
    """Base URLs without a batch API."""


@dataclass
class WorkerState:
    """What the foreman knows of a worker."""

    name: str
    line: Any = None
    reader: threading.Thread | None = None
    waiting: bool = False
    gone: bool = False
    failed: int = 0
    """How many of its tests failed."""
    stopped: bool = False
    refused: str = ""
    running: str = ""
    """The parked test that it runs again."""
    parked: set[str] = field(default_factory=set)
    wanted: dict[str, MissingCall] = field(default_factory=dict)
    books: Mapping[str, Any] | None = None


class Controller:
    """Gathers what the workers miss, and buys it in one go once all of them wait.

    ``buy`` gets everything that is missing, each key once, and what keeps a worker from sending
    anything, where something does; it is called in a thread of the foreman, as is ``allow``, which
    raises when a call may not be sent in real time. ``maxfail`` is the number of failures after
    which nothing more is bought; 0 is any number.
    """

    def __init__(
        self,
        store: Store,
        buy: Callable[[Sequence[MissingCall], str], WaveReply],
        allow: Callable[[str, Request], None],
        *,
        maxfail: int = 0,
    ) -> None:
        self._store, self._buy, self._allow, self._maxfail = store, buy, allow, maxfail
        self._secret = secrets.token_hex(32)
        self._listener = Listener(None, authkey=self._secret.encode())
        self._members: dict[str, WorkerState] = {}
        self._inbox: queue.SimpleQueue[tuple[WorkerState, dict[str, Any]] | None] = (
            queue.SimpleQueue()
        )
        self._guard = threading.RLock()
        self._ended = threading.Event()
        self.error: BaseException | None = None
        """What ended the foreman's own work, where something unforeseen did."""
        for work in (self._accept, self._serve):
            threading.Thread(target=work, daemon=True).start()

    # ---- for the front

    def invite(self, name: str) -> dict[str, str]:
        """Expect a worker; return what it needs to call."""
        with self._guard:
            self._members[name] = WorkerState(name)
        return {"name": name, "address": str(self._listener.address), "secret": self._secret}

    def part(self, name: str) -> WorkerState | None:
        """Take leave of a worker that has ended or died; return what is known of it."""
        with self._guard:
            member = self._members.get(name)
        if member is not None:
            if member.reader is not None:
                member.reader.join(HANG_UP)
            member.gone = True
            self._inbox.put(None)
        return member

    def stop(self) -> None:
        """Buy nothing more; workers that wait are sent on."""
        self._ended.set()
        with self._guard:
            for member in self._members.values():
                if member.waiting:
                    self._reply(member, WaveReply(WaveResult(over=True, stopped=True)))

    @property
    def names(self) -> list[str]:
        """Everybody who was invited."""
        with self._guard:
            return list(self._members)

    @property
    def ended(self) -> bool:
        """Whether ``stop`` was called."""
        return self._ended.is_set()

    def close(self) -> None:
        """Stop, and hang up."""
        self.stop()
        self._listener.close()
        self._inbox.put(None)

    # ---- threads: one listens, one for each worker reads, one decides

    def _accept(self) -> None:
        while not self.ended:
            try:
                line = self._listener.accept()
                name = json.loads(line.recv_bytes())["name"]
            except (AuthenticationError, OSError, EOFError, ValueError, KeyError):
                continue
            with self._guard:
                member = self._members.setdefault(name, WorkerState(name))
                member.line = line
                member.reader = threading.Thread(target=self._read, args=(member,), daemon=True)
                member.reader.start()

    def _read(self, member: WorkerState) -> None:
        try:
            while True:
                self._take(member, json.loads(member.line.recv_bytes()))
        except (OSError, EOFError):
            member.gone = True
            member.failed += member.books is None  # it died
            self._inbox.put(None)
        except BaseException as error:  # raised again by whoever leads the run
            self.error, member.gone = error, True
            self.stop()
            member.line.close()  # else it would wait for a reply for ever

    def _take(self, member: WorkerState, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "parked":
                member.parked.add(message["test"])
            case "running":
                member.running = message["test"]
            case "want":
                pending = _pending(message["pending"])
                self._store.spool(pending, message["body"])
                member.wanted[pending.key] = pending
            case "bye":
                member.books = message["books"]
                member.failed = message["failed"]
                member.stopped = message["stopped"]
            case _:
                self._inbox.put((member, message))

    def _serve(self) -> None:
        try:
            self._decide()
        except BaseException as error:  # raised again by whoever leads the run
            self.error = error
            self.stop()

    def _decide(self) -> None:
        while True:
            item = self._inbox.get()
            if item is not None:
                member, message = item
                if message["kind"] == "may":
                    self._may(member, message)
                    continue
                member.waiting, member.running = True, ""
                member.failed, member.refused = message["failed"], message["refused"]
            with self._guard:
                present = [member for member in self._members.values() if not member.gone]
                waiting = [member for member in present if member.waiting]
            if self.ended:
                self.stop()
                if not present:
                    return
            elif waiting and len(waiting) == len(present):
                self._round(waiting)

    def _may(self, member: WorkerState, message: dict[str, Any]) -> None:
        request = Request(_target(message["target"]), message["body"])
        try:
            self._allow(message["key"], request)
        except LangasyncError as error:
            self._send(member, {"error": str(error)})
        else:
            self._send(member, {"error": ""})

    def _round(self, waiting: Sequence[WorkerState]) -> None:
        members = list(self._members.values())
        failed = sum(member.failed for member in members)
        if any(member.stopped for member in members) or 0 < self._maxfail <= failed:
            result = WaveReply(WaveResult(over=True, stopped=True))
        else:
            missing: dict[str, MissingCall] = {}
            for member in waiting:
                missing |= member.wanted
            refused = next((member.refused for member in waiting if member.refused), "")
            result = self._buy(list(missing.values()), refused)
        for member in waiting:
            member.wanted.clear()
            self._reply(member, result)

    def _reply(self, member: WorkerState, result: WaveReply) -> None:
        with self._guard:
            if member.waiting:
                member.waiting = False
                self._send(member, asdict(result))

    def _send(self, member: WorkerState, message: Mapping[str, Any]) -> None:
        try:
            member.line.send_bytes(json.dumps(message).encode())
        except OSError:
            member.gone = True


class WorkerLink:
    """A worker's line to the foreman; itself a ``Buyer``.

    ``bought`` is told of each round: what was missing, and which base URLs have no batch API.
    """

    def __init__(
        self,
        invitation: Mapping[str, str],
        store: Store,
        bought: Callable[[Sequence[MissingCall], Iterable[str]], None],
    ) -> None:
        """Call the foreman.

        Raises:
            ConfigurationError: it cannot be reached: it runs on another machine, or has ended.
        """
        self._store, self._bought = store, bought
        self._guard = threading.RLock()
        self.failed: Callable[[], int] = lambda: 0
        """How many tests of this worker have failed."""
        self.refused: Callable[[], str] = lambda: ""
        """What keeps this worker from sending anything; empty where nothing does."""
        try:
            self._line: Connection[Any, Any] = Client(
                invitation["address"], authkey=invitation["secret"].encode()
            )
            self._send({"name": invitation["name"]})
        except (OSError, EOFError, AuthenticationError) as error:
            raise ConfigurationError(
                f"this pytest-xdist worker cannot reach the process that buys for it ({error}); "
                "batch mode needs all workers on one machine"
            ) from None

    def parked(self, test: str) -> None:
        """Say that a test waits here, so that it is missed when this worker dies."""
        self._send({"kind": "parked", "test": test})

    def running(self, test: str) -> None:
        """Say which parked test runs again."""
        self._send({"kind": "running", "test": test})

    def buy(self, missing: Sequence[MissingCall]) -> WaveResult:
        """Wait until all workers wait and the foreman has bought for them."""
        for pending in missing:
            plain = asdict(pending)
            body = self._store.spooled(pending.key)
            self._send({"kind": "want", "pending": plain, "body": body})
        reply = self._ask({"kind": "wait", "failed": self.failed(), "refused": self.refused()})
        result = WaveResult(**reply["bought"])
        if not result.over:
            self._bought(missing, reply["realtime_bases"])
        return result

    def allow(self, key: str, request: Request) -> None:
        """Ask whether a call may be sent in real time. Raises ``ConfigurationError``."""
        reply = self._ask(
            {"kind": "may", "key": key, "target": asdict(request.target), "body": request.body}
        )
        if reply["error"]:
            raise ConfigurationError(reply["error"])

    def leave(self, books: Mapping[str, Any], *, stopped: bool) -> None:
        """Hand over the books and hang up. ``stopped`` stops the whole run's buying."""
        message = {"kind": "bye", "books": books, "failed": self.failed(), "stopped": stopped}
        self._send(message)
        self._line.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode()
        with self._guard:
            self._line.send_bytes(data)

    def _ask(self, message: Mapping[str, Any]) -> Any:
        try:
            with self._guard:
                self._send(message)
                return json.loads(self._line.recv_bytes())
        except (EOFError, OSError):
            raise KeyboardInterrupt("the process that buys for this worker has ended") from None


def _pending(plain: dict[str, Any]) -> MissingCall:
    options = AttemptOptions(**plain.pop("options"))
    return MissingCall(**plain | {"target": _target(plain["target"])}, options=options)


def _target(plain: dict[str, Any]) -> Target:
    headers = tuple((name, value) for name, value in plain.pop("headers"))
    credentials = Credentials(plain.pop("credentials")["headers"])
    return Target(**plain, headers=headers, credentials=credentials)

"""The processes of one distributed run: workers run the tests, the controller buys for all of them.

They talk over a local connection that needs the run's own secret. What a worker misses, and the
credentials to send it with, pass through it in memory; a worker that dies hangs up. What they say
is in ``xdist_messages``.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, TypeVar

from pydantic import BaseModel

from pytest_langasync.cache.store import Store
from pytest_langasync.config import CLOCK
from pytest_langasync.engine.buyer import WaveResult
from pytest_langasync.exceptions import ConfigurationError, LangasyncError
from pytest_langasync.models import MissingCall, Refusal, Request
from pytest_langasync.plugin.xdist_messages import (
    Goodbye,
    Hello,
    Invitation,
    MayISend,
    Permission,
    RunsAgain,
    TestParked,
    Waits,
    Wanted,
    WaveReply,
    WorkerBooks,
    WorkerMessage,
    encode,
    read,
    read_worker_message,
)

__all__ = ["Controller", "WorkerLink", "WorkerState"]

R = TypeVar("R", WaveReply, Permission)
HANG_UP = 10.0
"""Seconds in which a worker that has ended must have hung up."""
REPLACEMENT = 5.0
"""Seconds in which xdist starts a worker in place of one that died, if it does: its tests are to be
part of the same wave."""
STOPPED = WaveReply(result=WaveResult(over=True, stopped=True))


@dataclass
class WorkerState:
    """What the controller knows of a worker."""

    name: str
    connection: Connection[Any, Any] | None = None
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
    books: WorkerBooks | None = None

    def send(self, message: BaseModel) -> None:
        """Say something to the worker; one that hung up meanwhile is gone."""
        try:
            assert self.connection is not None
            self.connection.send_bytes(encode(message))
        except OSError:
            self.gone = True


class Controller:
    """Gathers what the workers miss, and buys it in one go once all of them wait.

    ``buy`` gets everything that is missing, each key once, and what keeps a worker from sending
    anything, where something does; it is called in a thread of the controller, as is ``allow``,
    which raises when a call may not be sent in real time. ``maxfail`` is the number of failures
    after which nothing more is bought; 0 is any number.
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
        self._listener = _listen(self._secret.encode())
        self._workers: dict[str, WorkerState] = {}
        self._inbox: queue.SimpleQueue[tuple[WorkerState, MayISend | Waits] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.RLock()
        self._replacements_until: list[float] = []
        """For each worker that died and was not replaced yet, how long one is waited for."""
        self._ended = threading.Event()
        self.error: BaseException | None = None
        """What ended the controller's own work, where something unforeseen did."""
        for work in (self._accept, self._serve):
            threading.Thread(target=work, daemon=True).start()

    # ---- for the front

    def invite(self, name: str, *, started_at: float, sandbox: str = "") -> Invitation:
        """Expect a worker; return what it needs to call."""
        with self._lock:
            self._workers[name] = WorkerState(name)
            del self._replacements_until[:1]
        return Invitation(
            name=name,
            address=self._listener.address,
            secret=self._secret,
            started_at=started_at,
            sandbox=sandbox,
        )

    def worker_ended(self, name: str) -> WorkerState | None:
        """Wait for the last message of a worker that has ended or died; return its state."""
        with self._lock:
            worker = self._workers.get(name)
        if worker is not None:
            if worker.reader is not None:
                worker.reader.join(HANG_UP)
            worker.gone = True
            self._inbox.put(None)
        return worker

    def stop(self) -> None:
        """Buy nothing more; workers that wait are sent on."""
        self._ended.set()
        with self._lock:
            for worker in self._workers.values():
                self._reply(worker, STOPPED)

    @property
    def names(self) -> list[str]:
        """Everybody who was invited."""
        with self._lock:
            return list(self._workers)

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
                connection = self._listener.accept()
                name = read(Hello, connection.recv_bytes()).name
            except (AuthenticationError, OSError, EOFError, ValueError):
                continue
            with self._lock:
                worker = self._workers.setdefault(name, WorkerState(name))
                worker.connection = connection
                worker.reader = threading.Thread(
                    target=self._read, args=(worker, connection), daemon=True
                )
                worker.reader.start()

    def _read(self, worker: WorkerState, connection: Connection[Any, Any]) -> None:
        try:
            while True:
                self._take(worker, read_worker_message(connection.recv_bytes()))
        except (OSError, EOFError):
            if worker.books is None:  # it died
                worker.failed += 1
                with self._lock:
                    self._replacements_until.append(CLOCK.timer() + REPLACEMENT)
            worker.gone = True
            self._inbox.put(None)
        except BaseException as error:  # raised again by whoever leads the run
            self.error, worker.gone = error, True
            self.stop()
            connection.close()  # else it would wait for a reply for ever

    def _take(self, worker: WorkerState, message: WorkerMessage) -> None:
        match message:
            case TestParked():
                worker.parked.add(message.test)
            case RunsAgain():
                worker.running = message.test
            case Wanted():
                self._store.spool(message.missing, message.body)
                worker.wanted[message.missing.key] = message.missing
            case Goodbye():
                worker.books = message.books
                worker.failed = message.failed
                worker.stopped = message.stopped
            case MayISend() | Waits():
                self._inbox.put((worker, message))

    def _serve(self) -> None:
        try:
            self._decide()
        except BaseException as error:  # raised again by whoever leads the run
            self.error = error
            self.stop()

    def _decide(self) -> None:
        while True:
            try:
                item = self._inbox.get(timeout=self._replacement_time())
            except queue.Empty:
                item = None
            if item is not None:
                worker, message = item
                if isinstance(message, MayISend):
                    worker.send(self._permission(message))
                    continue
                worker.waiting, worker.running = True, ""
                worker.failed, worker.refused = message.failed, message.refused
            with self._lock:
                present = [worker for worker in self._workers.values() if not worker.gone]
                waiting = [worker for worker in present if worker.waiting]
            if self.ended:
                self.stop()
                if not present:
                    return
            elif waiting and len(waiting) == len(present) and self._replacement_time() is None:
                self._buy_wave(waiting)

    def _replacement_time(self) -> float | None:
        """Return for how many seconds to wait for a worker in place of one that died, if at all."""
        now = CLOCK.timer()
        with self._lock:
            self._replacements_until = [end for end in self._replacements_until if end > now]
            return max(self._replacements_until) - now if self._replacements_until else None

    def _permission(self, message: MayISend) -> Permission:
        try:
            self._allow(message.key, message.request)
        except LangasyncError as error:
            return Permission(error=str(error))
        return Permission()

    def _buy_wave(self, waiting: Sequence[WorkerState]) -> None:
        workers = list(self._workers.values())
        failed = sum(worker.failed for worker in workers)
        if any(worker.stopped for worker in workers) or 0 < self._maxfail <= failed:
            reply = STOPPED
        else:
            missing: dict[str, MissingCall] = {}
            for worker in waiting:
                missing |= worker.wanted
            refused = next((worker.refused for worker in waiting if worker.refused), "")
            reply = self._buy(list(missing.values()), refused)
        for worker in waiting:
            worker.wanted.clear()
            self._reply(worker, reply)

    def _reply(self, worker: WorkerState, reply: WaveReply) -> None:
        with self._lock:
            if worker.waiting:
                worker.waiting = False
                worker.send(reply)


class WorkerLink:
    """A worker's connection to the controller; itself a ``Buyer``.

    ``bought`` is told of each wave: what was missing, and which base URLs have no batch API.
    ``failed`` counts this worker's failed tests; ``refused`` says what keeps it from sending
    anything, or nothing.
    """

    def __init__(
        self,
        invitation: Invitation,
        store: Store,
        *,
        bought: Callable[[Sequence[MissingCall], Iterable[Refusal]], None],
        failed: Callable[[], int],
        refused: Callable[[], str],
    ) -> None:
        """Call the controller.

        Raises:
            ConfigurationError: it cannot be reached: it runs on another machine, or has ended.
        """
        self._store, self._bought = store, bought
        self._failed, self._refused = failed, refused
        self._lock = threading.RLock()
        try:
            self._connection: Connection[Any, Any] = Client(
                invitation.address, authkey=invitation.secret.encode()
            )
            self._send(Hello(name=invitation.name))
        except (OSError, EOFError, AuthenticationError) as error:
            raise ConfigurationError(
                f"this pytest-xdist worker cannot reach the process that buys for it ({error}); "
                "batch mode needs all workers on one machine"
            ) from None

    def parked(self, test: str) -> None:
        """Say that a test waits here, so that it is missed when this worker dies."""
        self._send(TestParked(test=test))

    def running(self, test: str) -> None:
        """Say which parked test runs again."""
        self._send(RunsAgain(test=test))

    def buy(self, missing: Sequence[MissingCall]) -> WaveResult:
        """Wait until all workers wait and the controller has bought for them."""
        for one in missing:
            self._send(Wanted(missing=one, body=self._store.spooled(one.key)))
        waits = Waits(failed=self._failed(), refused=self._refused())
        reply = self._ask(waits, WaveReply)
        if not reply.result.over:
            self._bought(missing, reply.refusals)
        return reply.result

    def allow(self, key: str, request: Request) -> None:
        """Ask whether a call may be sent in real time. Raises ``ConfigurationError``."""
        permission = self._ask(MayISend(key=key, request=request), Permission)
        if permission.error:
            raise ConfigurationError(permission.error)

    def leave(self, books: WorkerBooks, *, stopped: bool) -> None:
        """Hand over the books and hang up. ``stopped`` stops the whole run's buying."""
        self._send(Goodbye(books=books, failed=self._failed(), stopped=stopped))
        self._connection.close()

    def _send(self, message: BaseModel) -> None:
        data = encode(message)
        with self._lock:
            self._connection.send_bytes(data)

    def _ask(self, message: BaseModel, kind: type[R]) -> R:
        try:
            with self._lock:
                self._send(message)
                return read(kind, self._connection.recv_bytes())
        except (EOFError, OSError):
            raise KeyboardInterrupt("the process that buys for this worker has ended") from None


def _listen(secret: bytes) -> Listener:
    """Listen where only this machine can call.

    A socket's path has about 100 characters at most, which a long TMPDIR exceeds; the loopback
    address has no such limit.
    """
    try:
        return Listener(None, authkey=secret)
    except OSError:
        return Listener(("127.0.0.1", 0), authkey=secret)

"""What the processes of one distributed run say to each other, as typed messages.

Each is JSON on the wire and is validated once, where it leaves the socket. ``json`` makes the text,
not pydantic: a request's body may hold half of a surrogate pair, which pydantic cannot encode.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pytest_langasync.costs.ledger import Books
from pytest_langasync.engine.buyer import WaveResult
from pytest_langasync.models import MissingCall, Refusal, Request

__all__ = [
    "WORKERINPUT",
    "Goodbye",
    "Hello",
    "Invitation",
    "MayISend",
    "Permission",
    "RunsAgain",
    "TestParked",
    "Waits",
    "Wanted",
    "WaveReply",
    "WorkerBooks",
    "WorkerMessage",
    "encode",
    "read",
    "read_worker_message",
]  # fmt: skip


M = TypeVar("M", bound=BaseModel)
WORKERINPUT = "langasync"
"""Where xdist's ``workerinput`` holds a worker's ``Invitation``."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Invitation(_Message):
    """What a worker needs to reach the controller; travels as xdist's ``workerinput``."""

    name: str
    address: str | tuple[str, int]
    """A socket's path, or host and port."""
    secret: str
    started_at: float
    """When the run began, in seconds since the epoch."""
    sandbox: str = ""
    """The base URL of the controller's sandbox, where it started one."""


class WorkerBooks(_Message):
    """A worker's part of what the summary tells."""

    ledger: Books
    used: list[str]
    troubles: list[str]
    not_reproducible: list[str]
    left: int
    """How many tests were still parked when it stopped."""


# ---- worker to controller


class Hello(_Message):
    """The first message of a worker."""

    name: str


class TestParked(_Message):
    """A test waits here, so that it is missed when this worker dies."""

    __test__ = False
    kind: Literal["parked"] = "parked"
    test: str


class RunsAgain(_Message):
    """A parked test runs again."""

    kind: Literal["running"] = "running"
    test: str


class Wanted(_Message):
    """A call without an answer, and its body."""

    kind: Literal["wanted"] = "wanted"
    missing: MissingCall
    body: Any


class MayISend(_Message):
    """Asks whether a call may go out in real time; ``Permission`` is the reply."""

    kind: Literal["may"] = "may"
    key: str
    request: Request


class Waits(_Message):
    """Nothing is left to do before answers come; ``WaveReply`` is the reply."""

    kind: Literal["waits"] = "waits"
    failed: int
    """How many tests of this worker have failed."""
    refused: str
    """What keeps this worker from sending anything; empty where nothing does."""


class Goodbye(_Message):
    """The last message of a worker."""

    kind: Literal["goodbye"] = "goodbye"
    books: WorkerBooks
    failed: int
    stopped: bool
    """Whether the whole run is to buy nothing more."""


WorkerMessage = TestParked | RunsAgain | Wanted | MayISend | Waits | Goodbye


# ---- controller to worker


class Permission(_Message):
    """Whether a call may be sent in real time."""

    error: str = ""
    """Why not; empty where it may."""


class WaveReply(_Message):
    """What came of a wave for a worker that waited."""

    result: WaveResult
    refusals: tuple[Refusal, ...] = ()
    """What no batch takes."""


# ---- the wire

_WORKER_MESSAGE: TypeAdapter[WorkerMessage] = TypeAdapter(
    Annotated[WorkerMessage, Field(discriminator="kind")]
)


def encode(message: BaseModel) -> bytes:
    """Return a message as bytes for the socket."""
    return json.dumps(message.model_dump(), default=str).encode()  # a Decimal as its digits


def read_worker_message(data: bytes) -> WorkerMessage:
    """Validate what a worker said. Raises ``ValueError``."""
    return _WORKER_MESSAGE.validate_python(json.loads(data))


def read(kind: type[M], data: bytes) -> M:
    """Validate a message of which only one kind can come. Raises ``ValueError``."""
    return kind.model_validate(json.loads(data))

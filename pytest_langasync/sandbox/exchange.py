"""What a handler gets and gives: plain data, so that the protocols know nothing of the server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_langasync.sandbox.errors import ApiError

if TYPE_CHECKING:
    from pytest_langasync.sandbox.batches import Batches
    from pytest_langasync.sandbox.model import Model
    from pytest_langasync.sandbox.state import State

__all__ = ["Exchange", "Upload", "Wire", "visible"]

_SECRET = ("authorization", "x-api-key", "api-key", "cookie")


@dataclass(frozen=True)
class Upload:
    """A multipart form: its fields, and its one file."""

    fields: Mapping[str, str]
    filename: str
    content: bytes


@dataclass(frozen=True)
class Exchange:
    """One HTTP request, and what the sandbox has to answer it with.

    ``headers`` are in lower case; ``origin`` is the sandbox's URL as the client wrote it.
    """

    state: State
    model: Model
    batches: Batches
    headers: Mapping[str, str]
    path: Mapping[str, str]
    query: Mapping[str, str]
    origin: str
    data: bytes = b""
    upload: Upload | None = None

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises:
            ApiError: 400 when it is none.
        """
        try:
            value = json.loads(self.data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            text = "We could not parse the JSON body of your request."
            raise ApiError(400, text)
        return value

    def limit(self, default: int, most: int) -> int:
        """Return the page size asked for.

        Raises:
            ApiError: 400 when it is out of range.
        """
        text = self.query.get("limit", str(default))
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise ApiError(400, f"limit: Input should be between 1 and {most}", param="limit")
        return int(text)


@dataclass(frozen=True)
class Wire:
    """One HTTP response: a JSON ``body``, a ``stream`` of events, or a ``file``."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterable[bytes] | None = None
    file: Path | None = None
    media_type: str = "application/json"


def visible(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may be written down: none with a credential."""
    return {name: value for name, value in headers.items() if name not in _SECRET}

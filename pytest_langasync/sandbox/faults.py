"""Faults: what the sandbox is told to do wrong, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar

__all__ = ["BatchFault", "HttpFault", "Limits", "fault_of", "parse_faults"]


@dataclass(frozen=True)
class HttpFault:
    """Spoils the ``nth`` to ``nth + count - 1``-th exchange that matches ``path``.

    ``path`` is a shell pattern on method and path: ``GET /v1/batches/*``. ``count`` 0 means for
    ever. With ``after`` the server acts first. ``status`` replaces the reply (with ``body``, or the
    provider's usual error); without it the genuine reply is changed: ``headers`` are added,
    ``replace`` holds pairs of regular expression and replacement, ``insert`` is a line put behind
    the first one (``""`` for a blank line), ``truncate`` the number of bytes sent before the
    connection closes, ``drip`` the pause in seconds between pieces of 256 bytes. ``reset`` resets
    the connection. ``delay`` is in seconds, before anything else.
    """

    path: str = "*"
    nth: int = 1
    count: int = 1
    after: bool = False
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    reset: bool = False
    replace: Sequence[Sequence[str]] = ()
    insert: str | None = None
    truncate: int | None = None
    drip: float = 0.0
    delay: float = 0.0

    def matches(self, what: str) -> bool:
        """Return whether it concerns an exchange such as ``POST /v1/files``."""
        return fnmatchcase(what, self.path)

    @property
    def acts(self) -> bool:
        """True when the genuine handler runs before the fault shows."""
        return self.after or not (self.status or self.reset)


@dataclass(frozen=True)
class BatchFault:
    """Decides how the ``nth`` to ``nth + count - 1``-th batch that is created turns out.

    ``end`` is ``completed``, ``expired``, ``cancelled`` or ``failed``; ``done`` how many rows ran
    before that (all, half of them, half of them, none). ``failure`` is the code of a failed
    validation and ``message`` its text. ``missing``, ``duplicate`` and ``unknown`` count rows that
    are left out (and not bought), returned twice, or made up. ``rows`` maps a row's index to a
    status code, or to ``expire`` or ``missing``. ``word`` is shown as the status while it runs;
    ``final_word`` after it ended. ``empty_ids`` gives empty strings for absent file IDs;
    ``counts`` overrides the counters; ``latency`` the sandbox's, in seconds.
    """

    provider: str = "*"
    nth: int = 1
    count: int = 1
    end: str = "completed"
    done: int | None = None
    failure: str = ""
    message: str = ""
    missing: int = 0
    duplicate: int = 0
    unknown: int = 0
    rows: Mapping[str, int | str] = field(default_factory=dict)
    word: str = ""
    final_word: str = ""
    empty_ids: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    latency: float | None = None

    def matches(self, what: str) -> bool:
        """Return whether it concerns a batch of this provider."""
        return fnmatchcase(what, self.provider)


@dataclass(frozen=True)
class Limits:
    """What may wait: OpenAI's input tokens per model, Anthropic's requests; 0 is no limit."""

    enqueued_tokens: int = 0
    queued_requests: int = 0


Fault = HttpFault | BatchFault | Limits
KINDS: Mapping[str, type[Fault]] = {"http": HttpFault, "batch": BatchFault, "limits": Limits}
_F = TypeVar("_F", bound=Fault)


def parse_faults(faults: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Check ``{"http": [...], "batch": [...], "limits": {...}}`` and return (kind, fields) pairs.

    Raises:
        ValueError: an unknown kind or field.
    """
    found = []
    for kind, specs in faults.items():
        if kind not in KINDS:
            raise ValueError(f"unknown kind of fault {kind!r}; known: {', '.join(KINDS)}")
        for spec in specs if isinstance(specs, Sequence) else [specs]:
            given = dict(vars(spec) if isinstance(spec, HttpFault | BatchFault | Limits) else spec)
            load(KINDS[kind], given)
            found.append((kind, given))
    return found


def load(kind: type[_F], spec: Mapping[str, Any]) -> _F:
    """Return a fault made from its fields.

    Raises:
        ValueError: an unknown field.
    """
    unknown = set(spec) - {f.name for f in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"unknown field of a {kind.__name__}: {', '.join(sorted(unknown))}")
    return kind(**spec)


def fault_of(batch: Mapping[str, Any]) -> BatchFault:
    """Return how this batch was told to turn out."""
    return load(BatchFault, batch["fault"])

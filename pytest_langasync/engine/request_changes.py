"""What changed in requests since they were stored, in groups: told before they are bought anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pytest_langasync.cache import redaction
from pytest_langasync.engine import differences
from pytest_langasync.engine.replay import Replay
from pytest_langasync.models import MissingCall

__all__ = ["request_changes"]

COMPARED = 20
"""How many of a test's stored requests are compared, the newest first."""
KINDS = 5
"""How many kinds of changes are told."""
PATHS = 4
"""How many changed places of a kind are told."""
GENERATED = "generated identifiers"


def request_changes(missing_calls: Iterable[MissingCall], replay: Replay) -> list[str]:
    """Return a line for each kind of change, such as ``+tools[].strict in 412 calls``.

    Compares with what the same test (or wide fixture) had stored before this run, save what this
    run asked again.
    """
    by_owner: dict[str, list[MissingCall]] = {}
    for pending in missing_calls:
        by_owner.setdefault(pending.owner, []).append(pending)
    kinds: Counter[tuple[str, ...]] = Counter()
    for owner, asked in by_owner.items():
        kinds.update(_changes(owner, asked, replay))
    lines = [_line(kind, count) for kind, count in kinds.most_common(KINDS)]
    if len(kinds) > KINDS:
        rest = kinds.total() - sum(count for _, count in kinds.most_common(KINDS))
        lines.append(f"otherwise in {_calls(rest)}")
    return lines


def _changes(owner: str, asked: Iterable[MissingCall], replay: Replay) -> Iterator[tuple[str, ...]]:
    """Yield how each of an owner's calls differs from the stored one that is most like it."""
    stored = replay.store.requests_of(owner)
    known = {request.key for request in stored}
    new = [pending for pending in asked if pending.key not in known]
    if not new:
        return
    bought_keys = replay.memory.bought(owner)
    old: list[Any] = []
    for request in reversed(stored):
        usable = request.bought_at < replay.started_at and not (
            request.key in replay.served or request.key in bought_keys
        )
        if usable and len(old) < COMPARED and (body := request.body()) is not None:
            old.append(body)
    for pending in new:
        body = replay.store.spooled(pending.key)
        index = differences.nearest(body, old)
        if index is None:
            continue
        nearest = old.pop(index)
        if redaction.identifier_changes(nearest, body) is not None:
            yield (GENERATED,)
        else:
            yield differences.changed_paths(nearest, body)


def _line(kind: tuple[str, ...], count: int) -> str:
    more = f" and {len(kind) - PATHS} more" if len(kind) > PATHS else ""
    return f"{', '.join(kind[:PATHS])}{more} in {_calls(count)}"


def _calls(count: int) -> str:
    return f"{count:,} call{'' if count == 1 else 's'}"

"""How two requests differ, in words, and which of several is most like another. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise, zip_longest
from typing import Any

from pytest_langasync.cache.redaction import DIGESTS, digests, is_digests
from pytest_langasync.models import canonical_json

__all__ = ["changed_paths", "difference", "nearest"]

_ABSENT = object()
_MAX_LINES = 20


def difference(old: Any, new: Any, width: int = 100) -> str:
    """Return what changed between two request bodies, a line per path: ``path: old → new``.

    Lines are sorted by path and about ``width`` characters long; long texts are cut down to where
    they begin to differ, and control characters are escaped. Equal bodies give an empty text.
    Where only digests of ``old`` are stored, digests are compared.
    """
    lines: list[str] = []
    more = 0
    for path, a, b in _changes("", *_comparable(old, new)):
        if len(lines) == _MAX_LINES:
            more += 1
            continue
        room = max(24, (width - len(path) - 5) // 2)
        before, after = _excerpts(a, b, room)
        lines.append(f"{path or 'body'}: {before} → {after}")
    return "\n".join([*lines, *([f"… and {more} more"] if more else [])])


def changed_paths(old: Any, new: Any) -> tuple[str, ...]:
    """Return the places where two bodies differ, sorted, without the numbers of list items.

    ``+tools[].strict`` was added, ``-seed`` was removed, ``~messages[].content`` has changed.
    """
    found = set()
    for path, a, b in _changes("", *_comparable(old, new)):
        sign = "+" if a is _ABSENT else "-" if b is _ABSENT else "~"
        found.add(sign + re.sub(r"\[\d+\]", "[]", path or "body"))
    return tuple(sorted(found))


def _comparable(old: Any, new: Any) -> tuple[Any, Any]:
    """Return both bodies in one form: as digests where only these are stored of the old one."""
    if not is_digests(old):
        return old, new
    new = new if is_digests(new) else digests(new)
    plain = ({k: v for k, v in body.items() if k != DIGESTS} for body in (old, new))
    return next(plain), next(plain)


def _changes(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            name = key if re.fullmatch(r"[A-Za-z_$][\w$-]*", key, re.ASCII) else _safe(key, 40)
            inner = f"{path}.{name}" if path else name
            yield from _changes(inner, old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        for index, (a, b) in enumerate(zip_longest(old, new, fillvalue=_ABSENT)):
            yield from _changes(f"{path}[{index}]", a, b)
    elif _ABSENT in (old, new) or canonical_json(old) != canonical_json(new):
        yield path, old, new


def _safe(text: str, room: int) -> str:
    shown = text if len(text) <= room else text[: room - 1] + "…"
    return repr(shown)


def _excerpts(old: Any, new: Any, room: int) -> tuple[str, str]:
    if not (isinstance(old, str) and isinstance(new, str)):
        return _shown(old, room), _shown(new, room)
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    if first is None:
        first = min(len(old), len(new))
    start = max(0, first - room // 3) if max(len(old), len(new)) > room else 0
    cut = "…" if start else ""
    return _safe(cut + old[start:], room), _safe(cut + new[start:], room)


def _shown(value: Any, room: int) -> str:
    if value is _ABSENT:
        return "(absent)"
    if isinstance(value, str):
        return _safe(value, room)
    text = canonical_json(value)
    text = text if len(text) <= room else text[: room - 1] + "…"
    # Inside JSON text only what a terminal would act on needs an escape.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


# ---- similarity

_COMPARED = 20_000
_ENOUGH = 0.25


def nearest(body: Any, candidates: Iterable[Any]) -> int | None:
    """Return the index of the candidate most like ``body``, or None when none is much like it.

    Likeness is the share of common word pairs; of very long bodies both ends are compared.
    """
    plain = _words(body)
    best, index = _ENOUGH, None
    for number, candidate in enumerate(candidates):
        wanted = _words(_comparable(candidate, body)[1]) if is_digests(candidate) else plain
        words = _words(_comparable(candidate, candidate)[0])
        total = wanted.total() + words.total()
        score = 2 * (wanted & words).total() / total if total else 0.0
        if score > best:
            best, index = score, number
    return index


def _words(body: Any) -> Counter[tuple[str, str]]:
    text = canonical_json(body)
    if len(text) > _COMPARED:
        text = text[: _COMPARED // 2] + " " + text[-_COMPARED // 2 :]
    return Counter(pairwise(["", *re.findall(r"\w+", text), ""]))

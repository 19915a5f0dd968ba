"""Generated identifiers in requests: found, masked, compared, and replaced in answers.

A test that puts a fresh ``uuid4`` or the time of day into its request asks the same question on
each attempt. A *token* is such a generated text: a UUID, a provider's ID, long hexadecimal, a ULID,
a pytest temporary path, an object's address, a timestamp with a time of day, or one with fractions
of a second; never a bare date, an ordinary number or a word. Pure functions, no I/O.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_langasync.models import canonical_json

__all__ = ["mask", "replace_tokens", "same_but_for_tokens"]

# ---- tokens

# A token may follow an escaped line end: arguments of functions are JSON inside a JSON string.
_START = r"(?:(?<![0-9A-Za-z])|(?<=\\[nrt]))"
_END = r"(?![0-9A-Za-z])"
_PREFIX = (
    "(?:call|toolu|srvtoolu|mcptoolu|chatcmpl|cmpl|msg|run|lc|resp|fc|rs|ws|ctc|mcp|req|gen|file"
    "|item|thread|session|sess|conv|trace|span|user|batch|msgbatch|container|cntr)[_-]+"
)
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_NAMED = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_WEEKDAY = "(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? )?"
_HOUR, _SIXTY = r"(?:[01]\d|2[0-3])", r"[0-5]\d"
_CLOCK = rf"{_HOUR}:{_SIXTY}(?::{_SIXTY}(?:[.,]\d{{1,9}})?)?(?: ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"
# What time.time() returns; fewer decimals may be a sum of money.
_SECONDS = r"(?<!\d\.)(?:1[5-9]|2[01])\d{8}\.\d{3,9}(?!\.\d)"
# Seconds, milli-, micro- or nanoseconds, from 2017 to 2039.
_EPOCH = r"(?:1[5-9]|2[01])\d{8}(?:\d{3}|\d{6}|\d{9}|\.\d+)?"

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

_KINDS = {
    "path": r"pytest-of-[^/\\\s\"'<>]+[/\\]+pytest-\d+(?:[/\\]+popen-gw\d+)?"
    r"(?:[/\\]+[\w.\-]*\d)?(?![\w.\-])",
    "uuid": _UUID,
    "iso": rf"{_YEAR}-{_MONTH}-{_DAY}[T ]{_CLOCK}",
    "compact": rf"{_YEAR}{_MONTH}{_DAY}[T_-]{_HOUR}{_SIXTY}{_SIXTY}(?:\.\d+)?Z?",
    "rfc": rf"{_WEEKDAY}[0-3]\d {_NAMED},? {_YEAR},? {_CLOCK}",
    "ctime": rf"{_WEEKDAY}{_NAMED} [ \d]\d {_CLOCK} {_YEAR}",
    "id": rf"{_PREFIX}(?!{_UUID})(?:[0-9a-f]{{8,}}|[0-9A-Za-z]{{16,}})",
    "ulid": r"[0-7][0-9A-HJKMNP-TV-Z]{25}",
    "hex": r"(?:[0-9a-f]{16,}|[0-9A-F]{16,})",
    "seconds": _SECONDS,
    "address": r"(?<=\bat )0x[0-9a-fA-F]{7,16}",
}
_SIGNED = r"\?[^\s\"'<>\\]*?\b(?:sig|Signature|X-Amz-Signature|X-Goog-Signature)=[^\s\"'<>\\]+"
"""The query of a signed URL, which is signed anew each time."""
_SIGNING = re.compile(
    r"(?:sig|s[a-z]{1,3}|Signature|Expires|Policy|Key-Pair-Id|X-(?:Amz|Goog)-[\w-]+)=[^&]*"
)
"""The parameters that a signature consists of: Azure's, CloudFront's, S3's and Google's."""
_CALL_IDS = frozenset({"tool_call_id", "tool_use_id", "call_id"})
"""Keys whose values name a tool's call, whatever they look like: some clients make their own."""
_CALLS = frozenset({"tool_use", "server_tool_use", "function_call"})
"""Types of parts whose ``id`` does so, too; as does that of each of ``tool_calls``."""
_REPLACED = 6
"""Shorter names of calls are not looked for in texts: they may be anything."""
_TOKEN = re.compile(
    "|".join(f"{_START}(?P<{kind}>{pattern}){_END}" for kind, pattern in _KINDS.items())
    + rf"|(?P<signed>{_SIGNED})"
    + rf"|(?i:timestamp|epoch|unix ?time)[^\w<]{{0,3}}(?P<epoch>{_EPOCH})(?![\w.])"
)
_EPOCH_KEY = re.compile(r"(?i)(?:^|_)(?:timestamp|epoch|ts|time|now|at)(?:_m?s)?$")
_EPOCH_VALUE = re.compile(_EPOCH)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RUNS = re.compile(r"\d+|[A-Za-z]+")
_LAST_NUMBERS = re.compile(r"\d+(?=[/\\]|$)")


def _found(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, kind) of each token in a text."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        token = re.sub(f"^{_PREFIX}", "", match[kind]) if kind == "id" else match[kind]
        # A word, a number, a date or a name like "support2024" is none: letters and digits of an
        # identifier are mixed.
        mixed = len(_RUNS.findall(token)) > _unmixed(token) or (kind == "id" and _any_case(token))
        if kind not in {"id", "ulid", "hex"} or mixed:
            yield *match.span(kind), kind


def _any_case(token: str) -> bool:
    """Return whether capitals and small letters stand as in no name: not even in camel case."""
    switches = sum(a.isupper() != b.isupper() for a, b in itertools.pairwise(token))
    return len(token) >= 16 and switches >= 0.4 * len(token)


def _is_call_id(key: str, value: Any, part: Any, place: str) -> bool:
    """Return whether a value names a tool's call.

    ``part`` is the object that holds it under ``key``, and ``place`` the key of that object.
    """
    if not (isinstance(value, str) and value):
        return False
    named = key == "id" and (place == "tool_calls" or part.get("type") in _CALLS)
    return key in _CALL_IDS or named


def _unmixed(token: str) -> int:
    """Return how many runs of letters or digits still are no sign of a generated text."""
    return 1 if len(token) < 16 and re.fullmatch("[0-9a-f]+", token) else 2


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return what is compared literally (with each token's kind and form), and the tokens."""
    literal: list[str] = []
    tokens: list[str] = []
    position = 0
    for start, end, kind in _found(text):
        token = text[start:end]
        form = {"path": _LAST_NUMBERS.sub("0", token), "hex": str(len(token))}.get(kind, "")
        if kind == "signed":
            form = _SIGNING.sub("", token)
        if kind == "id":
            form = re.split("[_-]", token)[0]
        literal += [text[position:start], kind, form]
        tokens.append(token)
        position = end
    return [*literal, text[position:]], tokens


def _is_epoch(key: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and bool(_EPOCH_KEY.search(key) and _EPOCH_VALUE.fullmatch(canonical_json(value)))


def mask(body: Any) -> tuple[str, list[str]]:
    """Return the canonical JSON of ``body`` with its tokens masked, and the distinct tokens.

    The n-th distinct token reads ``<kind:n>`` wherever it stands. The text serves to look for
    candidates; ``same_but_for_tokens`` is the judge, for a prompt may itself hold ``<uuid:1>``.
    """
    numbers: dict[str, int] = {}

    def masked(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {name: within(value, name, key) for name in sorted(value)}
        if isinstance(value, (list, tuple)):
            return [masked(item, key) for item in value]
        if _is_epoch(key, value):
            return f"<epoch:{numbers.setdefault(canonical_json(value), len(numbers) + 1)}>"
        if not isinstance(value, str):
            return value
        parts, position = [], 0
        for start, end, kind in _found(value):
            number = numbers.setdefault(value[start:end], len(numbers) + 1)
            parts += [value[position:start], f"<{kind}:{number}>"]
            position = end
        return "".join([*parts, value[position:]])

    def within(part: Mapping[str, Any], name: str, place: str) -> Any:
        value = part[name]
        if _is_call_id(name, value, part, place) and not list(_found(value)):
            return f"<call:{numbers.setdefault(value, len(numbers) + 1)}>"
        return masked(value, name)

    return canonical_json(masked(body)), list(numbers)


def same_but_for_tokens(old: Any, new: Any) -> dict[str, str] | None:
    """Return old tokens mapped to the new ones if the bodies differ in nothing else, or None.

    Tokens must correspond one to one: a token that repeats in one body repeats in the other.
    Unchanged tokens are left out, so equal bodies give an empty mapping.
    """
    there: dict[str, str] = {}
    back: dict[str, str] = {}

    def pair(a: str, b: str) -> bool:
        return there.setdefault(a, b) == b and back.setdefault(b, a) == a

    def same(a: Any, b: Any, key: str = "") -> bool:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return a.keys() == b.keys() and all(alike(a, b, k, key) for k in a)
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(same(x, y, key) for x, y in zip(a, b, strict=True))
        if isinstance(a, str) and isinstance(b, str):
            (text, tokens), (other_text, others) = _split(a), _split(b)
            return text == other_text and all(map(pair, tokens, others))
        if _is_epoch(key, a) and _is_epoch(key, b):
            return pair(canonical_json(a), canonical_json(b))
        return type(a) is type(b) and canonical_json(a) == canonical_json(b)

    def alike(a: Mapping[str, Any], b: Mapping[str, Any], name: str, place: str) -> bool:
        one, other = a[name], b[name]
        if _is_call_id(name, one, a, place) and _is_call_id(name, other, b, place):
            return pair(one, other)
        return same(one, other, name)

    if not same(old, new):
        return None
    return {a: b for a, b in there.items() if a != b and len(a) >= _REPLACED}


def replace_tokens(answer_body: Any, mapping: Mapping[str, str]) -> Any:
    """Return a stored answer's body with the old tokens in its texts replaced by the new ones."""
    if not mapping:
        return answer_body
    # All at once, longest first: tokens may be swapped, or begin alike. A number must not be part
    # of a longer one.
    longest_first = sorted(mapping, key=len, reverse=True)
    pattern = re.compile(
        "|".join(
            rf"(?<!\d){re.escape(token)}(?!\d)" if _NUMBER.fullmatch(token) else re.escape(token)
            for token in longest_first
        )
    )

    def replaced(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {replaced(key): replaced(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [replaced(item) for item in value]
        if isinstance(value, str):
            return pattern.sub(lambda match: mapping[match[0]], value)
        return value

    return replaced(answer_body)

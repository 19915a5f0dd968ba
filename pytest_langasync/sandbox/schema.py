"""A valid instance of a JSON schema: deterministic, and optimistic about scores and verdicts."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["JSON_OBJECT", "instance"]

JSON_OBJECT: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "answer": {"type": "string"},
        "score": {"type": "integer", "minimum": 1, "maximum": 10},
    },
    "required": ["answer", "score"],
}
"""What is sent where a JSON object was asked for without a schema."""

_MAX_DEPTH = 6
_HIGH = 0.8
_FORMATS = {
    "date": "2026-01-15",
    "date-time": "2026-01-15T09:30:00Z",
    "time": "09:30:00Z",
    "duration": "P1D",
    "email": "sandbox@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_PATTERN_GUESSES = ("sandbox", "a", "A", "A1", "AB", "abc", "0", "1", "10", "12", "123", "1234")


def instance(schema: Any, seed: int = 0) -> Any:
    """Return a value that ``schema`` accepts, the same one for the same seed.

    Bounded numbers lie at 80 % of their range (a rating from 1 to 10 is 8), booleans are true, an
    enumeration gives its first member. ``pattern`` is met by trying likely strings, and
    ``not``, ``if`` and ``dependentSchemas`` are not looked at.
    """
    return _Maker(schema, random.Random(seed)).make(schema, "value", 0)


class _Maker:
    def __init__(self, root: Any, rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def make(self, schema: Any, name: str, depth: int) -> Any:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return _choose(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                rest = {k: v for k, v in schema.items() if k != key}
                return self.make(_merge(rest, self._branch(schema[key], depth)), name, depth)
        kind = _kind(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            return self._number(schema, name, whole=kind == "integer")
        if kind == "string":
            return self._string(schema, name)
        return True if kind == "boolean" else None

    def _resolve(self, schema: Any) -> dict[str, Any]:
        """Follow ``$ref`` and fold ``allOf`` until neither is left at this level."""
        for _ in range(50):
            if not isinstance(schema, Mapping):
                return {}
            if "$ref" in schema:
                rest = {k: v for k, v in schema.items() if k != "$ref"}
                schema = _merge(rest, self._lookup(schema["$ref"]))
            elif schema.get("allOf"):
                rest = {k: v for k, v in schema.items() if k != "allOf"}
                for part in schema["allOf"]:
                    rest = _merge(rest, self._resolve(part))
                schema = rest
            else:
                return dict(schema)
        return {}

    def _lookup(self, ref: str) -> Any:
        node = self._root
        for part in ref.removeprefix("#").strip("/").split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            if part:
                node = node.get(part, {}) if isinstance(node, Mapping) else {}
        return node

    def _branch(self, branches: list[Any], depth: int) -> Any:
        """Take the first branch, or, deep down, the one that ends soonest."""
        if depth < _MAX_DEPTH:
            kinds = [b for b in branches if _kind(self._resolve(b)) != "null"]
            return (kinds or branches)[0]
        flat = ("null", "string", "integer", "number", "boolean")
        return min(branches, key=lambda b: _kind(self._resolve(b)) not in flat)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = list(schema.get("required", []))
        optional = [] if depth >= _MAX_DEPTH - 2 else list(properties)
        extra = schema.get("additionalProperties", {})
        names = list(dict.fromkeys([*required, *optional]))
        for index in range(schema.get("minProperties", 0) - len(names)):
            unused = [key for key in properties if key not in names]
            names.append(unused[0] if unused else f"key{index}")
        names.sort(key=lambda name: list(properties).index(name) if name in properties else 999)
        names = names[: max(schema.get("maxProperties", len(names)), len(required))]
        return {name: self.make(properties.get(name, extra), name, depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems", [])
        low = schema.get("minItems", 0)
        count = max(low, len(prefix), 1 if depth < _MAX_DEPTH - 2 else 0)
        if schema.get("items", True) is False:
            count = len(prefix)
        count = min(count, schema.get("maxItems", count))
        items = [self.make(part, name, depth + 1) for part in prefix[:count]]
        rest = schema.get("items", {})
        while len(items) < count:
            items.append(self.make(rest, name, depth + 1))
            if schema.get("uniqueItems"):
                items[-1] = self._fresh(rest, items)
        return items

    def _fresh(self, schema: Any, items: list[Any]) -> Any:
        """Return a last item that the others do not hold yet, where the schema has one."""
        resolved, last = self._resolve(schema), items[-1]
        if last not in items[:-1]:
            return last
        if "enum" in resolved:
            return next((e for e in resolved["enum"] if e not in items), last)
        if isinstance(last, str):
            return f"{last[: resolved.get('maxLength', 99) - 4]}{len(items):04}"
        if isinstance(last, bool):
            return not last
        if isinstance(last, int):
            step = resolved.get("multipleOf", 1)
            down = range(last - step, math.ceil(resolved.get("minimum", last)) - 1, -step)
            return next((n for n in down if n not in items), max(items) + step)
        return last

    def _number(self, schema: dict[str, Any], name: str, *, whole: bool) -> int | float:
        low, high = _bounds(schema, whole)
        if low is None and high is None:
            rating = re.search(r"score|rating|grade", name, re.IGNORECASE)
            value: float = 8 if rating else self._rng.randint(1, 100)
        elif low is None or high is None:
            value = low if low is not None else high or 0
        else:
            value = low + (high - low) * _HIGH
        step = schema.get("multipleOf")
        if step:
            value = math.floor(value / step) * step
            value = value + step if low is not None and value < low else value
        if whole:
            return round(value)
        return value if step else round(value, 6) if _inside(round(value, 6), low, high) else value

    def _string(self, schema: dict[str, Any], name: str) -> str:
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        if pattern := schema.get("pattern"):
            fits = [g for g in _PATTERN_GUESSES if re.search(pattern, g) and len(g) >= low]
            return fits[0] if fits else ""
        text = f"sandbox {name.replace('_', ' ')} {self._rng.randrange(16**4):04x}"
        return text.ljust(low, ".")[: max(high, 0) if high is not None else None]


def _choose(values: list[Any]) -> Any:
    """The first member; among numbers only, the one at 80 % of their order."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return sorted(values)[round((len(values) - 1) * _HIGH)]
    return values[0]


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if isinstance(kind, str):
        return kind
    for guess, keys in (
        ("object", ("properties", "required", "additionalProperties", "minProperties")),
        ("array", ("items", "prefixItems", "minItems")),
        ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    ):
        if any(key in schema for key in keys):
            return guess
    return "string"


def _merge(left: Mapping[str, Any], right: Any) -> dict[str, Any]:
    """Return a schema that asks for both, near enough: properties united, bounds tightened."""
    merged = dict(left)
    for key, value in (right if isinstance(right, Mapping) else {}).items():
        old = merged.get(key)
        if key in ("properties", "$defs") and old:
            merged[key] = {**old, **value}
        elif key == "required" and old:
            merged[key] = list(dict.fromkeys([*old, *value]))
        elif old is not None and re.match(r"min|exclusiveMin", key):
            merged[key] = max(old, value)
        elif old is not None and re.match(r"max|exclusiveMax", key):
            merged[key] = min(old, value)
        else:
            merged[key] = value
    return merged


def _bounds(schema: Mapping[str, Any], whole: bool) -> tuple[float | None, float | None]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if whole:
        low = None if low is None else math.ceil(low)
        high = None if high is None else math.floor(high)
    if above is not None:
        step = _step(above, high if below is None else below)
        least = math.floor(above) + 1 if whole else above + step
        low = least if low is None else max(low, least)
    if below is not None:
        step = _step(schema.get("minimum") if above is None else above, below)
        most = math.ceil(below) - 1 if whole else below - step
        high = most if high is None else min(high, most)
    return low, high


def _step(low: float | None, high: float | None) -> float:
    """Return how far to stay away from an exclusive limit."""
    return 1 if low is None or high is None else (high - low) / 1000


def _inside(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)

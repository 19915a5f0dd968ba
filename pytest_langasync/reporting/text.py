"""Words and figures as a person reads them: money, time, and text that somebody else wrote."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

__all__ = [
    "answer_text", "counted", "duration", "escape", "last_message", "messages", "money", "one_line",
    "shorten",
]  # fmt: skip

# C0 and C1 controls bar \n and \t, marks that reorder or hide text, unusual line ends, surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def escape(text: str) -> str:
    """Make ``text`` safe for a terminal: what controls it is shown as an escape, not obeyed.

    Line ends and tabs stay, since they are layout.
    """
    return _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """Escape ``text`` and put it on one line."""
    return " ".join(escape(text).split())


def shorten(text: str, limit: int) -> str:
    """Cut ``text`` in the middle, so that at most ``limit`` characters of it are left."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    left_out = len(text) - limit
    return f"{text[: limit - tail]} … [{left_out:,} characters left out] … {text[-tail:]}"


def counted(labels: Iterable[str], most: int) -> tuple[list[tuple[str, int]], int]:
    """Return the ``most`` frequent labels, each with its count, and how many others there are."""
    ranked = sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))
    return ranked[:most], len(ranked[most:])


def money(amount: Decimal) -> str:
    """Write US dollars so that small sums can be read: ``$12.34``, ``$0.0123``, ``$0.00012``."""
    sign, size = "-" if amount < 0 else "", abs(amount)
    if size == 0 or size >= 1:
        return f"{sign}${size:,.2f}"
    places = max(4, 1 - size.adjusted())
    return f"{sign}${size:.{places}f}"


def duration(seconds: float) -> str:
    """Write a span of time in its two largest units: ``45s``, ``3m10s``, ``2h05m``, ``3d04h``."""
    left = max(0, int(seconds))
    for (unit, size), (lower, lower_size) in itertools.pairwise(_UNITS):
        if left >= size:
            return f"{left // size}{unit}{left % size // lower_size:02d}{lower}"
    return f"{left}s"


def last_message(body: Mapping[str, Any]) -> str:
    """Return the text of the last thing that a request says to the model."""
    said = body.get("messages", body.get("input", ""))
    if isinstance(said, list) and said:
        last = said[-1]
        return _text(last) if isinstance(last, Mapping | str) else f"{len(said)} inputs"
    return said if isinstance(said, str) else ""


def messages(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return all that a request says to the model, in order: who says it, and the text."""
    said = body.get("messages", body.get("input"))
    if not isinstance(said, list):
        said = [{"role": "user", "content": said}]
    elif said and not isinstance(said[-1], Mapping | str):  # tokens to embed
        said = [f"{len(said)} inputs"]
    parts = [(name, body.get(name)) for name in ("system", "instructions")]
    parts += [(_speaker(one), one) for one in said]
    return [(who, text) for who, part in parts if (text := _text(part))]


def _speaker(item: Any) -> str:
    named = item if isinstance(item, Mapping) else {}
    return str(named.get("role") or named.get("type") or "input")


def answer_text(body: Any) -> str:
    """Return what an answer says: text, calls of tools, or the error."""
    if not isinstance(body, Mapping):
        return str(body)
    if isinstance(body.get("error"), Mapping):
        error = body["error"]
        return f"{error.get('type') or error.get('code') or 'error'}: {error.get('message', '')}"
    if isinstance(body.get("choices"), list):
        return _join(_text(choice.get("message")) for choice in _mappings(body["choices"]))
    if isinstance(body.get("data"), list):
        return f"{len(body['data'])} embeddings"
    return _text(body.get("output") or body.get("content"))


def _text(part: Any) -> str:
    """Return the text of a message, block or item of any of the APIs, or of a list of them."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        return _join(_pieces(part))
    return _join(_text(one) for one in part) if isinstance(part, list) else ""


def _pieces(part: Mapping[str, Any]) -> Iterable[str]:
    kind = part.get("type")
    if kind in ("tool_use", "function_call", "custom_tool_call"):
        yield _tool_call(part.get("name"), part.get("input", part.get("arguments")))
        return
    for name in ("text", "refusal", "content", "output"):
        yield _text(part.get(name))
    for call in _mappings(part.get("tool_calls")):
        for function in _mappings([call.get("function")]):
            yield _tool_call(function.get("name"), function.get("arguments"))
    if kind in ("image_url", "input_image", "image", "file", "input_file", "document"):
        yield f"[{kind}]"


def _mappings(items: Any) -> Iterable[Mapping[str, Any]]:
    return (one for one in items if isinstance(one, Mapping)) if isinstance(items, list) else ()


def _tool_call(name: Any, arguments: Any) -> str:
    return f"{name}({arguments})"


def _join(pieces: Iterable[str]) -> str:
    return "\n".join(piece for piece in pieces if piece)

"""Words and figures as a person reads them: money, time, and text that somebody else wrote."""

from __future__ import annotations

import itertools
import re
from decimal import Decimal

__all__ = [
    "ages", "duration", "escape", "money", "nothing_bought", "one_line", "shorten",
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


def ages(youngest: float, oldest: float) -> str:
    """Write ages in seconds as a person says them: ``5m10s``, ``3h00m to 9 days``."""
    told = [f"{one // 86_400:.0f} days" if one >= 2 * 86_400 else duration(one)
            for one in (youngest, oldest)]  # fmt: skip
    return " to ".join(dict.fromkeys(told))


def nothing_bought(found: tuple[float, float] | None) -> str:
    """Say that a run judged answers of the cache alone, given their ages in seconds."""
    return f"nothing was bought: answers are {ages(*found)} old" if found else ""

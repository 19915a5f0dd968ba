"""How many calls may be under way at once, and when the next may start, as a provider allows.

Knows no network and no thread: it is told what started and what came, and says when. Libraries were
looked at first: aiolimiter keeps to a rate that one has to know, anyio's ``CapacityLimiter`` to a
number that one has to know, and tenacity lets each call back off alone, so that hundreds come back
at once. A limit that nobody knows has to be found.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pytest_langasync.providers.base import RATE_HEADERS

__all__ = ["Feedback", "Limiter", "Quota", "feedback"]

START = 20
"""Calls under way at the beginning."""
MOST = 500
"""The most calls under way where nobody says otherwise: each has a thread of its own."""
STEP = 0.005
"""Seconds between the very first calls: at a strict limit the first refusal comes before the rest
of them have left."""
GROWTH = 0.8
"""Calls that each success adds while as many are under way as may be: 300 calls of a second take
5 s from 20 on."""
DOUBLING = 0.7
"""Seconds in which the pace doubles, as long as no pace was refused."""
CUT = 0.75
"""What a refusal leaves of the pace."""
APPROACH = 2.0
"""Time constant, in seconds, of the way back to just below the pace that was refused."""
NEAR = 0.95
CREEP = 0.005
"""Share by which the pace grows each second below the refused one; four times that above it."""
SURE = 0.95
"""Share of the rate that headers tell which is used: they count in whole calls."""


@dataclass(frozen=True)
class Quota:
    """What is left of a limit: ``remaining`` of ``limit``, whole again in ``reset`` seconds."""

    limit: float
    remaining: float
    reset: float


@dataclass(frozen=True)
class Feedback:
    """What an answer says about the limits. ``refused`` marks 429, 529 and their like."""

    refused: bool = False
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """By what they count: ``requests``, ``tokens``."""


def feedback(refused: bool, headers: Mapping[str, str], now: float) -> Feedback:
    """Read the headers of an answer; ``now`` is in seconds since the epoch.

    Values that make no sense say nothing. Names of headers are in lower case.
    """
    quotas: dict[str, Quota] = {}
    for counted in ("requests", "tokens"):
        found = _quota(headers, counted, now)
        if found is not None:
            quotas[counted] = found
    return Feedback(refused, _retry_after(headers, now), quotas)


def _quota(headers: Mapping[str, str], counted: str, now: float) -> Quota | None:
    for name in RATE_HEADERS:
        limit = _number(headers.get(name.format(counted, "limit"), ""))
        remaining = _number(headers.get(name.format(counted, "remaining"), ""))
        reset = _seconds(headers.get(name.format(counted, "reset"), ""), now)
        if limit and remaining is not None and reset is not None:
            return Quota(limit, min(remaining, limit), reset)
    return None


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    return _seconds(headers.get("retry-after", ""), now)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str, now: float) -> float | None:
    """Return the seconds in ``12``, ``6m0s``, ``20ms`` or until a date of HTTP or RFC 3339."""
    text = text.strip()
    plain = _number(text)
    if plain is not None or not text:
        return plain
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            when = parse(text)
        except ValueError:
            continue
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, when.timestamp() - now)
    return None


class _Bucket:
    """The provider's count as its headers tell it; what left since then is taken off."""

    def __init__(self) -> None:
        self._level = math.inf
        self._rate = 0.0
        self._limit = math.inf
        self._at = 0.0
        self._told_of = -math.inf
        self._left: deque[tuple[float, float]] = deque()

    def take(self, now: float, amount: float) -> None:
        self._left.append((now, amount))
        self._level, self._at = self._now(now) - amount, now

    def told(self, started_at: float, quota: Quota) -> None:
        """Take over what was left when a call arrived, as its answer tells."""
        if started_at < self._told_of:
            return  # answers come out of order
        self._told_of = started_at
        while self._left and self._left[0][0] <= started_at:
            self._left.popleft()
        if quota.reset > 0 and quota.remaining < quota.limit:
            self._rate = SURE * (quota.limit - quota.remaining) / quota.reset
        self._limit, self._level, self._at = quota.limit, quota.remaining, started_at
        for moment, amount in self._left:
            self._level, self._at = self._now(moment) - amount, moment

    def ready_at(self, now: float, amount: float) -> float:
        lacking = min(amount, self._limit) - self._now(now)
        return now + lacking / self._rate if lacking > 0 and self._rate else now

    def _now(self, now: float) -> float:
        if self._level == math.inf:
            return math.inf
        return min(self._limit, self._level + (now - self._at) * self._rate)


class Limiter:
    """The limit of one provider, account and model. All times are of one clock, in seconds.

    Before the first refusal it is a number of calls under way that grows with each success. After
    it there is a pace, too, which begins at half the accepted rate and is probed upwards: with a
    bucket of one, adaptive concurrency alone had every second call refused. What headers tell of
    the provider's own count avoids even the first refusal.

    >>> limiter = Limiter()
    >>> limiter.ready_at(100.0)
    100.0
    >>> limiter.started(100.0)
    >>> limiter.finished(100.2, 100.0, Feedback(refused=True, retry_after=3.0))
    >>> limiter.ready_at(100.2)
    103.2
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most or MOST
        self._room = float(min(START, self._most))
        self._under_way = 0
        self._begun_at: float | None = None
        self._accepted = 0
        self._pace: float | None = None
        self._refused_pace: float | None = None
        self._grown_at = 0.0
        self._cut_at = -math.inf
        self._next = 0.0
        self._pause = 0.0
        self._buckets = {"requests": _Bucket(), "tokens": _Bucket()}

    @property
    def under_way(self) -> int:
        """How many calls have started and not finished."""
        return self._under_way

    def ready_at(self, now: float, tokens: float = 0.0) -> float | None:
        """Return when the next call may start; None: not before one has finished.

        ``tokens`` is about how many the provider will count for it.
        """
        if self._under_way >= int(self._room):
            return None
        told = (self._buckets[name].ready_at(now, n) for name, n in _counted(tokens))
        return max(now, self._pause, self._next, *told)

    def started(self, now: float, tokens: float = 0.0) -> None:
        """Count a call that starts now."""
        self._begun_at = now if self._begun_at is None else self._begun_at
        self._under_way += 1
        self._accepted += 1
        self._grow(now)
        gap = 0.0
        if self._pace is not None:
            gap = 1 / self._pace
        elif self._accepted < START:
            gap = STEP
        # A dispatcher that wakes a little late does not lose its slots.
        due = self._next if now - self._next < 0.05 else now
        self._next = due + gap
        for name, amount in _counted(tokens):
            self._buckets[name].take(now, amount)

    def finished(self, now: float, started_at: float, told: Feedback) -> None:
        """Count a call that is over. ``told`` is what came; nothing where it broke off."""
        self._under_way -= 1
        for name, quota in told.quotas.items():
            self._buckets[name].told(started_at, quota)
        if told.refused:
            self._accepted -= 1
            self._refuse(now, started_at, told.retry_after or 0.0)
        elif self._under_way + 1 >= int(self._room):
            self._room = min(self._room + GROWTH, float(self._most))

    def _refuse(self, now: float, started_at: float, retry_after: float) -> None:
        self._pause = max(self._pause, now + retry_after)
        if started_at <= self._cut_at:
            return  # it left before the last cut: one burst is one refusal
        self._cut_at, self._grown_at = now, now + retry_after
        if self._pace is None:
            since = max(now - (self._begun_at or 0.0), 0.25)
            self._pace = max(1.0, self._accepted / since) / 2
        else:
            self._refused_pace, self._pace = self._pace, self._pace * CUT
        self._next = max(self._next, now + 1 / self._pace)

    def _grow(self, now: float) -> None:
        """Probe upwards: fast below the pace that was refused, slowly near it and above."""
        passed = min(now - self._grown_at, 1.0)
        if self._pace is None or passed <= 0:
            return
        self._grown_at = now
        if self._refused_pace is None:
            self._pace *= 2 ** (passed / DOUBLING)
            return
        below = self._refused_pace * NEAR - self._pace
        if below > 0:
            self._pace += below * (1 - math.exp(-passed / APPROACH)) + self._pace * CREEP * passed
        else:
            self._pace *= 1 + 4 * CREEP * passed
        if self._pace > self._refused_pace / NEAR:  # the limit is another one now
            self._refused_pace = None


def _counted(tokens: float) -> tuple[tuple[str, float], tuple[str, float]]:
    return (("requests", 1.0), ("tokens", tokens))

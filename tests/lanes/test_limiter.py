"""The limiter against simulated providers: how quickly it goes, and how often it is refused."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_langasync.lanes.limiter import START, Feedback, Limiter, Quota, feedback

REFUSAL = 0.02
"""Seconds after which a refusal comes."""


@dataclass
class Provider:
    """A token bucket: ``rate`` calls a second, ``burst`` of them at once."""

    rate: float
    burst: float
    takes: float
    """Seconds that a call takes, more or less a tenth."""
    tells: bool = False
    """Whether headers say what is left."""
    retry_after: float | None = None
    """What a refusal asks for; None: as long as it takes until the next would be accepted."""
    refused: int = 0
    starts: list[float] = field(default_factory=list)
    pauses: list[tuple[float, float]] = field(default_factory=list)
    most: int = 0
    _level: float = 0.0
    _at: float = 0.0

    def __post_init__(self) -> None:
        self._level = self.burst

    def receive(self, now: float) -> Feedback:
        self.starts.append(now)
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        accepted = self._level >= 1
        self._level -= accepted
        reset = (self.burst - self._level) / self.rate
        quotas = {"requests": Quota(self.burst, int(self._level), reset)} if self.tells else {}
        if accepted:
            return Feedback(quotas=quotas)
        self.refused += 1
        wait = (1 - self._level) / self.rate if self.retry_after is None else self.retry_after
        return Feedback(True, wait, quotas)

    def serve(self, calls: int, limiter: Limiter, seed: int = 1) -> float:
        """Send all calls through the limiter; return when the last is answered."""
        chance, now, left = random.Random(seed), 0.0, deque(range(calls))
        under_way: list[tuple[float, int, float, Feedback]] = []
        while left or under_way:
            ready = limiter.ready_at(now) if left else None
            if ready is not None and (not under_way or ready <= under_way[0][0]):
                now = max(now, ready)
                call = left.popleft()
                limiter.started(now)
                told = self.receive(now)
                takes = REFUSAL if told.refused else self.takes * chance.uniform(0.9, 1.1)
                heapq.heappush(under_way, (now + takes, call, now, told))
                self.most = max(self.most, len(under_way))
                continue
            assert under_way, "nothing is under way, and nothing may start"
            now, call, started_at, told = heapq.heappop(under_way)
            if told.refused:
                left.appendleft(call)
                self.pauses.append((now, now + (told.retry_after or 0.0)))
            limiter.finished(now, started_at, told)
        return now


@pytest.mark.parametrize("retry_after", [None, 0.0, 1.0])
@pytest.mark.parametrize(("burst", "takes"), [(50, 0.2), (50, 1.0), (5, 0.5), (1, 0.2)])
def test_a_thousand_calls_at_fifty_a_second(
    burst: float, takes: float, retry_after: float | None
) -> None:
    for seed in range(3):
        provider = Provider(50, burst, takes, retry_after=retry_after)
        assert provider.serve(1000, Limiter(), seed) <= 1.3 * 20 + (retry_after or 0) + takes
        assert provider.refused < 0.03 * len(provider.starts)


@pytest.mark.parametrize(("burst", "takes"), [(50, 0.2), (50, 1.0), (5, 0.5), (1, 0.2)])
def test_what_headers_tell_avoids_most_refusals(burst: float, takes: float) -> None:
    provider = Provider(50, burst, takes, tells=True)
    assert provider.serve(1000, Limiter()) <= 1.15 * 20 + takes
    assert provider.refused <= 0.01 * 1000


def test_without_a_limit_all_are_soon_under_way() -> None:
    provider = Provider(1e9, 1e9, 1.0)
    assert provider.serve(300, Limiter()) < 5.5 and provider.refused == 0


def test_it_starts_with_twenty() -> None:
    limiter = Limiter()
    for number in range(START):
        ready = limiter.ready_at(float(number))
        assert ready is not None
        limiter.started(ready)
    assert limiter.ready_at(100.0) is None and limiter.under_way == START


def test_a_limit_that_rises_is_found() -> None:
    provider, limiter = Provider(10, 10, 0.2), Limiter()
    slow = provider.serve(200, limiter)
    provider = Provider(100, 10, 0.2)
    assert slow > 18 and provider.serve(1000, limiter) < 60


@given(
    rate=st.floats(1, 500),
    burst=st.integers(1, 500),
    takes=st.floats(0.05, 5),
    tells=st.booleans(),
    retry_after=st.none() | st.floats(0, 3),
    most=st.none() | st.integers(1, 60),
    calls=st.integers(1, 400),
)
@settings(max_examples=60, deadline=None)
def test_rules(
    rate: float,
    burst: int,
    takes: float,
    tells: bool,
    retry_after: float | None,
    most: int | None,
    calls: int,
) -> None:
    provider = Provider(rate, burst, takes, tells, retry_after)
    provider.serve(calls, Limiter(most))  # that it ends is the first of the rules
    assert len(provider.starts) == calls + provider.refused
    assert provider.most <= (most or 500)
    for told_at, until in provider.pauses:  # the pause is everybody's
        assert not [start for start in provider.starts if told_at < start < until - 1e-6]


NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("headers", "retry_after", "requests"),
    [
        ({}, None, None),
        ({"retry-after": "2"}, 2.0, None),
        ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5, None),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:30 GMT"}, 10.0, None),
        ({"retry-after": "soon"}, None, None),
        ({"retry-after": "-5"}, None, None),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "6m0.5s",
            },
            None,
            Quota(60, 59, 360.5),
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:40Z",
            },
            None,
            Quota(50, 0, 20.0),
        ),
        ({"x-ratelimit-limit-requests": "60"}, None, None),
        (
            {
                "x-ratelimit-limit-requests": "nan",
                "x-ratelimit-remaining-requests": "1",
                "x-ratelimit-reset-requests": "20ms",
            },
            None,
            None,
        ),
    ],
)
def test_headers(
    headers: dict[str, str], retry_after: float | None, requests: Quota | None
) -> None:
    told = feedback(False, headers, NOW)
    assert told.retry_after == retry_after and told.quotas.get("requests") == requests

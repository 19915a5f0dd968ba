"""Intervals and tests for a few dozen cases, where the normal approximation is off."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["mean", "paired_t", "sign_test", "t_interval", "wilson"]

_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def wilson(passed: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate, after Wilson (1927)."""
    if count == 0:
        return 0.0, 1.0
    rate, square = passed / count, _Z * _Z
    middle = (rate + square / (2 * count)) / (1 + square / count)
    half = (
        _Z
        / (1 + square / count)
        * math.sqrt(rate * (1 - rate) / count + square / (4 * count * count))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean, by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    middle, half = mean(values), _t(len(values) - 1) * _standard_error(values)
    return middle - half, middle + half


def paired_t(changes: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Return the 95 % interval of a mean change and how likely it is by chance (two-sided).

    Unknown (None) for fewer than two changes. Where all are equal, the sign test says how likely.
    """
    interval = t_interval(changes)
    if interval is None:
        return None, None, None
    error = _standard_error(changes)
    if error <= 1e-12 * max(map(abs, changes)):
        return *interval, sign_test(len(changes), 0) if changes[0] else 1.0
    p_value = 2 * _upper_tail(abs(mean(changes)) / error, len(changes) - 1)
    return *interval, min(1.0, p_value)


def sign_test(one_way: int, other_way: int) -> float | None:
    """Return how likely so uneven a split is by chance, two-sided and exact; None for no cases.

    Of verdicts that changed this is McNemar's test.
    """
    count = one_way + other_way
    if not count:
        return None
    ways = tail = 1  # of C(count, 0) ways
    for k in range(min(one_way, other_way)):
        ways = ways * (count - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << count))


def _standard_error(values: Sequence[float]) -> float:
    middle = mean(values)
    variance = math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def _t(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution, by bisection."""
    low, high = 0.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        if _upper_tail(middle, freedom) > 0.025:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _upper_tail(t: float, freedom: int) -> float:
    """Return P(T > t), by Simpson's rule on the angle ``atan(t / sqrt(freedom))``."""
    start, end, steps = math.atan(t / math.sqrt(freedom)), math.pi / 2, 400
    width = (end - start) / steps
    total = 0.0
    for n in range(steps + 1):
        weight = 1 if n in (0, steps) else 4 if n % 2 else 2
        total += weight * max(0.0, math.cos(start + n * width)) ** (freedom - 1)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return math.exp(log_scale) / math.sqrt(math.pi) * total * width / 3

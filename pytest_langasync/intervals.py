"""Confidence intervals for a few dozen cases, where the normal approximation is off."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["mean", "t_interval", "wilson"]

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
    middle = mean(values)
    variance = math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)
    half = _t(len(values) - 1) * math.sqrt(variance / len(values))
    return middle - half, middle + half


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

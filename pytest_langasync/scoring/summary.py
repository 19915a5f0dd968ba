"""What the values of one score come to: a mean, a rate or counts of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_langasync.scoring.statistics import mean, t_interval, wilson

__all__ = ["ScoreSummary", "summarise"]


@dataclass(frozen=True)
class ScoreSummary:
    """The values of a score over some tests; ``mean`` is None where they are labels.

    The interval is at 95 %: Student's for numbers, Wilson's for booleans (a rate, which no interval
    may carry below 0 or above 1). It is None for fewer than two numbers.
    """

    count: int
    mean: float | None = None
    interval: tuple[float, float] | None = None
    true: int | None = None
    """How many are true, where all are booleans."""
    labels: tuple[tuple[str, int], ...] = ()
    """Each label with its count, the frequent ones first."""


def summarise(values: Sequence[object]) -> ScoreSummary:
    """Add up the values of one score.

    >>> summarise([True, True, False]).true
    2
    """
    if values and all(isinstance(value, bool) for value in values):
        true = sum(map(bool, values))
        return ScoreSummary(len(values), true / len(values), wilson(true, len(values)), true)
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    if numbers and len(numbers) == len(values):
        return ScoreSummary(len(values), mean(numbers), t_interval(numbers))
    ranked = sorted(Counter(map(str, values)).items(), key=lambda pair: (-pair[1], pair[0]))
    return ScoreSummary(len(values), labels=tuple(ranked))

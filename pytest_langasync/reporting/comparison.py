"""A run against an earlier one, test by test: what changed, and whether it is more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pytest_langasync.reporting.model import (
    Comparison,
    Move,
    RunReport,
    ScoreChange,
    ScoreValue,
    TestReport,
)
from pytest_langasync.scoring.statistics import mean, paired_t, sign_test

__all__ = ["LEVEL", "compare"]

LEVEL = 0.05
"""A change less likely than this by chance alone is more than noise."""

Tests = Mapping[str, TestReport]


def compare(before: RunReport, after: RunReport) -> Comparison:
    """Return what changed from one run to another.

    Only tests that both runs judged are compared. ``p_value`` is McNemar's, exact, for verdicts;
    that of each entry of ``scores`` is the paired t test's. A score that falls counts as worse.
    ``regressions`` holds one sentence for each change for the worse that is more than noise.
    """
    old, new = before.judged(), after.judged()
    both = [name for name in new if name in old]
    worse = [name for name in both if _passed(old[name]) and not _passed(new[name])]
    better = [name for name in both if _passed(new[name]) and not _passed(old[name])]
    p_value = sign_test(len(worse), len(better))
    moves = [move for name in both for move in _moves(old[name], new[name])]
    names = sorted({name for test in both for name in new[test].scores})
    scores = [change for name in names if (change := _change(name, old, new, both))]
    return Comparison(
        baseline=before.name,
        started_at=before.started_at,
        paired=len(both),
        added=[name for name in new if name not in old],
        removed=[name for name in old if name not in new],
        newly_failing=worse,
        newly_passing=better,
        p_value=p_value,
        scores=scores,
        moves=sorted(moves, key=_size, reverse=True),
        regressions=[*_verdicts_fell(worse, better, p_value), *_scores_fell(scores)],
    )


def _passed(test: TestReport) -> bool:
    return test.outcome == "passed"


def _value(test: TestReport, name: str) -> ScoreValue:
    return test.scores[name].value if name in test.scores else None


def _moves(old: TestReport, new: TestReport) -> Iterable[Move]:
    for name in sorted(old.scores):
        before, after = _value(old, name), _value(new, name)
        if after is not None and before != after:
            yield Move(id=new.id, name=name, before=before, after=after)


def _size(move: Move) -> float:
    """How far a score moved; a label's change comes before every number's."""
    before, after = move.before, move.after
    if isinstance(before, (int, float)) and isinstance(after, (int, float)):
        return abs(after - before)
    return math.inf


def _change(name: str, old: Tests, new: Tests, both: Iterable[str]) -> ScoreChange | None:
    pairs = [(_value(old[test], name), _value(new[test], name)) for test in both]
    numbers = [
        (float(a), float(b))
        for a, b in pairs
        if isinstance(a, (int, float)) and isinstance(b, (int, float))
    ]
    if not numbers:
        return None
    before, after = (mean(values) for values in zip(*numbers, strict=True))
    low, high, p_value = paired_t([b - a for a, b in numbers])
    return ScoreChange(
        name=name,
        n=len(numbers),
        before=before,
        after=after,
        change=after - before,
        low=low,
        high=high,
        p_value=p_value,
    )


def _verdicts_fell(
    worse: Sequence[str], better: Sequence[str], p_value: float | None
) -> Iterable[str]:
    if p_value is not None and p_value < LEVEL and len(worse) > len(better):
        yield f"{len(worse)} newly failing, {len(better)} newly passing (p = {p_value:.2g})"


def _scores_fell(scores: Iterable[ScoreChange]) -> Iterable[str]:
    for one in scores:
        if one.p_value is not None and one.p_value < LEVEL and one.change < 0:
            yield (
                f"{one.name} fell from {one.before:.3g} to {one.after:.3g} "
                f"(n = {one.n}, p = {one.p_value:.2g})"
            )

"""A run against an earlier one, test by test: what changed, and whether it is more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_langasync.scoring.statistics import mean, paired_t, sign_test

__all__ = ["compare", "judged"]

LEVEL = 0.05
"""A change less likely than this by chance alone is more than noise."""

Run = Mapping[str, Any]


def compare(before: Run, after: Run) -> dict[str, Any]:
    """Return what changed from one run's account to another's, as JSON values.

    Only tests that both runs judged are compared. ``p_value`` is McNemar's, exact, for verdicts;
    that of each entry of ``scores`` is the paired t test's. A score that falls counts as worse.
    ``regressions`` holds one sentence for each change for the worse that is more than noise.
    """
    old, new = judged(before), judged(after)
    both = [name for name in new if name in old]
    worse = [name for name in both if passed(old[name]) and not passed(new[name])]
    better = [name for name in both if passed(new[name]) and not passed(old[name])]
    p_value = sign_test(len(worse), len(better))
    moves = [move for name in both for move in _moves(name, old[name], new[name])]
    scores = [_score(name, old, new, both) for name in _names(new[test] for test in both)]
    return {
        "baseline": str(before.get("name") or ""),
        "started_at": before.get("started_at"),
        "paired": len(both),
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "newly_failing": worse,
        "newly_passing": better,
        "p_value": p_value,
        "scores": [score for score in scores if score["n"]],
        "moves": sorted(moves, key=_size, reverse=True),
        "regressions": [*_verdicts_fell(worse, better, p_value), *_scores_fell(scores)],
    }


def judged(run: Run) -> dict[str, Run]:
    """Return a run's marked tests that came to a verdict, by node ID."""
    return {
        test["id"]: test
        for test in run["tests"]
        if "group" in test
        and (test.get("missed") or test.get("outcome") in ("passed", "failed", "error"))
    }


def passed(test: Run) -> bool:
    """Return a judged test's verdict."""
    return test.get("outcome") == "passed"


def _value(test: Run, name: str) -> Any:
    return (test.get("scores") or {}).get(name, {}).get("value")


def _names(tests: Iterable[Run]) -> list[str]:
    return sorted({name for test in tests for name in test.get("scores") or {}})


def _moves(test: str, old: Run, new: Run) -> Iterable[dict[str, Any]]:
    for name in _names([old]):
        before, after = _value(old, name), _value(new, name)
        if after is not None and before != after:
            yield {"id": test, "name": name, "before": before, "after": after}


def _size(move: Run) -> float:
    """How far a score moved; a label's change comes before every number's."""
    numbers = [float(v) for v in (move["before"], move["after"]) if isinstance(v, (int, float))]
    return abs(numbers[1] - numbers[0]) if len(numbers) == 2 else math.inf


def _score(name: str, old: Mapping[str, Run], new: Mapping[str, Run], both: Iterable[str]) -> Run:
    pairs = [(_value(old[test], name), _value(new[test], name)) for test in both]
    numbers = [
        (float(a), float(b))
        for a, b in pairs
        if isinstance(a, (int, float)) and isinstance(b, (int, float))
    ]
    found: dict[str, Any] = {"name": name, "n": len(numbers)}
    if numbers:
        before, after = (mean(values) for values in zip(*numbers, strict=True))
        low, high, p_value = paired_t([b - a for a, b in numbers])
        found |= {"before": before, "after": after, "change": after - before}
        found |= {"low": low, "high": high, "p_value": p_value}
    return found


def _verdicts_fell(worse: list[str], better: list[str], p_value: float | None) -> list[str]:
    if p_value is None or p_value >= LEVEL or len(worse) <= len(better):
        return []
    return [f"{len(worse)} newly failing, {len(better)} newly passing (p = {p_value:.2g})"]


def _scores_fell(scores: Iterable[Run]) -> list[str]:
    return [
        f"{one['name']} fell from {one['before']:.3g} to {one['after']:.3g} "
        f"(n = {one['n']}, p = {one['p_value']:.2g})"
        for one in scores
        if one["n"] and one["p_value"] is not None and one["p_value"] < LEVEL and one["change"] < 0
    ]

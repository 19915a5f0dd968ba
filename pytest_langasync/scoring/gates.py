"""Rates and scores of test functions, and whether they are good enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pytest_langasync.scoring.statistics import mean, wilson
from pytest_langasync.scoring.summary import summarise

__all__ = ["GateResult", "Gates"]

FEW = 10
"""Below so many samples an interval is said to be too wide to tell."""
MISSES = 5
"""How many missed tests the failure of their function names."""


@dataclass(frozen=True)
class GateResult:
    """What was required of a test function, or of the run, and what was reached."""

    gate: str
    """``min_pass_rate``, or ``min_score`` and the score's name."""
    group: str
    """The test function; empty for a gate of the whole run."""
    required: float
    reached: float | None
    """None where nothing was recorded."""
    n: int
    """How many tests count."""
    passed: bool


@dataclass
class _Group:
    """The tests of one function. ``passed`` maps each node ID to its verdict."""

    required: float = 1.0
    passed: dict[str, bool] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)
    """Why, of each test that was missed."""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return sum(self.passed.values()) / len(self.passed) if self.passed else 1.0

    def numbers(self, name: str) -> list[float]:
        values = self.scores.get(name, {}).values()
        return [float(value) for value in values if isinstance(value, (bool, int, float))]


class Gates:
    """Adds up verdicts and scores.

    ``min_pass_rate`` is required of the whole run (None for no gate), ``min_score`` of the mean of
    each named score over the whole run.
    """

    def __init__(self, min_pass_rate: float | None, min_score: Mapping[str, float]) -> None:
        self._min_pass_rate = min_pass_rate
        self._min_score = dict(min_score)
        self.deferred = 0
        """How many tests of this run are not judged yet; they stay outside every gate."""
        self._groups: dict[str, _Group] = {}

    def add(self, nodeid: str, outcome: str, data: Mapping[str, Any], why: str = "") -> None:
        """Take in the report of a call; a rerun replaces what it repeats.

        ``why`` is what a test was missed for.
        """
        missed = bool(data.get("missed"))
        if outcome == "rerun" or (outcome == "skipped" and not missed):
            return
        group = self._groups.setdefault(str(data["group"]), _Group())
        group.required = float(data["required"])
        group.passed[nodeid] = outcome == "passed"
        group.missed.pop(nodeid, None)
        if missed:
            group.missed[nodeid] = why
        for name, score in data.get("scores", {}).items():
            group.scores.setdefault(name, {})[nodeid] = score["value"]

    def results(self) -> list[GateResult]:
        """Return every gate with what was required and reached."""
        found = [
            _gate("min_pass_rate", name, group.required, group.rate, len(group.passed))
            for name, group in self._groups.items()
            if group.required < 1.0
        ]
        verdicts = [passed for group in self._groups.values() for passed in group.passed.values()]
        if self._min_pass_rate is not None and verdicts:
            rate = sum(verdicts) / len(verdicts)
            found.append(_gate("min_pass_rate", "", self._min_pass_rate, rate, len(verdicts)))
        for name, required in self._min_score.items():
            values = [v for group in self._groups.values() for v in group.numbers(name)]
            if not values and (self.deferred or not verdicts):
                continue  # nobody came to record it
            reached = mean(values) if values else None
            found.append(_gate(f"min_score {name}", "", required, reached, len(values)))
        return found

    def failed(self) -> list[tuple[str, str, list[str]]]:
        """Return (test function or gate, message, missed tests) of every gate that failed."""
        found = []
        for gate in self.results():
            if gate.passed:
                continue
            what = gate.gate.removeprefix("min_").replace("_", " ")
            reached = "never recorded" if gate.reached is None else f"{gate.reached:.3g}"
            text = f"{what} {reached}, required {gate.required:.3g} ({gate.n} tests)"
            group = self._groups.get(gate.group)
            misses = group.missed if group else {}
            told = [f"  {test}: {why}" for test, why in islice(misses.items(), MISSES)]
            more = [f"  … and {len(misses) - MISSES} more"] if len(misses) > MISSES else []
            message = "\n".join([text, *told, *more])
            found.append((gate.group or "langasync", message, list(misses)))
        return found

    def lines(self) -> Iterator[str]:
        """Yield what the terminal shows: each function that has scores, repeats or a gate."""
        for name, group in sorted(self._groups.items()):
            if not group.scores and group.required >= 1.0:
                continue
            passed, count = sum(group.passed.values()), len(group.passed)
            yield f"{name}: {passed} of {count} passed, {_rate(passed, count)}"
            for score in sorted(group.scores):
                yield f"    {score}: {self._score_line(group, score)}"

    def _score_line(self, group: _Group, name: str) -> str:
        given = list(group.scores[name].values())
        found = summarise(given)
        if found.true is not None:
            return f"{found.true} of {found.count} true, {_rate(found.true, found.count)}"
        if found.mean is None:
            return ", ".join(f"{label} {count}" for label, count in sorted(found.labels))
        few = ", too few to tell" if found.count < FEW else ""
        low_high = found.interval
        around = low_high and f" (95 % interval {low_high[0]:.3g} to {low_high[1]:.3g}{few})"
        return f"mean {found.mean:.3g}{around or ''}, {found.count} scores"


def _rate(passed: int, count: int) -> str:
    low, high = wilson(passed, count)
    few = ", too few to tell" if count < FEW else ""
    return f"{passed / count:.0%} (95 % interval {low:.0%} to {high:.0%}{few})"


def _gate(gate: str, group: str, required: float, reached: float | None, n: int) -> GateResult:
    passed = reached is not None and reached >= required - 1e-9
    return GateResult(gate, group, required, reached, n, passed)

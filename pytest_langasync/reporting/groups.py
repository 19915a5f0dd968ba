"""The tests of a run by their function: rates and scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_langasync.reporting.model import TestReport
from pytest_langasync.scoring.statistics import wilson
from pytest_langasync.scoring.summary import ScoreSummary, summarise

__all__ = ["Group", "groups_of"]


@dataclass(frozen=True)
class Group:
    """The judged tests of one function."""

    name: str
    passed: int
    count: int
    scores: Mapping[str, ScoreSummary]

    @property
    def rate(self) -> float:
        """The share of those that passed."""
        return self.passed / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the rate."""
        return wilson(self.passed, self.count)


def groups_of(tests: Iterable[TestReport]) -> list[Group]:
    """Return the functions of marked tests that came to a verdict, in their order."""
    members: dict[str, list[TestReport]] = {}
    for test in tests:
        if test.group is not None and test.judged and test.verdict != "xpassed":
            members.setdefault(test.group, []).append(test)
    return [_group(name, found) for name, found in members.items()]


def _group(name: str, tests: list[TestReport]) -> Group:
    values: dict[str, list[object]] = {}
    for test in tests:
        for score, given in test.scores.items():
            values.setdefault(score, []).append(given.value)
    passed = sum(test.verdict == "passed" for test in tests)
    scores = {score: summarise(found) for score, found in sorted(values.items())}
    return Group(name, passed, len(tests), scores)

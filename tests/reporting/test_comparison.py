"""A run against an earlier one: the figures, by hand and by their laws."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_langasync.reporting import comparison
from pytest_langasync.reporting.model import Comparison, read_report
from pytest_langasync.scoring.statistics import paired_t, sign_test


def run(**tests: tuple[str, float | str | None]) -> dict[str, Any]:
    """Return an account: test=(outcome, score)."""
    shown = []
    for name, (outcome, score) in tests.items():
        scores = {} if score is None else {"quality": {"value": score, "reason": None}}
        shown.append({"id": name, "group": "g", "outcome": outcome, "scores": scores})
    return {"name": "run", "started_at": 1.0, "tests": shown}


def compare(before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    return comparison.compare(read_report(before), read_report(after))


def test_newly_failing_and_passing() -> None:
    before = run(a=("passed", None), b=("failed", None), c=("passed", None), d=("passed", None))
    after = run(a=("failed", None), b=("passed", None), c=("error", None), e=("passed", None))
    found = compare(before, after)
    assert (found.newly_failing, found.newly_passing) == (["a", "c"], ["b"])
    assert (found.paired, found.added, found.removed) == (3, ["e"], ["d"])


def test_what_came_to_no_verdict_is_left_out() -> None:
    before = run(a=("passed", None), b=("deferred", None))
    after = run(a=("skipped", None), b=("passed", None), c=("passed", None))
    after["tests"][2].pop("group")
    found = compare(before, after)
    assert (found.paired, found.added, found.removed) == (0, ["b"], ["a"])


def test_a_miss_is_a_verdict() -> None:
    after = run(a=("skipped", None))
    after["tests"][0]["missed"] = True
    assert compare(run(a=("passed", None)), after).newly_failing == ["a"]


def test_a_score_that_falls_by_more_than_noise() -> None:
    before = run(**{f"t{n}": ("passed", 8.0 + n % 3) for n in range(12)})
    after = run(**{f"t{n}": ("passed", 6.5 + n % 3 + n % 2) for n in range(12)})
    found = compare(before, after)
    (score,) = found.scores
    assert (score.n, score.before, score.after) == (12, 9.0, 8.0)
    # scipy.stats.ttest_rel of the same numbers
    assert score.p_value == pytest.approx(3.6938e-05, rel=1e-4)
    assert found.regressions == ["quality fell from 9 to 8 (n = 12, p = 3.7e-05)"]
    assert compare(after, before).regressions == [], "a rise is no regression"


def test_verdicts_that_fell_by_more_than_noise() -> None:
    names = [f"t{n}" for n in range(8)]
    good, bad = run(**dict.fromkeys(names, ("passed", None))), run()
    bad["tests"] = [{**test, "outcome": "failed"} for test in good["tests"]]
    found = compare(good, bad)
    assert found.p_value == 2 / 2**8
    assert found.regressions == ["8 newly failing, 0 newly passing (p = 0.0078)"]
    assert compare(bad, good).regressions == []


def test_labels_move_too() -> None:
    found = compare(run(a=("passed", "good")), run(a=("passed", "bad")))
    assert [one.model_dump() for one in found.moves] == [
        {"id": "a", "name": "quality", "before": "good", "after": "bad"}
    ]
    assert found.scores == []


def test_the_largest_move_comes_first() -> None:
    before = run(a=("passed", 5.0), b=("passed", 5.0), c=("passed", 5.0))
    after = run(a=("passed", 4.0), b=("passed", 9.0), c=("passed", 5.0))
    assert [move.id for move in compare(before, after).moves] == ["b", "a"]


def test_two_equal_changes_are_too_few() -> None:
    assert paired_t([-1.0, -1.0]) == (-1.0, -1.0, 0.5)
    assert paired_t([0.0, 0.0]) == (0.0, 0.0, 1.0)
    assert paired_t([1.0]) == (None, None, None)


def test_the_sign_test_by_another_hand() -> None:
    assert sign_test(3, 10) == pytest.approx(0.092285, rel=1e-4)  # scipy.stats.binomtest(3, 13)


@given(st.integers(0, 1200), st.integers(0, 1200))
def test_the_sign_test_is_a_probability_and_symmetric(a: int, b: int) -> None:
    p = sign_test(a, b)
    assert p == sign_test(b, a)
    assert (p is None) == (a + b == 0)
    if p is not None:
        assert 0 <= p <= 1 and not math.isnan(p)
        assert a != b or p == 1


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40))
def test_the_interval_and_the_p_value_agree(changes: list[float]) -> None:
    low, high, p = paired_t(changes)
    assert low is not None and high is not None and p is not None
    assert low <= high and 0 <= p <= 1
    spread = max(changes) - min(changes)
    if spread > 1e-6 and abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (low > 0 or high < 0)

"""Scorers, ours and others', and intervals."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_langasync import scoring
from pytest_langasync.intervals import mean, t_interval, wilson
from pytest_langasync.scoring import Score, apply


def value(scorer: Any, output: Any, expected: Any = None) -> Any:
    (score,) = apply(scorer, "in", output, expected).values()
    return score.value


@pytest.mark.parametrize(
    ("scorer", "output", "expected", "score"),
    [
        (scoring.exact, " Paris\n", "Paris", True),
        (scoring.exact, {"a": 1}, {"a": 2}, False),
        (scoring.contains, "It is PARIS.", "paris", True),
        (scoring.contains, "It is Rome.", "paris", False),
        (scoring.number(), "first 3, then 4.5", None, 4.5),
        (scoring.number(r"score: (\d+)"), "score: 7 of 10", None, 7.0),
        (scoring.rating(1, 10), "I give it 9", None, 9.0),
        (scoring.close_to(0.1), "3.14", 3.1, True),
        (scoring.close_to(0.01), "3.14", 3.1, False),
        (scoring.close_to(), "no number", 3.1, False),
        (scoring.json_field("verdict.score"), '{"verdict": {"score": 3}}', None, 3),
        (scoring.json_field("0.label"), [{"label": "good"}], None, "good"),
        (lambda i, o, e: "label", "x", None, "label"),
    ],
)
def test_ours(scorer: Any, output: Any, expected: Any, score: Any) -> None:
    assert value(scorer, output, expected) == score


@pytest.mark.parametrize(
    ("scorer", "output", "text"),
    [
        (scoring.number(), "none", "no number"),
        (scoring.rating(1, 10), "11", "not between 1 and 10"),
        (scoring.json_field("a.b"), {"a": {}}, "no field 'a.b'"),
    ],
)
def test_no_score(scorer: Any, output: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        value(scorer, output)


def test_judge() -> None:
    asked: list[str] = []

    def model(text: str) -> str:
        asked.append(text)
        return "Good. 8"

    score = apply(scoring.judge("Is {output} for {input} like {expected}?", model), "i", "o", "e")
    assert score == {"score": Score(8.0, "Good. 8")} and asked == ["Is o for i like e?"]


def test_openevals_as_it_is() -> None:
    exact = pytest.importorskip("openevals.exact").exact_match
    assert apply(exact, "in", "a", "a") == {"exact_match": Score(True, None)}


def test_the_shape_of_openevals() -> None:
    def judge(*, inputs: Any, outputs: Any, reference_outputs: Any = None) -> dict[str, Any]:
        return {"key": "correctness", "score": outputs == reference_outputs, "comment": "why"}

    assert apply(judge, "in", "a", "a") == {"correctness": Score(True, "why")}


def test_pydantic_evals_as_they_are() -> None:
    evaluators = pytest.importorskip("pydantic_evals.evaluators")
    assert value(evaluators.EqualsExpected(), "a", "a") is True
    assert value(evaluators.Contains(value="b"), "abc") is True


def test_deepeval_as_it_is() -> None:
    pytest.importorskip("deepeval")
    from deepeval.metrics import BaseMetric

    class Length(BaseMetric):  # type: ignore[misc]
        threshold = 0.5

        def measure(self, test_case: Any, *args: Any, **kwargs: Any) -> float:
            self.score, self.reason = len(test_case.actual_output) / 10, "its length"
            return float(self.score)

        def is_successful(self) -> bool:
            return True

    assert apply(Length(), "in", "abcde", None) == {"Length": Score(0.5, "its length")}


@pytest.mark.parametrize("scorer", [7, lambda i, o, e: None, lambda i, o, e: object()])
def test_no_scorer(scorer: Any) -> None:
    with pytest.raises(TypeError, match=r"is no scorer|is no score"):
        apply(scorer, "in", "out", None)


def test_intervals_against_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857-872, table I: Wilson's score method.
    for passed, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                     (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson(passed, count) == pytest.approx((low, high), abs=5e-5)
    assert t_interval([1.0]) is None
    low, high = t_interval([1, 2, 3, 4, 5]) or (0, 0)
    assert (low, high) == pytest.approx(
        (3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5))
    )


@given(st.integers(1, 500), st.data())
def test_a_wilson_interval_holds_the_rate(count: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, count))
    low, high = wilson(passed, count)
    assert 0 <= low <= passed / count + 1e-12 and passed / count - 1e-12 <= high <= 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_a_t_interval_holds_the_mean(values: list[float]) -> None:
    low, high = t_interval(values) or (0.0, 0.0)
    assert low - 1e-6 <= mean(values) <= high + 1e-6

"""Scorers, ours and others', and intervals."""

from __future__ import annotations

import enum
import math
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_langasync.scoring import Score, scorers
from pytest_langasync.scoring.cases import Case
from pytest_langasync.scoring.evaluators import apply
from pytest_langasync.scoring.statistics import mean, t_interval, wilson


def value(scorer: Any, output: Any, expected: Any = None) -> Any:
    (score,) = apply(scorer, Case("in", expected), output).values()
    return score.value


@pytest.mark.parametrize(
    ("scorer", "output", "expected", "score"),
    [
        (scorers.exact, " Paris\n", "Paris", True),
        (scorers.exact, {"a": 1}, {"a": 2}, False),
        (scorers.contains, "It is PARIS.", "paris", True),
        (scorers.contains, "It is Rome.", "paris", False),
        (scorers.number(), "first 3, then 4.5", None, 4.5),
        (scorers.number(r"score: (\d+)"), "score: 7 of 10", None, 7.0),
        (scorers.number(), "1,234", None, 1234.0),
        (scorers.number(), "1,234,567.5 in all", None, 1234567.5),
        (scorers.number(), "it is .5", None, 0.5),
        (scorers.number(), "it is 1e-3", None, 0.001),
        (scorers.number(), "from -2 to -4", None, -4.0),
        (scorers.number(), "1-10", None, 10.0),
        (scorers.rating(1, 10), "I give it 9", None, 9.0),
        (scorers.rating(1, 10), "8/10", None, 8.0),
        (scorers.rating(1, 10), "10 / 10", None, 10.0),
        (scorers.rating(1, 10), "Rating: 8 out of 10.", None, 8.0),
        (scorers.rating(1, 10), "**Score: 7**\n(on a scale of 1 to 10)", None, 7.0),
        (scorers.rating(1, 10), "On a scale from 1-10: 7", None, 7.0),
        (scorers.close_to(0.1), "3.14", 3.1, True),
        (scorers.close_to(0.01), "3.14", 3.1, False),
        (scorers.close_to(), "no number", 3.1, False),
        (scorers.json_field("verdict.score"), '{"verdict": {"score": 3}}', None, 3),
        (scorers.json_field("0.label"), [{"label": "good"}], None, "good"),
        (scorers.json_field("a"), 'Sure:\n```json\n{"a": 3}\n```\n', None, 3),
        (lambda i, o, e: "label", "x", None, "label"),
    ],
)
def test_ours(scorer: Any, output: Any, expected: Any, score: Any) -> None:
    assert value(scorer, output, expected) == score


@pytest.mark.parametrize(
    ("scorer", "output", "text"),
    [
        (scorers.number(), "none", "no number"),
        (scorers.rating(1, 10), "11", "not between 1 and 10"),
        (scorers.json_field("a.b"), {"a": {}}, "no field 'a.b'"),
        (scorers.json_field("a"), {"a": None}, "'a' of the output is null"),
        (scorers.contains, "none at all", "no 'expected'"),
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

    prompt = 'Is {output} for {input} like {expected}? Reply as {"score": 1}'
    score = apply(scorers.judge(prompt, model), Case("i", "e"), "o")
    assert score == {"score": Score(8.0, "Good. 8")}
    assert asked == ['Is o for i like e? Reply as {"score": 1}']


class Message:
    """A message of parts, as LangChain gives it: its own text is in ``text`` alone."""

    content: ClassVar[list[dict[str, str]]] = [{"type": "text", "text": "8/10", "id": "msg_51"}]
    text = "8/10"


async def slowly(text: str) -> Message:
    return Message()


@pytest.mark.parametrize("model", [lambda text: Message(), slowly])
def test_a_judge_reads_the_text_of_a_reply(model: Any) -> None:
    assert value(scorers.judge("Rate it", model), "out") == 8.0


def test_a_judge_without_a_text() -> None:
    with pytest.raises(TypeError, match="gave no text"):
        value(scorers.judge("Rate it", lambda text: object()), "out")


def test_openevals_as_it_is() -> None:
    exact = pytest.importorskip("openevals.exact").exact_match
    assert apply(exact, Case("in", "a"), "a") == {"exact_match": Score(True, None)}


def test_openevals_without_an_input_of_its_own() -> None:
    create = pytest.importorskip("openevals.json").create_json_match_evaluator
    scores = apply(create(aggregator="average"), Case("in", {"a": 1}), {"a": 1})
    assert [one.value for one in scores.values()] == [1.0]


def test_the_shape_of_openevals() -> None:
    def judge(*, inputs: Any, outputs: Any, reference_outputs: Any = None) -> dict[str, Any]:
        return {"key": "correctness", "score": outputs == reference_outputs, "comment": "why"}

    assert apply(judge, Case("in", "a"), "a") == {"correctness": Score(True, "why")}


def test_pydantic_evals_as_they_are() -> None:
    evaluators = pytest.importorskip("pydantic_evals.evaluators")
    assert value(evaluators.EqualsExpected(), "a", "a") is True
    assert value(evaluators.Contains(value="b"), "abc") is True
    named = evaluators.Contains(value="b", evaluation_name="has b")
    assert list(apply(named, Case("in"), "abc")) == ["has b"]

    class Context(evaluators.Evaluator):  # type: ignore[misc]
        def evaluate(self, ctx: Any) -> dict[str, Any]:
            return {"name": ctx.name, "level": ctx.metadata["level"], "took": ctx.duration}

    case = Case("in", name="first", metadata={"level": 3})
    scores = apply(Context(), case, "out", 0.25)
    assert {k: one.value for k, one in scores.items()} == {
        "name": "first", "level": 3, "took": 0.25,
    }  # fmt: skip


def test_pydantic_evals_are_not_told_of_spans_that_nobody_recorded() -> None:
    evaluators = pytest.importorskip("pydantic_evals.evaluators")
    with pytest.raises(Exception, match="records no spans"):
        value(evaluators.HasMatchingSpan(query={"name_equals": "x"}), "out")


def test_deepeval_as_it_is() -> None:
    pytest.importorskip("deepeval")
    from deepeval.metrics import BaseMetric

    asked: list[Any] = []

    class Length(BaseMetric):  # type: ignore[misc]
        threshold = 0.5

        def measure(self, test_case: Any, *args: Any, **kwargs: Any) -> float:
            asked.append(test_case)
            self.score, self.reason = len(test_case.actual_output) / 10, "its length"
            return float(self.score)

        def is_successful(self) -> bool:
            return True

    assert list(apply(Length(), Case("in"), "abcde").values()) == [Score(0.5, "its length")]
    found = {"retrieval_context": ["a page"], "actual_output": "abc"}
    apply(Length(), Case("in", metadata={"context": ["known"]}), found)
    assert asked[-1].retrieval_context == ["a page"] and asked[-1].context == ["known"]
    assert asked[-1].actual_output == "abc"


@pytest.mark.parametrize("scorer", [7, lambda i, o, e: None, lambda i, o, e: object()])
def test_no_scorer(scorer: Any) -> None:
    with pytest.raises(TypeError, match=r"is no scorer|is no score"):
        value(scorer, "out")


class Grade(str, enum.Enum):  # noqa: UP042  (StrEnum hides what is tested)
    GOOD = "good"


class Real(float):
    def item(self) -> float:
        return float(self)


class Whole:
    """Like numpy's integers: no ``int``."""

    def item(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("given", "plain"), [(Grade.GOOD, "good"), (Real(0.5), 0.5), (Whole(), 7), (True, True)]
)
def test_scores_become_plain_data(given: Any, plain: Any) -> None:
    score = value(lambda i, o, e: given, "out")
    assert score == plain and type(score) is type(plain)


@pytest.mark.parametrize("endless", [math.nan, math.inf, 10**400])
def test_scores_are_finite(endless: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        scorers.plain_score(endless)


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

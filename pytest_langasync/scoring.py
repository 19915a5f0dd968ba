"""Scorers: any callable ``(input, output, expected) -> score`` is one. These are the plain ones.

A score is a number, a boolean or a label. Evaluators of openevals, DeepEval and pydantic-evals are
used as they are: ``apply`` knows how each of them is called and what it returns.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Score", "apply", "close_to", "contains", "exact", "json_field", "judge", "number",
           "rating"]  # fmt: skip

Value = float | int | bool | str
Scorer = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Score:
    """What a scorer found."""

    value: Value
    reason: str | None = None


def exact(input: Any, output: Any, expected: Any) -> bool:
    """Whether the output equals what was expected; texts are compared without outer space."""
    if isinstance(output, str) and isinstance(expected, str):
        return output.strip() == expected.strip()
    return bool(output == expected)


def contains(input: Any, output: Any, expected: Any) -> bool:
    """Whether what was expected occurs in the output; case does not matter."""
    return str(expected).casefold() in str(output).casefold()


def number(pattern: str = r"-?\d+(?:\.\d+)?") -> Scorer:
    """Return a scorer that takes the last number that ``pattern`` finds in the output.

    Where the pattern has a group, the group is the number. Raises ``ValueError`` for an output
    without one, which makes an errored test.
    """

    def score(input: Any, output: Any, expected: Any) -> float:
        found = list(re.finditer(pattern, str(output)))
        if not found:
            raise ValueError(f"no number in the output: {str(output)[:200]!r}")
        last = found[-1]
        return float(last[1] if last.re.groups else last[0])

    return score


def rating(lowest: float, highest: float) -> Scorer:
    """Return a scorer that takes the last number in the output, which must lie between these."""
    find = number()

    def score(input: Any, output: Any, expected: Any) -> float:
        value: float = find(input, output, expected)
        if not lowest <= value <= highest:
            raise ValueError(f"the rating {value:g} is not between {lowest:g} and {highest:g}")
        return value

    return score


def close_to(tolerance: float = 1e-6) -> Scorer:
    """Return a scorer: whether output and expectation are numbers that differ by no more."""

    def score(input: Any, output: Any, expected: Any) -> bool:
        try:
            return math.isclose(float(output), float(expected), rel_tol=0, abs_tol=tolerance)
        except (TypeError, ValueError):
            return False

    return score


def json_field(path: str) -> Scorer:
    """Return a scorer that takes a field of a JSON output: ``"verdict.score"``, ``"items.0"``.

    Raises ``ValueError`` where it is absent.
    """

    def score(input: Any, output: Any, expected: Any) -> Value:
        value = json.loads(output) if isinstance(output, str) else output
        for part in path.split("."):
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise ValueError(f"the output has no field {path!r}") from None
        return _value(value)

    return score


def judge(prompt: str, model: Any, scorer: Scorer | None = None) -> Scorer:
    """Return a scorer that asks a model; in batch mode its call joins the next wave.

    Args:
        prompt: a text with ``{input}``, ``{output}`` and ``{expected}``.
        model: a LangChain chat model, or a function from a text to a text.
        scorer: reads the model's reply; by default the last number in it.
    """
    read = scorer or number()

    def score(input: Any, output: Any, expected: Any) -> Score:
        text = prompt.format(input=input, output=output, expected=expected)
        reply = model.invoke(text) if hasattr(model, "invoke") else model(text)
        reply = getattr(reply, "content", reply)
        return Score(_value(read(input, reply, expected)), str(reply))

    return score


def apply(scorer: Any, input: Any, output: Any, expected: Any) -> dict[str, Score]:
    """Run one scorer, ours or another library's, and return its scores by name.

    Raises:
        TypeError: it is none, or what it returned is no score.
    """
    name = _name(scorer)
    if hasattr(scorer, "measure"):  # DeepEval
        return {name: _deepeval(scorer, input, output, expected)}
    if hasattr(scorer, "evaluate"):  # pydantic-evals
        return _named(name, _pydantic_evals(scorer, input, output, expected))
    if not callable(scorer):
        raise TypeError(f"{scorer!r} is no scorer: give a callable (input, output, expected)")
    if "outputs" in _parameters(scorer):  # openevals
        given = {"inputs": input, "outputs": output, "reference_outputs": expected}
        return _named(name, _finish(scorer(**{k: v for k, v in given.items() if v is not None})))
    return _named(name, _finish(scorer(input, output, expected)))


def _named(name: str, result: Any) -> dict[str, Score]:
    if isinstance(result, list):
        return {key: one for part in result for key, one in _named(name, part).items()}
    if isinstance(result, Mapping):
        if "score" in result:
            reason = result.get("comment", result.get("reason"))
            key = str(result.get("key") or name)
            return {key: Score(_value(result["score"]), None if reason is None else str(reason))}
        return {key: _score(one) for key, one in result.items()}
    return {name: _score(result)}


def _score(result: Any) -> Score:
    if isinstance(result, Score):
        return result
    value = getattr(result, "value", getattr(result, "score", result))
    reason = getattr(result, "reason", None)
    return Score(_value(value), None if reason is None else str(reason))


def _value(value: Any) -> Value:
    if isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} is no score: scores are numbers, booleans or labels")


def _deepeval(metric: Any, input: Any, output: Any, expected: Any) -> Score:
    from deepeval.test_case import LLMTestCase

    case = LLMTestCase(
        input=str(input),
        actual_output=str(output),
        expected_output=None if expected is None else str(expected),
    )
    metric.measure(case)
    return Score(_value(metric.score), getattr(metric, "reason", None))


def _pydantic_evals(evaluator: Any, input: Any, output: Any, expected: Any) -> Any:
    from pydantic_evals.evaluators import EvaluatorContext
    from pydantic_evals.otel import SpanTree

    context = EvaluatorContext(
        name=None, inputs=input, metadata=None, expected_output=expected, output=output,
        duration=0.0, _span_tree=SpanTree(), attributes={}, metrics={},
    )  # fmt: skip
    return _finish(evaluator.evaluate(context))


def _finish(result: Any) -> Any:
    if not inspect.isawaitable(result):
        return result

    async def main() -> Any:
        return await result

    return asyncio.run(main())


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _name(scorer: Any) -> str:
    name = getattr(scorer, "__name__", "") or type(scorer).__name__
    if "<locals>" in getattr(scorer, "__qualname__", "") and name in ("score", "wrapped_evaluator"):
        return "score"
    return str(name)

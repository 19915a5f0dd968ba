"""Evaluators of other libraries used as they are: how each of them is called, what it returns.

The libraries are openevals, DeepEval and pydantic-evals; anything else is a plain scorer.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.interception.event_loop import finish
from pytest_langasync.scoring import scorers
from pytest_langasync.scoring.cases import Case
from pytest_langasync.scoring.scorers import Score, plain_score

__all__ = ["apply", "check"]

METHODS = ("evaluate", "measure")
"""What evaluators of pydantic-evals and DeepEval have, which are not callable."""
FACTORIES = {
    scorers.close_to: "close_to(0.1)",
    scorers.json_field: 'json_field("score")',
    scorers.judge: "judge(prompt, model)",
    scorers.number: "number()",
    scorers.rating: "rating(1, 10)",
}
"""What makes scorers and is none, and how it is called."""


def check(scorer: Any) -> None:
    """Look at a scorer before anything is asked of a model.

    Raises:
        ConfigurationError: it cannot be called as ``apply`` does.
    """
    if any(scorer is factory for factory in FACTORIES):
        made = FACTORIES[scorer]
        raise ConfigurationError(f"scorer={scorer.__name__} makes a scorer: give {made}")
    if isinstance(scorer, type):
        raise ConfigurationError(f"scorer={scorer.__name__} is a class: give an object of it")
    if any(hasattr(scorer, name) for name in METHODS):
        return
    if not callable(scorer):
        raise ConfigurationError(
            f"scorer={scorer!r} is no scorer: give a callable (input, output, expected)"
        )
    try:
        signature = inspect.signature(scorer)
    except (TypeError, ValueError):  # some of C's own
        return
    if "outputs" in signature.parameters:  # openevals
        return
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        name = getattr(scorer, "__name__", repr(scorer))
        raise ConfigurationError(
            f"scorer={name} cannot be called with (input, output, expected): {error}"
        ) from None


def apply(scorer: Any, case: Case, output: Any, duration: float = 0.0) -> dict[str, Score]:
    """Run one scorer, ours or another library's, and return its scores by name.

    Args:
        case: its input, and what was expected.
        output: what came of it, after ``duration`` seconds.

    Raises:
        TypeError: it is no scorer, or what it returned is no score.
    """
    __tracebackhide__ = True
    name = _name(scorer)
    if hasattr(scorer, "measure"):
        return {name: _deepeval(scorer, case, output)}
    if hasattr(scorer, "evaluate"):
        return _named(name, _pydantic_evals(scorer, case, output, duration))
    if not callable(scorer):
        raise TypeError(f"{scorer!r} is no scorer: give a callable (input, output, expected)")
    parameters = _parameters(scorer)
    if "outputs" in parameters:  # openevals
        given = {"inputs": case.input, "outputs": output, "reference_outputs": case.expected}
        known = {k: v for k, v in given.items() if v is not None and k in parameters}
        return _named(name, finish(scorer(**known)))
    return _named(name, finish(scorer(case.input, output, case.expected)))


def _named(name: str, result: Any) -> dict[str, Score]:
    if isinstance(result, list):
        return {key: one for part in result for key, one in _named(name, part).items()}
    if isinstance(result, Mapping):
        if "score" in result:
            reason = result.get("comment", result.get("reason"))
            return {str(result.get("key") or name): _with_reason(result["score"], reason)}
        return {key: _score(one) for key, one in result.items()}
    return {name: _score(result)}


def _score(result: Any) -> Score:
    if isinstance(result, Score):
        return result
    value = getattr(result, "value", getattr(result, "score", result))
    if isinstance(result, (bool, int, float, str)):  # an enumeration's member has a value, too
        value = result
    return _with_reason(value, getattr(result, "reason", None))


def _with_reason(value: Any, reason: Any) -> Score:
    return Score(plain_score(value), None if reason is None else str(reason))


def _deepeval(metric: Any, case: Case, output: Any) -> Score:
    """Measure a test case made of the output, or of the fields of a mapping, and the case's own."""
    from deepeval.test_case import LLMTestCase

    fields = {
        "input": str(case.input),
        "actual_output": str(output),
        "expected_output": None if case.expected is None else str(case.expected),
    }
    for more in (case.metadata, output):
        if isinstance(more, Mapping):
            fields |= {k: v for k, v in more.items() if k in _parameters(LLMTestCase)}
    metric.measure(LLMTestCase(**fields))
    return _with_reason(metric.score, getattr(metric, "reason", None))


def _pydantic_evals(evaluator: Any, case: Case, output: Any, duration: float) -> Any:
    from pydantic_evals.evaluators import EvaluatorContext
    from pydantic_evals.otel import SpanTreeRecordingError

    spans = SpanTreeRecordingError("pytest-langasync records no spans for evaluators")
    context = EvaluatorContext(
        name=case.name or None, inputs=case.input, metadata=case.metadata,
        expected_output=case.expected, output=output, duration=duration, _span_tree=spans,
        attributes={}, metrics={},
    )  # fmt: skip
    return finish(evaluator.evaluate(context))


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _name(scorer: Any) -> str:
    if hasattr(scorer, "get_default_evaluation_name"):  # pydantic-evals
        return str(scorer.get_default_evaluation_name())
    name = getattr(scorer, "__name__", "") or type(scorer).__name__
    if "<locals>" in getattr(scorer, "__qualname__", "") and name in ("score", "wrapped_evaluator"):
        return "score"
    return str(name)

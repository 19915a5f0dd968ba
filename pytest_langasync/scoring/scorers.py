"""Scorers: any callable ``(input, output, expected) -> score`` is one. These are the plain ones.

A score is a number, a boolean or a label.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_langasync.exceptions import ScoringError
from pytest_langasync.interception.event_loop import finish

__all__ = ["Score", "close_to", "contains", "exact", "json_field", "judge", "number", "plain_score",
           "rating"]  # fmt: skip

SHOWN = 200
"""How many characters of an output that cannot be read an error shows."""

Value = float | int | bool | str
Scorer = Callable[[Any, Any, Any], Any]

NUMBER = r"(?:(?<![\w.])-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
"""Also with separated thousands and in scientific notation; the hyphen of 1-10 is no sign."""
SCALE = re.compile(
    rf"\s*(?:/|\bout of\b)\s*{NUMBER}|{NUMBER}\s*(?:-|–|\bto\b)\s*{NUMBER}", re.IGNORECASE
)
"""What a judge says beside its rating: 8/10, 8 out of 10, on a scale from 1 to 10."""


@dataclass(frozen=True)
class Score:
    """What a scorer found."""

    value: Value
    reason: str | None = None


def plain_score(value: Any) -> Value:
    """Return a score as a plain number, boolean or text, also where a library has its own types.

    Raises:
        TypeError: it is none of these.
        ValueError: it is not a finite number.
    """
    if not isinstance(value, (str, int, float)) and callable(getattr(value, "item", None)):
        value = value.item()  # a scalar of numpy's
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no score: scores are numbers, booleans or labels")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{value} is no score: scores are finite")
    return int(value) if isinstance(value, int) else float(value)


def exact(input: Any, output: Any, expected: Any) -> bool:
    """Whether the output equals what was expected; texts are compared without outer space."""
    if isinstance(output, str) and isinstance(expected, str):
        return output.strip() == expected.strip()
    return bool(output == expected)


def contains(input: Any, output: Any, expected: Any) -> bool:
    """Whether what was expected occurs in the output; case does not matter.

    Raises ``ScoringError`` for a case that expects nothing, which makes an errored test.
    """
    if expected is None:
        raise ScoringError("contains: the case has no 'expected'")
    return str(expected).casefold() in str(output).casefold()


def number(pattern: str = NUMBER) -> Scorer:
    """Return a scorer that takes the last number that ``pattern`` finds in the output.

    Where the pattern has a group, the group is the number. Raises ``ScoringError`` for an output
    without one, which makes an errored test.
    """

    def score(input: Any, output: Any, expected: Any) -> float:
        return _last_number(pattern, str(output))

    return score


def _last_number(pattern: str, text: str, what: str = "the output") -> float:
    found = list(re.finditer(pattern, text))
    if not found:
        raise ScoringError(f"no number in {what}: {text[:SHOWN]!r}")
    last = found[-1]
    return float((last[1] if last.re.groups else last[0]).replace(",", ""))


def rating(lowest: float, highest: float) -> Scorer:
    """Return a scorer that takes the last number in the output, which must lie between these.

    A scale is no rating: ``8/10``, ``8 out of 10`` and ``8, from 1 to 10`` are all 8.
    """

    def score(input: Any, output: Any, expected: Any) -> float:
        value = _last_number(NUMBER, SCALE.sub("", str(output)))
        if not lowest <= value <= highest:
            raise ScoringError(f"the rating {value:g} is not between {lowest:g} and {highest:g}")
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

    The JSON may stand in a fence of Markdown. Raises ``ScoringError`` where the field is absent.
    """

    def score(input: Any, output: Any, expected: Any) -> Value:
        value = _json(output) if isinstance(output, str) else output
        for part in path.split("."):
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise ScoringError(f"the output has no field {path!r}") from None
        if value is None:
            raise ScoringError(f"the field {path!r} of the output is null")
        return plain_score(value)

    return score


def _json(text: str) -> Any:
    try:
        return json.loads(_unfenced(text))
    except ValueError:
        raise ScoringError(f"the output is no JSON: {text[:SHOWN]!r}") from None


def _unfenced(text: str) -> str:
    fenced = re.search(r"```(?:json)?\s*\n(.*?)\n\s*```", text, re.DOTALL | re.IGNORECASE)
    return fenced[1] if fenced else text


def judge(prompt: str, model: Any, scorer: Scorer | None = None) -> Scorer:
    """Return a scorer that asks a model; in batch mode its call joins the next wave.

    Args:
        prompt: a text with ``{input}``, ``{output}`` and ``{expected}``; other braces stay.
        model: a LangChain chat model, or a function (or coroutine function) from a text to a text.
        scorer: reads the model's reply; by default the last number in it, as ``rating`` does.
    """

    def score(input: Any, output: Any, expected: Any) -> Score:
        given = {"input": input, "output": output, "expected": expected}
        text = re.sub(r"\{(input|output|expected)\}", lambda found: str(given[found[1]]), prompt)
        reply = reply_text(finish(model.invoke(text) if hasattr(model, "invoke") else model(text)))
        if scorer is None:
            text = SCALE.sub("", reply)
            return Score(_last_number(NUMBER, text, "the judge's reply"), reply)
        return Score(plain_score(finish(scorer(input, reply, expected))), reply)

    return score


def reply_text(reply: Any) -> str:
    """Return the text of a model's reply: a text, or a LangChain message of one or more parts.

    Raises ``TypeError`` for what has none.
    """
    if not isinstance(reply, str):
        text = getattr(reply, "text", None)  # a method before langchain-core 1.0
        reply = text() if callable(text) and not isinstance(text, str) else text
    if not isinstance(reply, str):
        raise TypeError("the judge's model gave no text")
    return str.__str__(reply)

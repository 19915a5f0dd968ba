"""A metric of DeepEval as the scorer, as it is; the cases come from a function."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("DEEPEVAL_TELEMETRY_OPT_OUT", "YES")
pytest.importorskip("deepeval", reason="pip install deepeval")

from deepeval.metrics import GEval
from deepeval.test_case import SingleTurnParams
from openai import OpenAI

if TYPE_CHECKING:
    from pytest_langasync import Scored

correctness = GEval(
    name="Correctness",
    model="gpt-5",
    evaluation_steps=["Rate the answer: is it what was expected?"],
    evaluation_params=[SingleTurnParams.ACTUAL_OUTPUT, SingleTurnParams.EXPECTED_OUTPUT],
    async_mode=False,
)


def answer(question: str) -> str:
    """The code under test."""
    return OpenAI().responses.create(model="gpt-5-mini", input=question).output_text


def capitals() -> list[dict[str, str]]:
    """Return the cases. A field such as ``retrieval_context`` goes into DeepEval's test case."""
    return [
        {"name": "france", "input": "What is the capital of France?", "expected": "Paris"},
        {"name": "japan", "input": "What is the capital of Japan?", "expected": "Tokyo"},
    ]


@pytest.mark.langasync(chain=answer, inputs=capitals, scorer=correctness)
def test_capitals(scored: Scored) -> None:
    """The metric's own call to a model joins the next wave."""
    assert scored.score >= 0.7, scored.reason

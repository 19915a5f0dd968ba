"""A Dataset of pydantic-evals as the inputs: it brings its evaluators along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pydantic_evals", reason="pip install pydantic-evals")

from openai import OpenAI
from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import Contains, EqualsExpected

if TYPE_CHECKING:
    from pytest_langasync import Scored

CAPITALS: Dataset[str, str] = Dataset(
    name="capitals",
    cases=[
        Case(
            name="france",
            inputs="What is the capital of France?",
            expected_output="Paris",
            evaluators=(EqualsExpected(),),
        ),
        Case(name="japan", inputs="What is the capital of Japan?"),
    ],
    evaluators=[Contains(value="o", evaluation_name="has an o")],
)


def answer(question: str) -> str:
    """The code under test."""
    return OpenAI().responses.create(model="gpt-5-mini", input=question).output_text


@pytest.mark.langasync(chain=answer, inputs=CAPITALS)
def test_capitals(scored: Scored) -> None:
    """The evaluators of the Dataset score every case, those of a case that one."""
    if scored.expected is None:
        assert scored.scores == {"has an o": True}
    else:
        assert scored.scores == {"has an o": False, "EqualsExpected": True}

"""A judge of openevals as the scorer, as it is; the cases are rows of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("openevals", reason="pip install openevals")

from langchain_openai import ChatOpenAI
from openai import OpenAI
from openevals.llm import create_llm_as_judge

if TYPE_CHECKING:
    from pytest_langasync import Scored

RUBRIC = "Rate the answer from 0 to 1.\n\nQuestion: {inputs}\nAnswer: {outputs}"
judge = create_llm_as_judge(prompt=RUBRIC, judge=ChatOpenAI(model="gpt-5"), continuous=True)


def answer(question: str) -> str:
    """The code under test."""
    return OpenAI().responses.create(model="gpt-5-mini", input=question).output_text


@pytest.mark.langasync(chain=answer, inputs="data/capitals.csv", scorer=judge)
def test_capitals(scored: Scored) -> None:
    """The file's columns are ``input``, ``expected`` and ``name``."""
    assert scored.score >= 0.7, scored.reason
    assert scored.expected in scored.output

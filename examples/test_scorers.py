"""Scores: a dataset, a chain and scorers; several samples, of which most have to pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra 'examples'")

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from openai import OpenAI

from pytest_langasync.scoring import contains, judge, rating

if TYPE_CHECKING:
    from pytest_langasync import Langasync, Scored

CASES = [
    {"input": "What is the capital of France?", "expected": "Paris", "name": "france"},
    {"input": "What is the capital of Japan?", "expected": "Tokyo", "name": "japan"},
    {"input": "Which is the tallest mountain?", "expected": "Mount Everest", "name": "mountain"},
]
JUDGE = "Rate the answer from 1 to 10.\n\nQuestion: {input}\nAnswer: {output}"

chain = ChatPromptTemplate.from_template("{question}") | ChatOpenAI(model="gpt-5-mini")
model = ChatOpenAI(model="gpt-5") | StrOutputParser()


def answer(question: str) -> str:
    """The code under test."""
    return (chain | StrOutputParser()).invoke({"question": question})


@pytest.mark.langasync(
    chain=answer,
    inputs=CASES,
    scorer={"right": contains, "quality": judge(JUDGE, model, rating(1, 10))},
)
def test_geography(scored: Scored) -> None:
    """One test for each case: the judge's call joins the second wave."""
    assert scored.scores["right"], scored.output
    assert scored.scores["quality"] >= 7, scored.reason


@pytest.mark.langasync(repeats=5, min_pass_rate=0.8)
def test_polite(langasync: Langasync) -> None:
    """Five independent samples; four of them have to pass."""
    done = OpenAI().responses.create(model="gpt-5-mini", input="Where is my parcel?")
    langasync.score("length", len(done.output_text))
    assert "please" in done.output_text.lower()

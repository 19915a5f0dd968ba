"""A LangChain chain, judged by a LangChain judge: the second call depends on the first answer.

In batch mode these tests take two waves: first all answers, then all verdicts.
"""

from __future__ import annotations

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra 'examples'")

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Verdict(BaseModel):
    """What the judge thinks of an answer."""

    score: int = Field(ge=1, le=10, description="1 is useless, 10 is perfect")
    reason: str


def make_chain() -> Runnable[dict[str, str], str]:
    """The code under test."""
    prompt = ChatPromptTemplate.from_template("Answer in a few words: {question}")
    return prompt | ChatOpenAI(model="gpt-5-mini") | StrOutputParser()


def make_judge() -> Runnable[dict[str, str], Verdict]:
    """The judge: a stronger model, and structured output."""
    prompt = ChatPromptTemplate.from_template(
        "Rate the answer to a question from 1 to 10 for correctness.\n\n"
        "Question: {question}\nAnswer: {answer}"
    )
    return prompt | ChatOpenAI(model="gpt-5").with_structured_output(Verdict)  # type: ignore[return-value]


@pytest.mark.langasync
@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "Which is the tallest mountain on Earth?"]
)
def test_answer_is_good(question: str) -> None:
    answer = make_chain().invoke({"question": question})
    verdict = make_judge().invoke({"question": question, "answer": answer})
    assert verdict.score >= 7, verdict.reason


@pytest.mark.langasync
def test_many_in_one_test() -> None:
    questions = ["What is the capital of France?", "What is the capital of Japan?"]
    answers = make_chain().batch([{"question": question} for question in questions])
    pairs = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]
    verdicts = make_judge().batch(pairs)
    assert min(verdict.score for verdict in verdicts) >= 7

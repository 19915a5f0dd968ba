"""Question/answer pairs rated from 1 to 10: as many as you like with ``--cases 1000``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from openai import OpenAI
from pydantic import BaseModel

if TYPE_CHECKING:
    from cases import Case

PROMPT = """Rate the answer to a question from 1 (wrong) to 10 (right).

Question: {question}
Answer: {answer}"""


class Rating(BaseModel):
    """The judge's rating."""

    score: int
    reason: str


@pytest.fixture(scope="module")
def client() -> OpenAI:
    """One client for the whole dataset: making one costs more than a replayed call."""
    return OpenAI()


def rate(client: OpenAI, question: str, answer: str) -> Rating:
    """The judge under test."""
    response = client.responses.parse(
        model="gpt-5-mini",
        input=PROMPT.format(question=question, answer=answer),
        text_format=Rating,
    )
    assert response.output_parsed is not None, "the judge refused"
    return response.output_parsed


@pytest.mark.langasync
def test_rating_matches_what_is_known(client: OpenAI, case: Case) -> None:
    rating = rate(client, case.question, case.answer)
    assert (rating.score >= 6) == case.correct, rating.reason

"""The plain OpenAI SDK: Responses and Chat Completions, synchronous and asynchronous."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI, OpenAI

MODEL = "gpt-5-mini"


def ask(question: str) -> str:
    """The code under test: one call, as an application would make it."""
    response = OpenAI().responses.create(
        model=MODEL,
        instructions="Answer with the name alone.",
        input=question,
    )
    return response.output_text


async def ask_all(questions: list[str]) -> list[str]:
    """The same with Chat Completions, all questions at once."""
    async with AsyncOpenAI() as client:
        completions = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": f"{question} The name alone, please."}],
                )
                for question in questions
            )
        )
    return [completion.choices[0].message.content or "" for completion in completions]


@pytest.mark.langasync
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the capital of France?", "Paris"),
        ("What is the capital of Japan?", "Tokyo"),
        ("What is the tallest mountain on Earth?", "Everest"),
    ],
)
def test_knows(question: str, expected: str) -> None:
    assert expected in ask(question)


@pytest.mark.langasync
def test_many_at_once() -> None:
    answers = asyncio.run(ask_all(["What is the capital of France?", "... the capital of Japan?"]))
    assert "Paris" in answers[0]
    assert "Tokyo" in answers[1]

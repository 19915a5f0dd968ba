"""The plain Anthropic SDK: a classifier, one call for each review, and a streamed one."""

from __future__ import annotations

import pytest
from anthropic import Anthropic

MODEL = "claude-haiku-4-5"
PROMPT = (
    "Classify the sentiment of this review as positive, negative or neutral. One word only.\n\n"
)


def classify(review: str) -> str:
    """The code under test."""
    message = Anthropic().messages.create(
        model=MODEL,
        max_tokens=50,
        messages=[{"role": "user", "content": PROMPT + review}],
    )
    return "".join(block.text for block in message.content if block.type == "text").strip().lower()


def classify_streamed(review: str) -> str:
    """The same, streamed: a batch cannot stream, so the stored answer is replayed as a stream."""
    with Anthropic().messages.stream(
        model=MODEL,
        max_tokens=50,
        messages=[{"role": "user", "content": PROMPT + review}],
    ) as stream:
        return "".join(stream.text_stream).strip().lower()


REVIEWS = [
    ("It exceeded my hopes in every way, I love it.", "positive"),
    ("It arrived broken and nobody answers my mails.", "negative"),
    ("It does what it says, no more and no less.", "neutral"),
]


@pytest.mark.langasync
@pytest.mark.parametrize(("review", "expected"), REVIEWS)
def test_sentiment(review: str, expected: str) -> None:
    assert classify(review) == expected


@pytest.mark.langasync
def test_sentiment_streamed() -> None:
    review, expected = REVIEWS[0]
    assert classify_streamed(review) == expected

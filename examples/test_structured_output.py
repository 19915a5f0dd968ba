"""Structured output: the schema goes into the batch exactly as the SDK made it."""

from __future__ import annotations

import pytest
from openai import OpenAI
from pydantic import BaseModel


class Event(BaseModel):
    """What we want to know about an invitation."""

    title: str
    city: str
    day: int
    attendees: list[str]


def extract(text: str) -> Event | None:
    """The code under test."""
    response = OpenAI().responses.parse(
        model="gpt-5-mini",
        input=f"Extract the event. `day` is the day of the month.\n\n{text}",
        text_format=Event,
    )
    return response.output_parsed


@pytest.mark.langasync
def test_extracts_an_event() -> None:
    event = extract("Ada and Grace meet at the PyData meetup in Berlin on 12 March.")
    assert event is not None
    assert event.city == "Berlin"
    assert event.day == 12
    assert sorted(event.attendees) == ["Ada", "Grace"]

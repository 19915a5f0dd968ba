"""The body in the batch is the body that real time sends, key for key."""

from __future__ import annotations

from typing import Any

import pytest
from support.suite import Suite

from pytest_langasync.models import canonical_json
from pytest_langasync.sandbox import Sandbox

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)

CASES = """
import openai, anthropic, pytest
from pydantic import BaseModel

class City(BaseModel):
    name: str
    population: int

PIXEL = "<pixel>"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
          "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "description": "Look", "strict": True,
        "parameters": SCHEMA}}
FLAT = {"type": "function", "name": "look", "description": "Look", "parameters": SCHEMA,
        "strict": True}
CLAUDE_TOOL = {"name": "look", "description": "Look", "input_schema": SCHEMA,
               "cache_control": {"type": "ephemeral"}}

def user(n):
    return [{"role": "user", "content": f"case {n}, as JSON"}]

O, A = openai.OpenAI(max_retries=0), anthropic.Anthropic(max_retries=0)
CHAT = [
    dict(),
    dict(temperature=0, top_p=0.5, seed=7),
    dict(temperature=0.0, stop=["\\n", "END"], max_tokens=5),
    dict(logprobs=True, top_logprobs=3, n=2),
    dict(tools=[TOOL], tool_choice="auto", parallel_tool_calls=False),
    dict(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look"}}),
    dict(response_format={"type": "json_object"}),
    dict(response_format={"type": "json_schema",
                          "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}),
    dict(reasoning_effort="low", max_completion_tokens=64, verbosity="low"),
    dict(metadata={"a": "b"}, store=False, user="someone", service_tier="default"),
    dict(extra_body={"unknown_key": {"deep": [1, 2.5, None, True]}, "guided_regex": "a|b"}),
    dict(logit_bias={"50256": -100}, presence_penalty=0.1, frequency_penalty=-0.25),
    dict(prediction={"type": "content", "content": "case"}),
    dict(stream=True),
    dict(stream=True, stream_options={"include_usage": True}, temperature=1),
]
RESPONSES = [
    dict(),
    dict(instructions="Be brief.", reasoning={"effort": "low", "summary": "auto"}),
    dict(tools=[FLAT], tool_choice="required", parallel_tool_calls=True),
    dict(text={"format": {"type": "json_schema", "name": "c", "schema": SCHEMA, "strict": True}}),
    dict(max_output_tokens=50, include=["reasoning.encrypted_content"], store=False),
    dict(extra_body={"unknown_key": 1}, truncation="auto"),
    dict(stream=True),
]
CLAUDE = [
    dict(),
    dict(system="Be brief."),
    dict(system=[{"type": "text", "text": "Long", "cache_control": {"type": "ephemeral"}}]),
    dict(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048),
    dict(tools=[CLAUDE_TOOL], tool_choice={"type": "tool", "name": "look"}),
    dict(tools=[CLAUDE_TOOL],
         tool_choice={"type": "auto", "disable_parallel_tool_use": True}),
    dict(stop_sequences=["END"], metadata={"user_id": "u"}),
    dict(extra_body={"unknown_key": {"x": "\\u2028 \\U0001f600"}},
         extra_headers={"anthropic-beta": "unknown-beta"}),
    dict(stream=True),
]

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(len(CHAT)))
def test_chat(n):
    made = O.chat.completions.create(model="gpt-4o-mini", messages=user(n), **CHAT[n])
    if CHAT[n].get("stream"):
        assert list(made)

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(len(RESPONSES)))
def test_responses(n):
    made = O.responses.create(model="gpt-5-mini", input=f"case {n}, as JSON", **RESPONSES[n])
    if RESPONSES[n].get("stream"):
        assert list(made)

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(len(CLAUDE)))
def test_claude(n):
    options = {"max_tokens": 64, **CLAUDE[n]}
    made = A.messages.create(model="claude-sonnet-4-5", messages=user(n), **options)
    if options.get("stream"):
        assert list(made)

@pytest.mark.langasync
def test_images():
    image = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}
    O.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}])
    A.messages.create(model="claude-sonnet-4-5", max_tokens=9, messages=[{
        "role": "user", "content": [{"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}}]}])

@pytest.mark.langasync
def test_parse():
    city = O.chat.completions.parse(
        model="gpt-4o-mini", messages=user("parse"), response_format=City)
    assert isinstance(city.choices[0].message.parsed, City)
    assert isinstance(O.responses.parse(
        model="gpt-4o-mini", input="parse", text_format=City).output_parsed, City)

@pytest.mark.langasync
@pytest.mark.parametrize("form", [{}, {"encoding_format": "float", "dimensions": 8}])
def test_embeddings(form):
    made = O.embeddings.create(model="text-embedding-3-small", input=["a", "b"], **form)
    assert len(made.data) == 2 and isinstance(made.data[0].embedding[0], float)
""".replace("<pixel>", PIXEL)

COMPANIONS = ("stream", "stream_options")


def _bodies(sandbox: Sandbox) -> list[str]:
    rows: list[dict[str, Any]] = sandbox.ledger()
    return sorted(
        canonical_json(
            [row["endpoint"], {k: v for k, v in row["body"].items() if k not in COMPANIONS}]
        )
        for row in rows
    )


@pytest.mark.filterwarnings("ignore")
def test_the_provider_receives_the_same_body_both_ways(suite: Suite, provider: Sandbox) -> None:
    suite.pytester.makepyfile(test_cases=CASES)
    count = 15 + 7 + 9 + 1 + 1 + 2
    suite.plain().assert_outcomes(passed=count)
    in_real_time = _bodies(provider)
    assert len(in_real_time) == count + 2
    assert {row["job_id"] for row in provider.ledger()} == {""}
    provider.reset()

    suite.plain("--langasync-batch", "--langasync-poll-interval=0.1").assert_outcomes(passed=count)
    assert _bodies(provider) == in_real_time
    assert all(row["job_id"] for row in provider.ledger())
    assert not any(COMPANIONS[0] in row["body"] for row in provider.ledger())

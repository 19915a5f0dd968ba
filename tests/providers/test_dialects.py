"""What a dialect reads in the bodies of its endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_langasync.providers.dialects import dialect_of

BODY = {"choices": [{"message": {"content": "Paris"}}]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"content": "one"}, {"content": "two"}]}, "two"),
        (
            {"messages": [{"content": [{"type": "text", "text": "see"}, {"type": "image"}]}]},
            "see\n[image]",
        ),
        ({"input": "hello"}, "hello"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, "hi"),
        ({"input": [{"type": "function_call_output", "output": "42"}]}, "42"),
        ({"messages": [{"content": [{"type": "tool_result", "content": "42"}]}]}, "42"),
        ({"input": [[1, 2], [3]]}, "2 inputs"),
        ({"messages": "nonsense"}, "nonsense"),
        ({}, ""),
    ],
)
def test_last_message(body: dict[str, Any], text: str) -> None:
    assert dialect_of("").last_text(body) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (BODY, "Paris"),
        (
            {
                "choices": [
                    {
                        "message": {
                            "content": None,
                            "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}],
                        }
                    }
                ]
            },
            'f({"a":1})',
        ),
        (
            {
                "output": [
                    {"type": "reasoning", "summary": []},
                    {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
                    {"type": "function_call", "name": "g", "arguments": "{}"},
                ]
            },
            "Hi\ng({})",
        ),
        (
            {
                "content": [
                    {"type": "text", "text": "Hm"},
                    {"type": "tool_use", "name": "h", "input": {"a": 1}},
                ]
            },
            "Hm\nh({'a': 1})",
        ),
        (
            {"error": {"type": "invalid_request_error", "message": "no"}},
            "invalid_request_error: no",
        ),
        ({"choices": ["nonsense", {"message": {"tool_calls": 3}}]}, ""),
        ({}, ""),
        ("<html>", "<html>"),
    ],
)
def test_answer_text(body: Any, text: str) -> None:
    assert dialect_of("").answer_text(body) == text


@pytest.mark.parametrize(
    ("endpoint", "given", "inputs"),
    [
        ("/embeddings", "one", 1),
        ("/embeddings", ["one", "two"], 2),
        ("/embeddings", [1, 2, 3], 1),
        ("/embeddings", [[1, 2], [3]], 2),
        ("/responses", [{"role": "user"}, {"role": "user"}], 1),
    ],
)
def test_inputs_of_a_request(endpoint: str, given: Any, inputs: int) -> None:
    assert dialect_of(endpoint).inputs({"input": given}) == inputs


def test_text_of_embeddings() -> None:
    assert dialect_of("/embeddings").answer_text({"data": [{}, {}]}) == "2 embeddings"

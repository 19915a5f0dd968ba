"""The sandbox's model: instances of schemas, default replies, embeddings, usage."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_langasync.sandbox.model import Model, directives
from pytest_langasync.sandbox.questions import Reply, ReplyRequest, ToolCall, read_request
from pytest_langasync.sandbox.replies import default_reply, embedding, prompt_tokens
from pytest_langasync.sandbox.schema import instance

TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
}


def numbers(draw: Any, kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    low = draw(st.integers(-50, 50))
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + 10
    if kind == "integer" and draw(st.booleans()):
        schema["multipleOf"] = draw(st.sampled_from([2, 3, 5]))
    return schema


@st.composite
def schemas(draw: Any, depth: int = 0) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "list", "format"]
    kinds += [] if depth > 2 else ["object", "array", "anyOf", "ref", "allOf"]
    kind = draw(st.sampled_from(kinds))
    sub = schemas(depth + 1)
    if kind in ("integer", "number"):
        return numbers(draw, kind)
    if kind == "string":
        low = draw(st.integers(0, 40))
        return {"type": "string", "minLength": low, "maxLength": low + draw(st.integers(0, 5))}
    if kind == "format":
        return {"type": "string", "format": draw(st.sampled_from(["date", "email", "ipv4"]))}
    if kind == "enum":
        return {"enum": draw(st.lists(st.integers() | st.text(), min_size=1, unique=True))}
    if kind == "const":
        return {"const": draw(st.integers() | st.text() | st.none())}
    if kind == "list":
        return {"type": draw(st.permutations(["null", "integer", "string"]))}
    if kind == "array":
        low = draw(st.integers(0, 3))
        return {"type": "array", "items": draw(sub), "minItems": low, "maxItems": low + 1}
    if kind == "anyOf":
        return {"anyOf": draw(st.lists(sub, min_size=1, max_size=3))}
    if kind == "ref":
        return {"$ref": "#/$defs/node"}
    names = st.text("abc_", min_size=1, max_size=3)
    properties = draw(st.dictionaries(names, sub, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    schema = {"type": "object", "properties": properties, "required": required}
    closed = {**schema, "additionalProperties": False}
    return {"allOf": [schema, {"minProperties": 1}]} if kind == "allOf" else closed


NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer", "minimum": 1, "maximum": 10},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["value", "next", "children"],
    "additionalProperties": False,
}


@settings(max_examples=300, deadline=None)
@given(schemas(), st.integers(0, 2**40))
def test_an_instance_is_valid_and_deterministic(schema: dict[str, Any], seed: int) -> None:
    schema = {**schema, "$defs": {"node": NODE}}
    value = instance(schema, seed)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)
    assert json.dumps(instance(schema, seed)) == json.dumps(value)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 10}, 8),
        ({"type": "integer", "minimum": 1, "maximum": 5}, 4),
        ({"type": "number", "minimum": 0, "maximum": 1}, 0.8),
        ({"enum": [1, 2, 3, 4, 5]}, 4),
        ({"enum": ["pass", "fail"]}, "pass"),
        ({"type": "boolean"}, True),
        ({"type": ["null", "integer"], "minimum": 3, "maximum": 3}, 3),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"type": "string", "pattern": r"^\d{3}$"}, "123"),
    ],
)
def test_an_instance_is_optimistic(schema: dict[str, Any], expected: Any) -> None:
    assert instance(schema) == expected


def test_unique_items_differ() -> None:
    for items in ({"type": "string"}, {"enum": [3, 1, 2]}, {"type": "integer", "minimum": 0}):
        schema = {"type": "array", "items": items, "minItems": 3, "uniqueItems": True}
        jsonschema.validate(instance(schema), schema)


def test_a_score_without_bounds_is_a_good_one() -> None:
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}}
    assert instance(schema) == {"score": 8}


def chat(content: Any, **more: Any) -> ReplyRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    return read_request("openai", "/chat/completions", body)


def test_the_default_reply_echoes_without_directives() -> None:
    reply = default_reply(chat("What is  [[status:429x1]] Paris?"))
    assert reply.text == "Sandbox answer to: What is Paris?"
    assert default_reply(chat("Rate this answer from 1 to 10: foo")).text == "8"
    assert (
        default_reply(chat([{"type": "text", "text": "Is it so? Answer yes or no."}])).text == "Yes"
    )


OPENAI_TOOL = {"type": "function", "function": {"name": "weather", "parameters": TOOL}}
USER = [{"role": "user", "content": "hi"}]
RESULT = {"role": "tool", "tool_call_id": "x", "content": "sunny"}


@pytest.mark.parametrize(
    ("choice", "answered", "calls"),
    [
        (None, False, True),
        (None, True, False),
        ("auto", True, False),
        ("none", False, False),
        ("required", True, True),
        ({"type": "function", "function": {"name": "weather"}}, True, True),
    ],
)
def test_tools_are_called_when_they_must_be(choice: Any, answered: bool, calls: bool) -> None:
    messages = [{"role": "user", "content": "hi"}, *([RESULT] if answered else [])]
    body = {"model": "m", "messages": messages, "tools": [OPENAI_TOOL], "tool_choice": choice}
    reply = default_reply(read_request("openai", "/chat/completions", body))
    assert bool(reply.tool_calls) is calls
    for call in reply.tool_calls:
        jsonschema.validate(call.arguments, TOOL)


def test_a_new_question_after_a_result_calls_the_tool_again() -> None:
    turns = [*USER, RESULT, {"role": "assistant", "content": "It is sunny."}, *USER]
    request = {"model": "m", "messages": turns, "tools": [OPENAI_TOOL]}
    assert default_reply(read_request("openai", "/chat/completions", request)).tool_calls


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_anthropic_tools_and_results(choice: Any) -> None:
    tool = {"name": "weather", "input_schema": TOOL}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "sunny"}
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": [result]}]
    body: dict[str, Any] = {"model": "c", "messages": messages, "tools": [tool]}
    assert not default_reply(read_request("anthropic", "/messages", body)).tool_calls
    forced = default_reply(read_request("anthropic", "/messages", {**body, "tool_choice": choice}))
    assert forced.tool_calls[0].name == "weather"


def test_directives_hold_for_the_attempts_they_name() -> None:
    assert directives("a [[status:429x2]] b", 1) == {"status": "429"}
    assert directives("a [[status:429x2]] b", 2) == {}
    assert directives("a [[expire]] b", 9) == {"expire": ""}


def answer(model: Model, body: dict[str, Any], endpoint: str = "/chat/completions") -> Any:
    provider = "anthropic" if endpoint == "/messages" else "openai"
    headers = {"anthropic-version": "2023-06-01"}
    return model.answer(provider, endpoint, body, attempt=3, batch=False, headers=headers)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello there"}], **more}


def test_a_hook_may_give_text_a_reply_a_body_an_error_or_nothing() -> None:
    said: list[Any] = [
        "text",
        Reply(tool_calls=(ToolCall("f", {"a": 1}),)),
        {"id": "mine"},
        {"error": {"message": "busy"}, "status": 503},
        None,
    ]
    seen: list[ReplyRequest] = []

    def hook(request: ReplyRequest) -> Any:
        seen.append(request)
        return said[len(seen) - 1]

    model = Model(hook)
    answers = [answer(model, body()) for _ in said]
    assert answers[0][1]["choices"][0]["message"]["content"] == "text"
    call = answers[1][1]["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call == {"name": "f", "arguments": '{"a":1}'}
    assert answers[2] == (200, {"id": "mine"})
    assert answers[3] == (503, {"error": {"message": "busy"}})
    assert answers[4][1]["choices"][0]["message"]["content"].startswith("Sandbox answer")
    assert seen[0].attempt == 3 and seen[0].prompt == "hello there"


def test_a_hook_that_raises_is_an_error_of_the_model() -> None:
    def hook(request: ReplyRequest) -> str:
        raise LookupError("no such city")

    status, answered = answer(Model(hook), body())
    assert status == 500
    assert "LookupError: no such city" in answered["error"]["message"]


def test_choices_limits_stops_and_logprobs() -> None:
    model = Model(lambda request: f"one two STOP three {request.choice}")
    _, reply = answer(model, body(n=2, stop="STOP", logprobs=True, top_logprobs=2))
    assert [c["message"]["content"] for c in reply["choices"]] == ["one two ", "one two "]
    content = reply["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == "one two "
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    _, reply = answer(model, body(max_tokens=2))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2
    _, reply = answer(model, body(max_tokens=2), "/messages")
    assert (reply["stop_reason"], reply["usage"]["output_tokens"]) == ("max_tokens", 2)
    _, reply = answer(model, body(max_tokens=50, stop_sequences=["STOP"]), "/messages")
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", "STOP")


def test_reasoning_is_counted() -> None:
    _, reply = answer(Model(), body(reasoning_effort="low"))
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 64
    thinking = {"type": "enabled", "budget_tokens": 1024}
    _, message = answer(Model(), body(max_tokens=2000, thinking=thinking), "/messages")
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]


def test_embeddings_are_unit_vectors_of_the_text() -> None:
    first = embedding("a", 64, as_base64=False)
    assert first == embedding("a", 64, as_base64=False) != embedding("b", 64, as_base64=False)
    assert isinstance(first, list) and len(first) == 64
    assert math.isclose(sum(x * x for x in first), 1, rel_tol=1e-4)


def test_an_image_does_not_count_by_its_bytes() -> None:
    url = "data:image/png;base64," + "A" * 100_000
    image = {"type": "image_url", "image_url": {"url": url}}
    assert prompt_tokens(chat([image]).body) < 200
    assert prompt_tokens(body()) < prompt_tokens(body(tools=[OPENAI_TOOL]))


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"temperature": 3}, 400, "decimal_above_max_value"),
        ({"messages": []}, 400, "empty_array"),
        ({"messages": [{"role": "robot"}]}, 400, "invalid_value"),
        ({"model": "unknown-model-1"}, 404, "model_not_found"),
        ({"model": None}, 400, None),
        ({"n": "two"}, 400, "invalid_type"),
        ({"response_format": {"type": "json_object"}}, 400, None),
        ({"tools": ["nonsense"]}, 400, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {
                "name": "s", "strict": True, "schema": TOOL}}}, 400, "invalid_json_schema",
        ),
    ],
)  # fmt: skip
def test_openai_refusals(more: dict[str, Any], status: int, code: str | None) -> None:
    got, reply = answer(Model(), body(**more))
    assert (got, reply["error"]["code"]) == (status, code)
    assert set(reply["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [("/responses", {}), ("/embeddings", {"input": ""}), ("/embeddings", {"input": ["a", ""]})],
)
def test_other_endpoints_need_their_input(endpoint: str, more: dict[str, Any]) -> None:
    assert answer(Model(), {"model": "m", **more}, endpoint)[0] == 400


DOCUMENT = [{"type": "document", "source": {"type": "text", "data": "x"}}]
CITED = [{"type": "text", "text": "x", "citations": [{"type": "char_location"}]}]


@pytest.mark.parametrize(
    ("more", "version", "batch", "says"),
    [
        ({"speed": "fast"}, 1, True, "speed: this parameter is not supported in batches"),
        ({"speed": "fast"}, 1, False, ""),
        ({"store": True}, 1, True, "store: this parameter is not supported in batches"),
        ({"stream": False}, 1, True, ""),
        ({"invented": 1}, 1, False, "invented: Extra inputs are not permitted"),
        ({"betas": ["b"]}, 1, False, "betas: Extra inputs are not permitted"),
        ({"max_tokens": 10**7}, 1, True, "max_tokens: 10000000 > 128000"),
        ({"max_tokens": 0}, 1, True, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 0}, 1, False, ""),
        ({"research_preview_2026_02": "active"}, 1, True, "not supported in batches"),
        ({"billing_policy": {"bill_to": "user_profile"}}, 1, True, "cannot be billed"),
        ({"top_k": 1}, 2, False, "top_k: Extra inputs are not permitted"),
        ({"role": "assistant", "content": DOCUMENT}, 1, False, ""),
        ({"role": "user", "content": DOCUMENT}, 2, False, ""),
        ({"role": "assistant", "content": DOCUMENT}, 2, False, "content.0: 'document' blocks"),
        ({"role": "user", "content": CITED}, 1, False, ""),
        ({"role": "user", "content": CITED}, 2, True, "messages.0.content.0.citations: Extra"),
    ],
)
def test_anthropic_refusals(more: dict[str, Any], version: int, batch: bool, says: str) -> None:
    message = {name: more.pop(name) for name in ("role", "content") if name in more}
    given = {
        "model": "c",
        "max_tokens": 9,
        "messages": [message or {"role": "user", "content": "x"}],
    }
    headers = {"anthropic-version": ("2023-06-01", "2026-10-21")[version - 1]}
    status, reply = Model().answer(
        "anthropic", "/messages", given | more, attempt=0, batch=batch, headers=headers
    )
    assert status == (400 if says else 200)
    assert not says or says in reply["error"]["message"]


def test_a_beta_brings_parameters_of_its_own() -> None:
    given = body(max_tokens=200_000, invented=1)
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "output-300k-2026-03-24"}
    for batch, status in ((True, 200), (False, 400)):
        asked: Any = ("anthropic", "/messages", given)
        assert Model().answer(*asked, attempt=0, batch=batch, headers=headers)[0] == status

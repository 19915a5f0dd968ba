"""Event streams made from stored replies, judged by the SDKs that read them."""

from __future__ import annotations

import asyncio
import copy
import json
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_langasync.providers.dialects import dialect_of

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

# What line splitters, JSON escapes and UTF-8 tend to break.
NASTY = (
    'Line\u2028sep\u2029 \x85 \x0b "q" \\ \r\n\ttab \x00 data: [DONE]\n\nevent: x '
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f600"
)
CHAT = "/chat/completions"
ASK = [{"role": "user", "content": "?"}]


def event_stream(endpoint: str, body: Any, request_body: Any) -> bytes:
    return dialect_of(endpoint).event_stream(body, request_body)


def strip_stream(endpoint: str, body: Any) -> dict[str, Any]:
    return dialect_of(endpoint).strip_stream(body)


def http_of(client_class: Any) -> Any:
    """The HTTP library under an SDK: httpx2 for the newest, httpx for older ones."""
    name = client_class.__mro__[1].__module__.split(".")[0]
    base = __import__(f"{name}._base_client", fromlist=["x"])
    return getattr(base, "httpx2", None) or base.httpx


def transport(endpoint: str, body: Any, http: Any) -> Any:
    def respond(request: Any) -> Any:
        sent = json.loads(request.content)
        assert sent["stream"] is True
        stream = event_stream(endpoint, body, sent)
        return http.Response(200, content=stream, headers={"content-type": "text/event-stream"})

    return http.MockTransport(respond)


def sync_client(kind: Any, endpoint: str, body: Any) -> Any:
    http = http_of(kind)
    return kind(api_key="k", http_client=http.Client(transport=transport(endpoint, body, http)))


def async_client(kind: Any, endpoint: str, body: Any) -> Any:
    http = http_of(kind)
    inner = http.AsyncClient(transport=transport(endpoint, body, http))
    return kind(api_key="k", http_client=inner)


def chat_body(*messages: dict[str, Any], reason: str = "stop", **choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "gpt-x-2026-01-01",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": None, "refusal": None} | message,
                "logprobs": None,
                "finish_reason": reason,
                **choice,
            }
            for index, message in enumerate(messages)
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def function_call(number: int, arguments: str) -> dict[str, Any]:
    function = {"name": "add", "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def tokens_of(text: str, size: int = 3) -> list[dict[str, Any]]:
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    return [{"token": t, "logprob": -0.5, "bytes": None, "top_logprobs": []} for t in parts]


CHATS = {
    "text": chat_body({"content": "The capital of France is Paris. " * 20}),
    "nasty text": chat_body({"content": NASTY}),
    "empty text": chat_body({"content": ""}),
    "several choices": chat_body({"content": "one"}, {"content": "two " * 30}, {"content": "3"}),
    "refusal": chat_body({"refusal": "I can't help with that, sorry. " * 3}),
    "cut off": chat_body({"content": "Once upon"}, reason="length"),
    "a function": chat_body(
        {"tool_calls": [function_call(1, '{"a": 1, "b": "%s"}' % ("x" * 80))]}, reason="tool_calls"
    ),
    "parallel functions": chat_body(
        {"content": "Both:", "tool_calls": [function_call(n, f'{{"a":{n}}}') for n in range(3)]},
        reason="tool_calls",
    ),
    "no arguments": chat_body({"tool_calls": [function_call(1, "")]}, reason="tool_calls"),
    "a tool of another kind": chat_body(
        {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sql", "input": "x"}}]},
        reason="tool_calls",
    ),
    "legacy function": chat_body(
        {"function_call": {"name": "add", "arguments": '{"a": 1, "b": "long enough"}'}},
        reason="function_call",
    ),
    "logprobs": chat_body(
        {"content": "Hello there, world"},
        logprobs={"content": tokens_of("Hello there, world"), "refusal": None},
    ),
    "logprobs of a refusal": chat_body(
        {"refusal": "No, never."}, logprobs={"content": None, "refusal": tokens_of("No, never.")}
    ),
    "logprobs that spell something else": chat_body(
        {"content": "Hello there, world"},
        logprobs={"content": tokens_of("another text"), "refusal": None},
    ),
    "annotations": chat_body(
        {"content": "See there.", "annotations": [{"type": "url_citation", "url_citation": {}}]}
    ),
    "unknown keys": {
        **chat_body(
            {"content": "Hi.", "reasoning_content": "Hm " * 20}, content_filter_results={"hate": 1}
        ),
        "x_gateway": {"region": "eu"},
    },
}


def folded_chat(chunks: list[Any]) -> dict[str, Any]:
    """Fold raw chunks by the provider's rules, with nothing of the SDK's or ours."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for entry in chunk.to_dict()["choices"]:
            choice = choices.setdefault(entry["index"], {"message": {}})
            fold_delta(choice["message"], entry.pop("delta"))
            logprobs = entry.pop("logprobs", None)
            if logprobs:
                fold_delta(choice.setdefault("logprobs", {}), logprobs)
            choice |= entry
    return {"choices": [choices[index] for index in sorted(choices)]}


def fold_delta(into: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            for call in value:
                calls = into.setdefault(key, [])
                if call["index"] == len(calls):
                    calls.append({})
                fold_delta(calls[call["index"]], {k: v for k, v in call.items() if k != "index"})
        elif isinstance(value, dict):
            fold_delta(into.setdefault(key, {}), value)
        elif into.get(key) is not None and isinstance(value, (str, list)):
            into[key] = into[key] + value
        elif value is not None or key not in into:
            into[key] = value


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v not in (None, [])}
    return [without_none(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("body", CHATS.values(), ids=CHATS)
def test_raw_chat_chunks_fold_back(body: dict[str, Any]) -> None:
    client = sync_client(openai.OpenAI, CHAT, body)
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="m", messages=ASK, stream=True, stream_options=options)
    )
    assert without_none(folded_chat(chunks)["choices"]) == without_none(body["choices"])
    assert {(c.id, c.created, c.model, c.service_tier, c.system_fingerprint) for c in chunks} == {
        ("chatcmpl-1", 1_790_000_000, "gpt-x-2026-01-01", "default", "fp_1")
    }
    assert chunks[-1].usage.to_dict() == body["usage"]
    assert chunks[-1].choices == []
    for chunk in chunks[:-1]:
        assert chunk.to_dict()["usage"] is None
    assert [c for c in chunks if getattr(c, "x_gateway", None)] == (
        chunks[:1] if "x_gateway" in body else []
    )


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {}])
def test_chat_usage_comes_only_when_asked_for(options: dict[str, Any] | None) -> None:
    stream = event_stream(CHAT, CHATS["text"], {"stream": True, "stream_options": options})
    assert b"usage" not in stream
    assert stream.endswith(b"data: [DONE]\n\n")


def test_long_texts_come_in_several_pieces_but_not_many() -> None:
    for length in (40, 400, 40_000):
        stream = event_stream(CHAT, chat_body({"content": "x" * length}), {})
        assert 2 < stream.count(b'"content":"x') <= 16


def parsed_chat(completion: Any) -> Any:
    return without_none(completion.to_dict(mode="json"))


# The helper raises on a reply that was cut off, and knows functions only, as in real time.
HELPED = set(CHATS) - {"cut off", "a tool of another kind"}


@pytest.mark.parametrize("name", sorted(HELPED))
def test_chat_stream_helper_folds_back(name: str) -> None:
    body = CHATS[name]
    expected = without_none(body)
    if name == "a function":
        assert len(event_stream(CHAT, body, {})) > 1000
    client = sync_client(openai.OpenAI, CHAT, body)
    with client.chat.completions.stream(
        model="m", messages=ASK, stream_options={"include_usage": True}
    ) as stream:
        kinds = {event.type for event in stream}
        got = parsed_chat(stream.get_final_completion())
    strip_parsed(got)
    assert got == expected
    if name == "parallel functions":
        assert {"tool_calls.function.arguments.done", "content.done"} <= kinds


def strip_parsed(completion: dict[str, Any]) -> None:
    """Take out what the helper adds to the provider's own message."""
    for choice in completion["choices"]:
        for call in choice["message"].get("tool_calls", []):
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)


def test_async_chat_helper_and_raw() -> None:
    body = CHATS["parallel functions"]

    async def run() -> Any:
        client = async_client(openai.AsyncOpenAI, CHAT, body)
        raw = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        chunks = [chunk async for chunk in raw]
        async with client.chat.completions.stream(
            model="m", messages=ASK, stream_options={"include_usage": True}
        ) as stream:
            return chunks, await stream.get_final_completion()

    chunks, completion = asyncio.run(run())
    assert without_none(folded_chat(chunks)["choices"]) == without_none(body["choices"])
    got = parsed_chat(completion)
    strip_parsed(got)
    assert got == without_none(body)


# ---- responses


def response_body(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": "completed",
        "completed_at": 1_790_000_001,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": "gpt-x",
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 11,
        },
        "metadata": {},
        **more,
    }


def message_item(*content: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {
        "type": "message",
        "id": f"msg_{number}",
        "status": "completed",
        "role": "assistant",
        "content": list(content),
    }


def text_part(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **more}


CITATION = {
    "type": "url_citation",
    "url": "https://example.com",
    "title": "T",
    "start_index": 0,
    "end_index": 2,
}
FUNCTION_ITEM = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "add",
    "arguments": '{"a": 1, "b": "some longer text"}',
    "status": "completed",
}
RESPONSES = {
    "text": response_body(message_item(text_part("Paris is the capital. " * 20))),
    "nasty text": response_body(message_item(text_part(NASTY))),
    "annotations": response_body(message_item(text_part("See", annotations=[CITATION, CITATION]))),
    "logprobs": response_body(
        message_item(text_part("Hello there", logprobs=tokens_of("Hello there")))
    ),
    "refusal": response_body(message_item({"type": "refusal", "refusal": "No. " * 10})),
    "several parts": response_body(
        message_item(text_part("one"), {"type": "refusal", "refusal": "two"}, text_part("three"))
    ),
    "functions": response_body(
        FUNCTION_ITEM, {**FUNCTION_ITEM, "id": "fc_2", "call_id": "call_2", "arguments": "{}"}
    ),
    "reasoning": response_body(
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [
                {"type": "summary_text", "text": "First I think. " * 5},
                {"type": "summary_text", "text": "Then I know."},
            ],
            "content": [{"type": "reasoning_text", "text": "All of it, in the open."}],
            "encrypted_content": "gAAA",
        },
        message_item(text_part("Hi.")),
    ),
    "built-in and unknown items": response_body(
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "x"}},
        {"type": "hologram", "id": "ho_1", "rays": [1, 2], "status": "completed"},
        {
            "type": "custom_tool_call",
            "id": "ct_1",
            "call_id": "call_9",
            "name": "sql",
            "input": "select 1 from somewhere",
        },
        {
            "type": "mcp_call",
            "id": "mcp_1",
            "name": "f",
            "server_label": "s",
            "arguments": '{"deep": "blue sea, red sky"}',
            "output": "42",
        },
        message_item({"type": "sparkle", "glow": 3}),
    ),
    "incomplete": response_body(
        message_item(text_part("Once")),
        status="incomplete",
        incomplete_details={"reason": "max_output_tokens"},
    ),
    "failed": response_body(status="failed", error={"code": "server_error", "message": "Oops"}),
    "nothing": response_body(),
}


def silent_json(value: Any) -> Any:
    """Dump an SDK object; pydantic grumbles about types it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return value.to_dict(mode="json")


def folded_output(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rebuild each item from its deltas alone."""
    items: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items)
            items.append(copy.deepcopy(event["item"]))
            continue
        if "output_index" not in event or kind.endswith(".done"):
            continue
        item = items[event["output_index"]]
        part_list = "summary" if "summary_index" in event else "content"
        if kind.endswith("part.added"):
            item[part_list].append(copy.deepcopy(event["part"]))
            continue
        number = event.get("summary_index", event.get("content_index"))
        place = item if number is None else item[part_list][number]
        if kind.endswith("annotation.added"):
            place["annotations"].append(event["annotation"])
        elif kind.endswith(".delta"):
            keys = ("text", "refusal", "arguments", "input")
            key = next(k for k in keys if k in place)
            place[key] += event["delta"]
            place.get("logprobs", []).extend(event.get("logprobs", []))
    return items


@pytest.mark.parametrize("body", RESPONSES.values(), ids=RESPONSES)
def test_responses_fold_back_both_ways(body: dict[str, Any]) -> None:
    client = sync_client(openai.OpenAI, "/responses", body)
    events = [silent_json(e) for e in client.responses.create(model="m", input="?", stream=True)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == f"response.{body['status']}"
    assert events[-1]["response"] == body
    assert events[0]["type"] == "response.created"
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["usage"] is None
    added = [e["item"] for e in events if e["type"] == "response.output_item.added"]
    assert all(item["status"] == "in_progress" for item in added if item["type"] == "message")
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert done == body["output"]
    for item, source in zip(folded_output(events), body["output"], strict=True):
        assert item == source | ({"status": item["status"]} if "status" in item else {})


@pytest.mark.parametrize("name", sorted(set(RESPONSES) - {"built-in and unknown items"}))
def test_responses_helper_folds_back(name: str) -> None:
    body = RESPONSES[name]
    client = sync_client(openai.OpenAI, "/responses", body)
    with client.responses.stream(model="m", input="?") as stream:
        events = list(stream)
        if body["status"] == "completed":
            got = silent_json(stream.get_final_response())
    if body["status"] != "completed":
        got = silent_json(events[-1].response)
    for item in got["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    assert got == body


def test_async_responses_helper() -> None:
    body = RESPONSES["text"]

    async def run() -> Any:
        client = async_client(openai.AsyncOpenAI, "/responses", body)
        async with client.responses.stream(model="m", input="?") as stream:
            return await stream.get_final_response()

    assert asyncio.run(run()).output_text == body["output"][0]["content"][0]["text"]


# ---- Anthropic messages


def message_body(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 4,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 25,
            "service_tier": "batch",
            "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
        },
        **more,
    }


PLACE = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
    "file_id": None,
}
MESSAGES = {
    "text": message_body({"type": "text", "text": "Paris is the capital. " * 20}),
    "nasty text": message_body({"type": "text", "text": NASTY}),
    "nothing": message_body(),
    "citations": message_body(
        {"type": "text", "text": "As one says,", "citations": [PLACE, {**PLACE, "cited_text": "y"}]}
    ),
    "thinking": message_body(
        {"type": "thinking", "thinking": "Let me see. " * 10, "signature": "EqQB+/=="},
        {"type": "redacted_thinking", "data": "EmwKAhgB"},
        {"type": "thinking", "thinking": "", "signature": "EqQC"},
        {"type": "text", "text": "Hi."},
    ),
    "functions": message_body(
        {"type": "text", "text": "Both:"},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": [1, -2.5e-7, None]}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
        stop_reason="tool_use",
    ),
    "server tools": message_body(
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"q": "é"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [
                {
                    "type": "web_search_result",
                    "url": "https://example.com",
                    "title": "T",
                    "encrypted_content": "e",
                    "page_age": None,
                }
            ],
        },
        {"type": "text", "text": "Found."},
    ),
    "unknown block": message_body({"type": "hologram", "rays": [1, 2], "text": "whole"}),
    "refusal": message_body(
        stop_reason="refusal",
        stop_details={"type": "refusal", "category": "cyber", "explanation": None},
    ),
    "stop sequence": message_body(
        {"type": "text", "text": "a"}, stop_reason="stop_sequence", stop_sequence="b"
    ),
}


MESSAGE: dict[str, Any] = {"model": "claude-x", "max_tokens": 9, "messages": ASK}


def fold_message(events: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {}
    inputs = ""
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            message = copy.deepcopy(event["message"])
        elif kind == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append(copy.deepcopy(event["content_block"]))
            inputs = ""
        elif kind == "content_block_delta":
            block, delta = message["content"][event["index"]], event["delta"]
            if delta["type"] == "input_json_delta":
                inputs += delta["partial_json"]
            elif delta["type"] == "citations_delta":
                block["citations"].append(delta["citation"])
            else:
                key = delta["type"].removesuffix("_delta")
                block[key] += delta[key]
        elif kind == "content_block_stop" and inputs:
            message["content"][event["index"]]["input"] = json.loads(inputs)
        elif kind == "message_delta":
            message |= event["delta"]
            message["usage"] = event["usage"]
    return message


@pytest.mark.parametrize("body", MESSAGES.values(), ids=MESSAGES)
def test_raw_message_events_fold_back(body: dict[str, Any]) -> None:
    client = sync_client(anthropic.Anthropic, "/messages", body)
    events = [silent_json(event) for event in client.messages.create(**MESSAGE, stream=True)]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["stop_reason"] is None
    assert events[0]["message"]["usage"]["output_tokens"] == 1
    assert events[-1]["type"] == "message_stop"
    assert fold_message(events) == body


@pytest.mark.parametrize("body", MESSAGES.values(), ids=MESSAGES)
def test_message_helper_folds_back(body: dict[str, Any]) -> None:
    client = sync_client(anthropic.Anthropic, "/messages", body)
    with client.messages.stream(**MESSAGE) as stream:
        got = silent_json(stream.get_final_message())
    assert without_none(got) == without_none(body)


def test_inputs_open_with_an_empty_piece() -> None:
    stream = event_stream("/messages", MESSAGES["functions"], {}).decode()
    assert stream.count('"partial_json":""') == 2


def test_async_message_helper_and_raw() -> None:
    body = MESSAGES["functions"]

    async def run() -> Any:
        client = async_client(anthropic.AsyncAnthropic, "/messages", body)
        raw = await client.messages.create(**MESSAGE, stream=True)
        events = [silent_json(event) async for event in raw]
        async with client.messages.stream(**MESSAGE) as stream:
            return events, await stream.get_final_message()

    events, message = asyncio.run(run())
    assert fold_message(events) == body
    assert without_none(silent_json(message)) == without_none(body)


def test_beta_only_parts_fold_back() -> None:
    blocks = (
        {"type": "compaction", "content": "So far: " + NASTY, "encrypted_content": "e=="},
        {
            "type": "mcp_tool_use",
            "id": "mcptoolu_1",
            "name": "f",
            "server_name": "s",
            "input": {"a": 1},
        },
    )
    managed = {"applied_edits": []}
    body = message_body(*blocks, context_management=managed)
    client = sync_client(anthropic.Anthropic, "/messages", body)
    with client.beta.messages.stream(**MESSAGE) as stream:
        got = silent_json(stream.get_final_message())
    assert got["content"] == list(blocks)
    assert got["context_management"] == managed


# ---- LangChain


def folded_langchain(model: Any) -> Any:
    chunks = list(model.stream("?"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


def test_langchain_openai_chat_and_responses() -> None:
    lc = pytest.importorskip("langchain_openai")
    body = CHATS["parallel functions"]
    http = http_of(openai.OpenAI)

    def model(endpoint: str, reply: Any, **more: Any) -> Any:
        inner = http.Client(transport=transport(endpoint, reply, http))
        client = openai.OpenAI(api_key="k", http_client=inner)
        return lc.ChatOpenAI(
            model="m",
            api_key="k",
            root_client=client,
            client=client.chat.completions,
            stream_usage=True,
            **more,
        )

    total = folded_langchain(model(CHAT, body))
    assert total.text == "Both:"
    assert [call["args"] for call in total.tool_calls] == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert total.usage_metadata["total_tokens"] == 11
    answer = folded_langchain(model("/responses", RESPONSES["reasoning"], use_responses_api=True))
    assert answer.text == "Hi."
    reasoning = answer.content[0]
    assert [part["text"] for part in reasoning["summary"]] == [
        "First I think. " * 5,
        "Then I know.",
    ]
    assert reasoning["encrypted_content"] == "gAAA"
    calls = folded_langchain(model("/responses", RESPONSES["functions"], use_responses_api=True))
    assert [call["args"] for call in calls.tool_calls] == [{"a": 1, "b": "some longer text"}, {}]
    assert calls.usage_metadata["total_tokens"] == 11


def test_langchain_anthropic() -> None:
    lc = pytest.importorskip("langchain_anthropic")
    thinking = {"type": "enabled", "budget_tokens": 1024}
    for body in (MESSAGES["functions"], MESSAGES["thinking"]):
        model = lc.ChatAnthropic(model="claude-x", api_key="k", thinking=thinking)
        model.__dict__["_client"] = sync_client(anthropic.Anthropic, "/messages", body)
        total = folded_langchain(model)
        texts = [block["text"] for block in body["content"] if block["type"] == "text"]
        assert total.text == "".join(texts)
        uses = [block["input"] for block in body["content"] if block["type"] == "tool_use"]
        assert [call["args"] for call in total.tool_calls] == uses
        thoughts = [b for b in body["content"] if "thinking" in b["type"]]
        got = [b for b in total.content if "thinking" in b["type"]]
        assert [{k: v for k, v in b.items() if k != "index"} for b in got] == thoughts
        assert total.usage_metadata["output_tokens"] == 25


# ---- properties

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
quiet = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@quiet
@given(texts, st.lists(texts, max_size=3), texts)
def test_any_chat_folds_back(content: str, arguments: list[str], refusal: str) -> None:
    calls = [function_call(n, text) for n, text in enumerate(arguments)]
    body = chat_body({"content": content, "refusal": refusal, "tool_calls": calls})
    client = sync_client(openai.OpenAI, CHAT, body)
    chunks = list(client.chat.completions.create(model="m", messages=ASK, stream=True))
    assert without_none(folded_chat(chunks)["choices"]) == without_none(body["choices"])


@quiet
@given(texts, st.dictionaries(texts, values, max_size=4), texts, texts)
def test_any_message_folds_back(
    text: str, arguments: dict[str, Any], thought: str, signature: str
) -> None:
    body = message_body(
        {"type": "thinking", "thinking": thought, "signature": signature},
        {"type": "text", "text": text},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": arguments},
    )
    client = sync_client(anthropic.Anthropic, "/messages", body)
    with client.messages.stream(**MESSAGE) as stream:
        got = silent_json(stream.get_final_message())
    assert without_none(got) == without_none(body)


@quiet
@given(texts, texts)
def test_any_response_folds_back(text: str, arguments: str) -> None:
    body = response_body(message_item(text_part(text)), {**FUNCTION_ITEM, "arguments": arguments})
    client = sync_client(openai.OpenAI, "/responses", body)
    events = [silent_json(e) for e in client.responses.create(model="m", input="?", stream=True)]
    message, call = folded_output(events)
    assert message["content"][0]["text"] == text
    assert call["arguments"] == arguments


@given(st.text(), st.sampled_from([CHAT, "/responses", "/messages"]))
def test_a_stream_is_plain_ascii(text: str, endpoint: str) -> None:
    bodies = {
        CHAT: chat_body({"content": text}),
        "/responses": response_body(message_item(text_part(text))),
        "/messages": message_body({"type": "text", "text": text}),
    }
    lines = event_stream(endpoint, bodies[endpoint], {}).decode("ascii").split("\n")
    assert all(line == "" or line.startswith(("data: ", "event: ")) for line in lines)


# ---- the request


def test_strip_stream_keeps_all_else_in_order() -> None:
    body = {"z": 1, "stream": True, "a": {"stream": True}, "stream_options": {}, "m": None}
    assert list(strip_stream(CHAT, body).items()) == [
        ("z", 1),
        ("a", {"stream": True}),
        ("m", None),
    ]
    assert strip_stream("/responses", body) == {"z": 1, "a": {"stream": True}, "m": None}
    assert "stream_options" in strip_stream("/messages", body)
    assert "stream" not in strip_stream("/messages", body)
    assert body["stream"] is True


def test_an_endpoint_without_streams_is_refused() -> None:
    with pytest.raises(ValueError, match="/embeddings"):
        event_stream("/embeddings", {}, {})

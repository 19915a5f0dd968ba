"""The sandbox's real-time endpoints, through the official SDKs; its processes and files."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from support.sandbox_clients import USER, age, ant, line, oai, params, read, submit

from pytest_langasync.sandbox import Sandbox
from pytest_langasync.sandbox.state import State

TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "sandbox") as sandbox:
        yield sandbox


# Real time


def test_real_time_through_both_sdks(sandbox: Sandbox) -> None:
    chat = oai(sandbox).chat.completions.create(model="gpt-x", messages=USER)
    assert chat.choices[0].message.content == f"Sandbox answer to: {USER[0]['content']}"
    assert chat.model == "gpt-x" and chat._request_id
    answer = oai(sandbox).responses.create(model="gpt-x", input="hi")
    assert answer.output_text == "Sandbox answer to: hi" and answer._request_id
    message = ant(sandbox).messages.create(**params())
    assert message.content[0].text == "Sandbox answer to: hi"
    assert message.usage.service_tier == "standard" and message._request_id


def test_embeddings_in_the_encoding_asked_for(sandbox: Sandbox) -> None:
    client = oai(sandbox)
    default = client.embeddings.create(model="e", input=["a", "b"], dimensions=8)
    floats = client.embeddings.create(model="e", input="a", dimensions=8, encoding_format="float")
    assert default.data[0].embedding == pytest.approx(floats.data[0].embedding)
    assert default.data[0].embedding != default.data[1].embedding
    sent = [entry["body"].get("encoding_format") for entry in sandbox.ledger()]
    assert sent == ["base64", "float"]
    raw = httpx.post(f"{sandbox.url}/v1/embeddings", json={"model": "e", "input": "a"},
                     headers={"authorization": "Bearer k"})  # fmt: skip
    assert isinstance(raw.json()["data"][0]["embedding"], list)


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": TOOL_SCHEMA}}]


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}, {"n": 2}, {"logprobs": True}])
def test_a_chat_stream_folds_to_the_message(sandbox: Sandbox, more: Any) -> None:
    client, given = oai(sandbox), {"model": "m", "messages": USER, **more}
    whole = client.chat.completions.create(**given)
    with client.chat.completions.stream(**given, stream_options={"include_usage": True}) as stream:
        folded = stream.get_final_completion()
    assert len(folded.choices) == len(whole.choices)
    for got, want in zip(folded.choices, whole.choices, strict=True):
        assert (got.message.content or None) == (want.message.content or None)
        assert got.finish_reason == want.finish_reason
        calls = [[c.function for c in part.message.tool_calls or ()] for part in (got, want)]
        assert [f.arguments for f in calls[0]] == [f.arguments for f in calls[1]]
        assert (got.logprobs is None) == (want.logprobs is None)
    assert folded.usage == whole.usage


@pytest.mark.parametrize(
    "more",
    [{}, {"reasoning": {"effort": "low"}}, {"max_output_tokens": 2},
     {"tools": [{"type": "function", "name": "weather", "parameters": TOOL_SCHEMA}]}],
)  # fmt: skip
def test_a_responses_stream_folds_to_the_response(sandbox: Sandbox, more: Any) -> None:
    client = oai(sandbox)
    whole = client.responses.create(model="m", input="hi there, model", **more)
    with client.responses.stream(model="m", input="hi there, model", **more) as stream:
        for _ in stream:
            pass
        folded = stream.get_final_response() if whole.status == "completed" else None
    if folded is not None:
        kept = {"usage", "status"}
        assert folded.model_dump(include=kept) == whole.model_dump(include=kept)
        assert folded.output_text == whole.output_text
        assert [item.type for item in folded.output] == [item.type for item in whole.output]


def test_responses_events_are_numbered(sandbox: Sandbox) -> None:
    events = list(oai(sandbox).responses.create(model="m", input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]


def test_a_message_stream_folds_to_the_message(sandbox: Sandbox) -> None:
    tool = {"name": "weather", "input_schema": TOOL_SCHEMA}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    cases: list[dict[str, Any]] = [{}, {"tools": [tool]}, {"thinking": thinking}]
    for more in cases:
        given = params(max_tokens=2000, **more) if "thinking" in more else params(**more)
        given["max_tokens"] = 2000
        whole = ant(sandbox).messages.create(**given)
        with ant(sandbox).messages.stream(**given) as stream:
            folded = stream.get_final_message()
        names = ("type", "text", "input", "thinking")
        # Each purchase has a signature of its own.
        got, want = ([[getattr(block, name, None) for name in names] for block in message.content]
                     for message in (folded, whole))  # fmt: skip
        assert got == want
        keep = {"stop_reason", "usage"}
        assert folded.model_dump(include=keep) == whole.model_dump(include=keep)


def test_asynchronous_clients(sandbox: Sandbox) -> None:
    asyncio.run(use_asynchronous_clients(sandbox))


async def use_asynchronous_clients(sandbox: Sandbox) -> None:
    async with openai.AsyncOpenAI(base_url=f"{sandbox.url}/v1", api_key="k") as client:
        stream = await client.chat.completions.create(model="m", messages=USER, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
    assert text.endswith("France?")
    async with anthropic.AsyncAnthropic(base_url=sandbox.url, api_key="k") as other:
        message = await other.messages.create(**params())
    assert message.stop_reason == "end_turn"


def test_structured_output_through_the_sdks(sandbox: Sandbox) -> None:
    import pydantic

    class Verdict(pydantic.BaseModel):
        reasoning: str
        score: int

    parsed = oai(sandbox).chat.completions.parse(
        model="m",
        messages=USER,
        response_format=Verdict,
    )
    assert parsed.choices[0].message.parsed and parsed.choices[0].message.parsed.score == 8
    response = oai(sandbox).responses.parse(model="m", input="hi", text_format=Verdict)
    assert response.output_parsed and response.output_parsed.score == 8
    schema = {**Verdict.model_json_schema(), "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}}
    message = ant(sandbox).messages.create(**params(output_config=config))
    assert Verdict.model_validate_json(message.content[0].text).score == 8


def test_keys_and_their_errors(sandbox: Sandbox) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        oai(sandbox, "invalid-key").batches.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(anthropic.AuthenticationError):
        ant(sandbox, "invalid-key").messages.create(**params())
    old = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    sampled = params(temperature=0)
    url = f"{sandbox.url}/v1/messages"
    assert httpx.post(url, headers=old, json=sampled).status_code == 200
    new = {"authorization": "Bearer k", "anthropic-version": "2026-10-21"}
    refusal = httpx.post(url, headers=new, json=sampled)
    assert refusal.status_code == 400 and "temperature" in refusal.text
    assert httpx.post(url, headers={"x-api-key": "k"}, json=sampled).status_code == 400
    assert httpx.get(f"{sandbox.url}/v1/batches").status_code == 401
    assert httpx.get(f"{sandbox.url}/v1/batches", headers={"api-key": "k"}).status_code == 200
    batches = httpx.get(f"{url}/batches", headers={"x-api-key": "k"})
    assert batches.status_code == 400 and "anthropic-version" in batches.text


def test_no_key_reaches_the_disk_or_the_ledger(sandbox: Sandbox, tmp_path: Path) -> None:
    oai(sandbox).chat.completions.create(model="m", messages=USER)
    batch = submit(oai(sandbox), [line("a")])
    oai(sandbox).batches.retrieve(batch.id)
    old = {"x-api-key": "sk-secret-x", "anthropic-version": "2023-06-01"}
    requests = [{"custom_id": "a", "params": params()}]
    url = f"{sandbox.url}/v1/messages/batches"
    assert httpx.post(url, headers=old, json={"requests": requests}).status_code == 200
    assert {entry["headers"]["user-agent"][:6] for entry in sandbox.ledger()} == {"OpenAI"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert not [path for path in files if b"sk-secret" in path.read_bytes()]


def test_unknown_paths_and_bodies_get_the_providers_errors(sandbox: Sandbox) -> None:
    headers = {"authorization": "Bearer k", "anthropic-version": "2023-06-01"}
    missing = httpx.get(f"{sandbox.url}/v1/nothing", headers=headers)
    assert missing.status_code == 404 and "error" in missing.json()
    other = httpx.put(f"{sandbox.url}/v1/messages", headers=headers)
    assert other.json()["type"] == "error"
    broken = httpx.post(f"{sandbox.url}/v1/messages", headers=headers, content=b"{")
    assert broken.json()["error"]["type"] == "invalid_request_error"
    assert broken.json()["request_id"] == broken.headers["request-id"]
    sandbox.set_faults({"http": [{"status": 529}]})
    busy = httpx.post(f"{sandbox.url}/v1/messages", headers=headers, json=params())
    assert busy.json()["request_id"] == busy.headers["request-id"] != broken.headers["request-id"]


# Processes and time


def test_a_batch_outlives_its_sandbox(tmp_path: Path) -> None:
    with Sandbox(tmp_path, latency=3600) as first:
        made = submit(oai(first), [line("a")]).id
    with Sandbox(tmp_path, reply=lambda request: "from the second") as second, \
            Sandbox(tmp_path) as third:  # fmt: skip
        assert oai(third).batches.retrieve(made).status == "in_progress"
        age(third, made)
        batch = oai(second).batches.retrieve(made)
        content = read(oai(third), batch.output_file_id)["a"]["response"]["body"]["choices"]
        assert content[0]["message"]["content"] == "from the second"
        assert len(third.ledger()) == 1


def test_many_pollers_of_two_sandboxes_buy_once(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as one, Sandbox(tmp_path) as two, ThreadPoolExecutor(8) as pool:
        client = oai(one)
        made = submit(client, [line(f"r{n}") for n in range(300)]).id
        list(pool.map(lambda n: oai((one, two)[n % 2]).batches.retrieve(made), range(8)))
        assert client.batches.retrieve(made).status == "completed"
        assert len(one.ledger()) == 300


def test_two_writers_wait_for_each_other(tmp_path: Path) -> None:
    states = [State(tmp_path), State(tmp_path)]
    states[0].set_faults({"http": [{"nth": 3, "count": 400}]})

    def hit(state: State) -> int:
        return sum(state.http_fault("GET /") is not None for _ in range(300))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(hit, states)) == 400
    for state in states:
        state.close()


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "pytest_langasync.sandbox", "--dir", str(tmp_path / "s")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_process_loses_nothing(spawn: Callable[[], Any]) -> None:
    process, url = spawn()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="k")
    made = submit(client, [line("a")]).id
    process.send_signal(signal.SIGKILL)
    process.wait()
    process, url = spawn()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="k")
    assert client.batches.retrieve(made).status == "completed"
    bought = httpx.get(f"{url}/_sandbox/ledger").json()
    assert [entry["custom_id"] for entry in bought] == ["a"]
    assert httpx.get(f"{url}/_sandbox/requests").json()["counts"]["POST /v1/batches"] == 1
    assert httpx.post(f"{url}/_sandbox/reset").status_code == 200
    assert httpx.get(f"{url}/_sandbox/ledger").json() == []
    process.terminate()
    assert process.wait() == 0


def test_identical_bodies_are_told_apart_by_attempt(tmp_path: Path) -> None:
    with Sandbox(tmp_path, reply=lambda request: str(request.attempt)) as sandbox:
        client = oai(sandbox)
        replies: list[Any] = [client.chat.completions.create(model="m", messages=USER)
                              for _ in range(3)]  # fmt: skip
        assert [reply.choices[0].message.content for reply in replies] == ["0", "1", "2"]
        assert len({reply.id for reply in replies}) == 3


def test_forwarding_to_another_server(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "back", reply=lambda request: "from behind") as back:
        forward = f"{back.url}/v1"
        with Sandbox(tmp_path / "front", forward_url=forward) as front:
            client = oai(front)
            # The caller's key must not travel: the server behind refuses a call without one.
            with pytest.raises(openai.AuthenticationError):
                client.chat.completions.create(model="m", messages=USER)
            with pytest.raises(anthropic.AuthenticationError):
                ant(front).messages.create(**params())
    gone = pytest.raises(openai.InternalServerError, match="ConnectError")
    with Sandbox(tmp_path / "alone", forward_url=forward) as front, gone:
        oai(front).responses.create(model="m", input="hi")


def test_an_answer_that_cannot_be_streamed_is_an_error(tmp_path: Path) -> None:
    said = pytest.raises(openai.InternalServerError, match="cannot be streamed: KeyError")
    with Sandbox(tmp_path, reply=lambda request: {"id": "no choices"}) as sandbox, said:
        oai(sandbox).chat.completions.create(model="m", messages=USER, stream=True)


def test_importing_the_sandbox_loads_no_server() -> None:
    code = (
        "import sys, pytest_langasync.sandbox;"
        "print([m for m in ('starlette', 'uvicorn', 'httpx', 'pydantic', 'openai', 'filelock')"
        " if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"

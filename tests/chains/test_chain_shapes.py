"""Chains of every shape, as a batch and by ``invoke``: same results, same bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from pytest_langasync import wrap_chain
from pytest_langasync.models import canonical_json
from pytest_langasync.sandbox import Sandbox

INPUTS = [{"x": "rivers"}, {"x": "lakes"}, {"x": "seas"}]


class City(BaseModel):
    name: str
    people: int


@tool
def depth(name: str) -> str:
    """Return the depth of a river or lake."""
    return f"{name} is 7 m deep"


def ask(text: str = "Say {x}", **options: Any) -> Any:
    model = ChatOpenAI(model="gpt-4o-mini", temperature=0, max_retries=0, **options)
    return ChatPromptTemplate.from_template(text) | model | StrOutputParser()


def claude(text: str = "Tell {x}") -> Any:
    model = ChatAnthropic(model="claude-haiku-4-5", max_tokens=50, max_retries=0)
    return ChatPromptTemplate.from_template(text) | model | StrOutputParser()


def rename(value: Any) -> dict[str, Any]:
    return {"x": value}


def structured() -> Any:
    model = ChatOpenAI(model="gpt-4o-mini").with_structured_output(City)
    return ChatPromptTemplate.from_template("A city of {x}") | model


def retrieval() -> Any:
    embeddings: Embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False)

    def nearest(value: dict[str, Any]) -> str:
        texts = ["deep water", "dry land"]
        vectors, asked = embeddings.embed_documents(texts), embeddings.embed_query(value["x"])
        likeness = [sum(a * b for a, b in zip(v, asked, strict=True)) for v in vectors]
        return texts[likeness.index(max(likeness))]

    return RunnableLambda(nearest) | rename | ask()


def agent() -> Any:
    model = ChatOpenAI(model="gpt-4o-mini").bind_tools([depth], tool_choice="depth")
    last = ChatOpenAI(model="gpt-4o-mini")

    def run(value: dict[str, Any]) -> Any:
        messages: list[Any] = [HumanMessage(f"How deep is {value['x']}?")]
        reply = model.invoke(messages)
        messages.append(reply)
        for call in reply.tool_calls:
            messages.append(ToolMessage(depth.invoke(call["args"]), tool_call_id="call_1"))
        messages[1].tool_calls[0]["id"] = "call_1"
        messages[1].additional_kwargs.clear()
        return last.invoke(messages).content

    return run


def parser_that_asks() -> Any:
    def fix(text: str) -> Any:
        try:
            return JsonOutputParser().parse(text)
        except ValueError:
            return ask("Repair this: {x}").invoke({"x": text})

    return ask() | fix


def asynchronous_only() -> Any:
    async def later(text: str) -> str:
        await asyncio.sleep(0)
        return text.upper()

    def never(text: str) -> str:
        raise NotImplementedError("use ainvoke")

    return ask() | RunnableLambda(never, afunc=later)


def plain_function() -> Any:
    def run(value: dict[str, Any]) -> str | None:
        with openai.OpenAI() as client:
            message: Any = [{"role": "user", "content": value["x"]}]
            done = client.chat.completions.create(
                model="gpt-4o", messages=message, seed=7, extra_body={"unknown_key": 1}
            )
        return done.choices[0].message.content

    return run


def coroutine_function() -> Any:
    async def run(value: dict[str, Any]) -> list[str]:
        return list(await asyncio.gather(ask().ainvoke(value), ask("Also {x}").ainvoke(value)))

    return run


@dataclass(frozen=True)
class Shape:
    make: Callable[[], Any]
    waves: int = 1
    failing: int = 0


SHAPES = {
    "prompt, model, parser": Shape(ask),
    "structured output": Shape(structured),
    "two models in sequence": Shape(lambda: ask() | rename | claude(), waves=2),
    "parallel": Shape(lambda: RunnableParallel(a=ask("A {x}"), b=ask("B {x}"), c=claude())),
    "assign": Shape(lambda: RunnablePassthrough.assign(y=ask()) | ask("Judge {y} of {x}"), waves=2),
    "branch": Shape(
        lambda: RunnableBranch((lambda v: v["x"] == "seas", claude()), ask("Other {x}"))
    ),
    "map": Shape(lambda: RunnableLambda(lambda v: [v, {"x": v["x"] * 2}]) | ask().map()),
    "retry": Shape(lambda: ask().with_retry(stop_after_attempt=2)),
    "fallback": Shape(
        lambda: ask("[[status:400]] {x}").with_fallbacks([claude()]), waves=2, failing=3
    ),
    "retrieval": Shape(retrieval, waves=3),
    "agent": Shape(agent, waves=2),
    "parser that asks": Shape(parser_that_asks, waves=2),
    "asynchronous step": Shape(asynchronous_only),
    "batch inside": Shape(
        lambda: RunnableLambda(lambda v: ask().batch([v, {"x": "more " + v["x"]}]))
    ),
    "stream inside": Shape(lambda: RunnableLambda(lambda v: "".join(ask().stream(v)))),
    "a function": Shape(plain_function),
    "a coroutine function": Shape(coroutine_function),
}


@pytest.mark.parametrize("name", SHAPES)
def test_as_invoke(
    name: str, provider: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SHAPES[name]
    monkeypatch.chdir(tmp_path)
    job = wrap_chain(shape.make(), poll_interval=0.05).submit_batch(INPUTS)
    results = job.wait(timeout=60)
    assert job.errors == [None] * 3 and job.status == "completed"
    batched = provider.ledger()
    assert all(row["job_id"] for row in batched), "nothing went in real time"
    waves = {row["job_id"] for row in batched}
    assert waves == set(job.provider_jobs) and len(waves) >= shape.waves
    total = job.summary.total
    assert (total.batched, total.failed) == (len(batched), shape.failing)
    assert _invoked(shape, name) == results
    live = provider.ledger()[len(batched) :]
    assert sorted(map(_body, live)) == sorted(map(_body, batched))


def _invoked(shape: Shape, name: str) -> list[Any]:
    chain = shape.make()
    if name == "a coroutine function":  # LangChain's asynchronous clients are bound to one loop
        return [[ask().invoke(value), ask("Also {x}").invoke(value)] for value in INPUTS]
    if name == "asynchronous step":
        return [ask().invoke(value).upper() for value in INPUTS]
    return [chain.invoke(v) if hasattr(chain, "invoke") else chain(v) for v in INPUTS]


def _body(row: dict[str, Any]) -> str:
    body = {k: v for k, v in row["body"].items() if k not in ("stream", "stream_options")}
    return canonical_json([row["endpoint"], body])

"""How a chain is run: by ``invoke`` or ``ainvoke``, all its inputs in one event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_core.tools import StructuredTool
from langgraph.graph import START, StateGraph

from pytest_langasync import HybridBatchProcessor, wrap_chain
from pytest_langasync.chains.invoke import Invoker
from pytest_langasync.interception import event_loop
from pytest_langasync.sandbox import Sandbox


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test's cache in a folder of its own."""
    monkeypatch.chdir(tmp_path)


async def aask(text: Any) -> Any:
    async with openai.AsyncOpenAI(max_retries=0) as client:
        message: Any = [{"role": "user", "content": f"About {text}"}]
        done = await client.chat.completions.create(model="gpt-4o-mini", messages=message)
    return done.choices[0].message.content


ANSWERS = [f"Sandbox answer to: About {x}" for x in "abc"]


class Kept:
    """A coroutine function whose client lives on in its module, and fetches from elsewhere first.

    The client's connection is kept alive: in another loop it cannot be used, nor closed.
    """

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient()
        self.url = url

    async def __call__(self, text: str) -> Any:
        found = await self.client.get(self.url)
        assert found.status_code
        return await aask(text)


@pytest.mark.parametrize("way", ["sync", "async", "urgent", "real time"])
def test_a_client_kept_by_a_coroutine_function(provider: Sandbox, way: str) -> None:
    kept = Kept(f"{provider.url}/v1/batches")
    chain = wrap_chain(kept, poll_interval=0.02)

    async def jobs() -> Any:
        first = await (await chain.asubmit_batch(["a", "b"]))
        return first + await (await chain.asubmit_batch(["c"]))

    if way == "sync":
        job = chain.submit_batch(list("abc"))
        assert job.wait() == ANSWERS and job.errors == [None] * 3
    elif way == "urgent":
        assert chain.submit_batch(list("abc"), urgent=lambda text: text == "b").wait() == ANSWERS
    elif way == "real time":
        assert chain.submit_batch(["a"]).wait() == ANSWERS[:1]
        assert HybridBatchProcessor(chain).batch(["b", "c"]) == ANSWERS[1:]
    else:
        assert asyncio.run(jobs()) == ANSWERS
    event_loop.finish(kept.client.aclose())


class Broken:
    """A chain with a fault in ``invoke``, and an ``ainvoke`` that works."""

    def invoke(self, value: Any, config: Any = None) -> Any:
        return len(5)  # type: ignore[arg-type]

    async def ainvoke(self, value: Any, config: Any = None) -> Any:
        return await aask(value)


def test_a_type_error_in_invoke_is_the_chains_own(provider: Sandbox) -> None:
    job = wrap_chain(Broken()).submit_batch(["a"])
    assert job.get_results() == [None]
    assert isinstance(job.errors[0], TypeError) and "has no len()" in str(job.errors[0])
    assert not provider.ledger(), "ainvoke was not asked"


class OfMyOwn:
    """A class with an ``invoke`` that takes nothing but the input."""

    def invoke(self, value: Any) -> Any:
        return value * 2


class Asynchronous:
    """A class whose ``invoke`` is a coroutine function."""

    async def invoke(self, value: Any) -> Any:
        return value * 2


class Callable:
    async def __call__(self, value: Any) -> Any:
        return value * 2


async def double(value: Any) -> Any:
    return value * 2


async def stream(values: Any) -> Any:
    async for value in values:
        yield value * 2


def graph() -> Any:
    async def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"x": state["x"] * 2}

    builder: Any = StateGraph(dict)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile()


def named() -> Any:
    async def twice(x: int) -> int:
        """Double a number."""
        return x * 2

    return StructuredTool.from_function(coroutine=twice)


FORMS = {
    "function": (lambda: lambda value: value * 2, 3, 6),
    "coroutine function": (lambda: double, 3, 6),
    "callable": (Callable, 3, 6),
    "invoke": (OfMyOwn, 3, 6),
    "asynchronous invoke": (Asynchronous, 3, 6),
    "RunnableLambda": (lambda: RunnableLambda(double), 3, 6),
    "RunnableGenerator": (lambda: RunnableGenerator(stream), 3, 6),
    "tool": (named, {"x": 3}, 6),
    "graph": (graph, {"x": 3}, {"x": 6}),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_run(name: str) -> None:
    make, value, wanted = FORMS[name]
    assert Invoker(make()).invoke(value) == wanted
    assert asyncio.run(Invoker(make()).ainvoke(value)) == wanted


@pytest.mark.parametrize("name", ["RunnableLambda", "RunnableGenerator", "tool", "graph"])
def test_a_chain_without_a_synchronous_form(name: str) -> None:
    make, value, _ = FORMS[name]
    invoker = Invoker(make())
    assert not invoker.asynchronous
    invoker.invoke(value)
    assert invoker.asynchronous, "the next input does not try invoke again"

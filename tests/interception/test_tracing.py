"""A parked attempt leaves no trace in OpenTelemetry, LangChain handlers or LangSmith."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pytest_langasync.interception.tracing import TraceBuffer
from pytest_langasync.interception.tracing.base import Memory

otel = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
langsmith = pytest.importorskip("langsmith")
pytest.importorskip("langchain_core")

from langchain_core.callbacks import (  # noqa: E402
    AsyncCallbackHandler,
    BaseCallbackHandler,
    get_usage_metadata_callback,
)
from langchain_core.callbacks import manager as callback_manager  # noqa: E402
from langchain_core.language_models import GenericFakeChatModel  # noqa: E402
from langchain_core.messages import AIMessage  # noqa: E402
from langchain_core.runnables import RunnableLambda, RunnablePassthrough  # noqa: E402
from langchain_core.tracers import LangChainTracer  # noqa: E402


class Park(BaseException):
    """What an unanswered call raises."""


class Run:
    """A run of one test: attempts against a growing set of answers."""

    def __init__(self) -> None:
        self.parks = 0
        self.answers: set[str] = set()
        self.buffer = TraceBuffer(lambda: self.parks > 0)

    def ask(self, question: str) -> str:
        if question not in self.answers:
            self.parks += 1
            raise Park(question)
        return f"answer to {question}"

    def attempt(self, test: Callable[[], Any], owner: str = "test_x", answers: str = "") -> bool:
        """Run the test once; return whether it came to its end."""
        self.answers |= set(answers.split())
        self.parks = 0
        self.buffer.begin(owner)
        try:
            test()
        except Park:
            pass
        finally:
            if self.parks:
                self.buffer.discard()
            else:
                self.buffer.commit()
        return not self.parks


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run()
    run.buffer.install()
    yield run
    run.buffer.uninstall()


# ---- OpenTelemetry


class Listing(export.SpanExporter):  # type: ignore[misc]
    """An exporter to somewhere from which nothing can be taken back."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def export(self, spans: Any) -> Any:
        self.names += [span.name for span in spans]
        return export.SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def provider_with(*exporters: Any, processor: Any = None) -> Any:
    provider = otel.TracerProvider(active_span_processor=processor, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    return provider


def names(exporter: Any) -> list[str]:
    if isinstance(exporter, Listing):
        return exporter.names
    return [span.name for span in exporter.get_finished_spans()]


@pytest.mark.parametrize(
    "processor", [None, otel.SynchronousMultiSpanProcessor, otel.ConcurrentMultiSpanProcessor]
)
@pytest.mark.parametrize("make", [memory.InMemorySpanExporter, Listing])
def test_one_finished_trace_per_test(run: Run, processor: Any, make: Any) -> None:
    exporter = make()
    provider = provider_with(exporter, processor=processor and processor())
    tracer = provider.get_tracer("t")

    def test() -> None:
        for name in "ab":
            with tracer.start_as_current_span(name), tracer.start_as_current_span(f"call {name}"):
                run.ask(name)

    assert not run.attempt(test)
    assert names(exporter) == []
    assert not run.attempt(test, answers="a")
    if make is memory.InMemorySpanExporter:
        assert names(exporter) == []
    assert run.attempt(test, answers="b")
    assert names(exporter) == ["call a", "a", "call b", "b"]
    assert run.attempt(test, owner="another test")
    assert names(exporter) == ["call a", "a", "call b", "b"] * 2


def test_a_test_may_look_at_its_spans(run: Run) -> None:
    exporter = memory.InMemorySpanExporter()
    tracer = provider_with(exporter).get_tracer("t")
    seen = []

    def test() -> None:
        exporter.clear()
        for name in "ab":
            with tracer.start_as_current_span(name):
                run.ask(name)
            seen.append(names(exporter))

    for answers in ("", "a", "b"):
        run.attempt(test, answers=answers)
    assert seen == [["a"], ["a"], ["a", "b"]]


def test_a_new_exporter_on_an_old_provider_gets_everything(run: Run) -> None:
    provider = provider_with()
    tracer = provider.get_tracer("t")
    seen = []

    def test() -> None:
        exporter = Listing()
        provider.add_span_processor(export.SimpleSpanProcessor(exporter))
        for name in "ab":
            with tracer.start_as_current_span(name):
                run.ask(name)
        seen.append(names(exporter))

    for answers in ("", "a", "b"):
        run.attempt(test, answers=answers)
    assert seen == [["a", "b"]]


def test_spans_across_attempts(run: Run) -> None:
    exporter = Listing()
    tracer = provider_with(exporter).get_tracer("t")
    before = tracer.start_span("before")
    late: list[Any] = []

    def test() -> None:
        if before.is_recording():
            before.end()
        late.append(tracer.start_span("late"))
        run.ask("a")

    run.attempt(test)
    assert names(exporter) == ["before"]
    late[0].end()
    assert names(exporter) == ["before"], "a span of a parked attempt is dropped whenever it ends"
    run.attempt(test, answers="a")
    late[1].end()
    assert names(exporter) == ["before", "late"]


def test_a_trace_still_open_at_the_end_keeps_its_ended_spans(run: Run) -> None:
    exporter = Listing()
    tracer = provider_with(exporter).get_tracer("t")
    opened = []

    def test() -> None:
        root = tracer.start_span("root")
        with tracer.start_as_current_span(
            "child", context=otel.trace_api.set_span_in_context(root)
        ):
            pass
        opened.append(root)

    assert run.attempt(test)
    assert names(exporter) == ["child"]
    opened[0].end()
    assert names(exporter) == ["child", "root"]


def test_nested_processors_get_a_span_once(run: Run) -> None:
    exporter = Listing()
    inner = otel.SynchronousMultiSpanProcessor()
    inner.add_span_processor(export.SimpleSpanProcessor(exporter))
    provider = otel.TracerProvider()
    provider.add_span_processor(inner)

    def test() -> None:
        with provider.get_tracer("t").start_as_current_span("a"):
            run.ask("a")
        assert names(exporter) == ["a"]

    assert not run.attempt(test)
    assert run.attempt(test, answers="a")
    assert names(exporter) == ["a"]


def test_spans_of_worker_threads(run: Run) -> None:
    exporter = Listing()
    tracer = provider_with(exporter).get_tracer("t")

    def work(name: str) -> None:
        with tracer.start_as_current_span(name):
            pass

    def test() -> None:
        run.parks += 1
        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run.parks -= 1
        run.ask("a")

    run.attempt(test)
    assert names(exporter) == []
    run.attempt(lambda: [work(f"w{n}") for n in range(3)])
    assert names(exporter) == ["w0", "w1", "w2"]


# ---- LangChain callbacks


class Recorder(BaseCallbackHandler):
    """Counts what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.heard.append(f"start {kwargs['name']}")

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.heard.append(f"end {outputs}")

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.heard.append(f"error {error!r}")

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.heard.append(f"custom {name}")


class AsyncRecorder(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    async def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        self.heard.append(f"start {kwargs['name']}")

    async def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.heard.append(f"end {outputs}")

    async def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.heard.append(f"error {error!r}")


def chain_of(run: Run) -> Any:
    return RunnableLambda(run.ask).with_config(run_name="step") | RunnablePassthrough()


@pytest.mark.parametrize("kind", [Recorder, AsyncRecorder])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_surviving_handler_hears_each_root_run_once(
    run: Run, kind: Any, asynchronous: bool
) -> None:
    handler = kind()
    fresh: list[list[str]] = []

    def test() -> None:
        inside = kind()
        config = {"callbacks": [handler, inside], "run_name": "root"}
        fresh.append(inside.heard)
        for name in "ab":
            if asynchronous:
                asyncio.run(chain_of(run).ainvoke(name, config))
            else:
                chain_of(run).invoke(name, config)

    def story(name: str) -> list[str]:
        answer = f"answer to {name}"
        step = ["start step", f"end {answer}", "start RunnablePassthrough", f"end {answer}"]
        return ["start root", *step, f"end {answer}"]

    assert not run.attempt(test)
    assert handler.heard == []
    assert not run.attempt(test, answers="a")
    assert handler.heard == story("a")
    assert run.attempt(test, answers="b")
    assert handler.heard == story("a") + story("b")
    assert fresh == [[], story("a"), story("a") + story("b")]
    assert run.attempt(test, owner="another test")
    assert handler.heard == (story("a") + story("b")) * 2


def test_a_rerun_of_a_final_attempt_is_heard_again(run: Run) -> None:
    handler = Recorder()

    def test() -> None:
        chain_of(run).invoke("a", {"callbacks": [handler]})

    for _ in range(2):
        assert run.attempt(test, answers="a")
    assert sum(text.startswith("start RunnableSequence") for text in handler.heard) == 2


def test_a_test_may_look_at_its_handler(run: Run) -> None:
    def test() -> None:
        model = GenericFakeChatModel(
            messages=iter(
                [
                    AIMessage(
                        "hi",
                        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
                        response_metadata={"model_name": "m"},
                    )
                ]
            )
        )
        with get_usage_metadata_callback() as usage:
            (RunnableLambda(run.ask) | model).invoke("a")
            assert usage.usage_metadata["m"]["total_tokens"] == 3

    assert not run.attempt(test)
    assert run.attempt(test, answers="a")


def test_a_genuine_error_is_heard(run: Run) -> None:
    handler = Recorder()

    def fail(_: str) -> str:
        raise ValueError("of the provider")

    def test() -> None:
        with pytest.raises(ValueError, match="provider"):
            RunnableLambda(fail).invoke("a", {"callbacks": [handler]})
        assert handler.heard == ["start fail", "error ValueError('of the provider')"]

    assert run.attempt(test)


def test_a_swallowed_park_leaves_no_trace(run: Run) -> None:
    handler = Recorder()

    def swallow(question: str) -> str:
        try:
            return run.ask(question)
        except BaseException:
            return "garbage"

    def test() -> None:
        for _ in range(2):
            RunnableLambda(swallow).invoke("a", {"callbacks": [handler]})

    assert not run.attempt(test)
    assert handler.heard == []
    assert run.attempt(test, answers="a")
    assert handler.heard == ["start swallow", "end answer to a"] * 2


def test_a_batch_in_threads(run: Run) -> None:
    handler = Recorder()
    questions = [f"q{n}" for n in range(20)]

    def test() -> None:
        RunnableLambda(run.ask).batch(questions, {"callbacks": [handler]})
        RunnableLambda(run.ask).invoke("last", {"callbacks": [handler]})

    assert not run.attempt(test)
    assert not run.attempt(test, answers=" ".join(questions))
    assert run.attempt(test, answers="last")
    expected = sorted(["start ask", *(f"end answer to {q}" for q in [*questions, "last"])])
    assert sorted(set(handler.heard)) == sorted(set(expected))
    assert len(handler.heard) == 2 * 21


class Strict(BaseCallbackHandler):
    raise_error = True

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        raise LookupError("not allowed")


def test_a_handler_that_raises_still_does(run: Run) -> None:
    def test() -> None:
        with pytest.raises(LookupError, match="not allowed"):
            chain_of(run).invoke("a", {"callbacks": [Strict()]})

    assert not run.attempt(test)
    assert run.attempt(test, answers="a")


class OldStyle(BaseCallbackHandler):
    """Knows ``on_llm_start`` only; LangChain falls back to it."""

    def __init__(self) -> None:
        self.prompts: list[list[str]] = []

    def on_llm_start(self, serialized: Any, prompts: list[str], **kwargs: Any) -> None:
        self.prompts.append(prompts)


def test_the_fallback_of_chat_models_works_when_delivered(run: Run) -> None:
    handler = OldStyle()
    model = GenericFakeChatModel(messages=iter([AIMessage("x")] * 9))

    def test() -> None:
        model.invoke("hello", {"callbacks": [handler]})
        assert handler.prompts == [["Human: hello"]]

    assert run.attempt(test)
    assert len(handler.prompts) == 1


def test_streams_of_events_are_not_held(run: Run) -> None:
    handler = Recorder()

    async def collect() -> list[str]:
        events = chain_of(run).astream_events("a", {"callbacks": [handler]}, version="v2")
        return [event["event"] async for event in events]

    seen = []

    def test() -> None:
        seen.append(asyncio.run(collect()))

    run.attempt(test, answers="a")
    assert seen[0][0] == "on_chain_start"
    assert seen[0][-1] == "on_chain_end"
    assert "on_chain_stream" in seen[0]
    assert handler.heard[0] == "start RunnableSequence"


def test_late_and_unfinished_runs(run: Run) -> None:
    handler = Recorder()
    generators: list[Any] = []

    def test() -> None:
        stream = RunnablePassthrough().stream("a", {"callbacks": [handler]})
        next(stream)
        generators.append(stream)
        run.ask("a")

    assert not run.attempt(test)
    generators.pop().close()
    assert handler.heard == [], "a run of a parked attempt is dropped whenever it ends"
    assert run.attempt(test, answers="a")
    assert handler.heard == ["start RunnablePassthrough"]
    generators.pop().close()
    assert len(handler.heard) == 2


def test_a_run_begun_outside_attempts_is_not_held(run: Run) -> None:
    handler = Recorder()
    stream = RunnablePassthrough().stream("a", {"callbacks": [handler]})
    next(stream)

    def test() -> None:
        with pytest.raises(Park):
            run.ask("a")
        stream.close()

    assert not run.attempt(test)
    assert len(handler.heard) == 2


def test_a_new_handler_at_an_old_address_is_new() -> None:
    memory = Memory()
    memory.begin("t")
    handler = Recorder()
    address = id(handler)
    assert memory.admit(handler, "root")
    memory.begin("t")
    assert not memory.admit(handler, "root")
    del handler
    others = []
    while not others or id(others[-1]) != address:
        others.append(Recorder())
        if len(others) > 10_000:
            pytest.skip("the interpreter did not use the address again")
    memory.begin("t")
    assert memory.admit(others[-1], "root")


def test_handlers_of_a_test_are_not_kept(run: Run) -> None:
    kept = []

    def test() -> None:
        handler = Recorder()
        kept.append(weakref.ref(handler))
        for name in "ab":
            RunnableLambda(run.ask).invoke(name, {"callbacks": [handler]})

    assert not run.attempt(test, answers="a")
    gc.collect()
    assert kept[0]() is None


# ---- LangSmith


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    posts: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", 0))
            sent = self.rfile.read(length)
            if self.command in {"POST", "PATCH"} and "/runs" in self.path:
                posts.append({"method": self.command, "path": self.path, **json.loads(sent)})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = do_PATCH = answer  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", posts
        http.shutdown()
        thread.join()


def test_langsmith_receives_one_finished_run(
    run: Run, server: tuple[str, list[dict[str, Any]]]
) -> None:
    url, posts = server
    client = langsmith.Client(api_url=url, api_key="k", auto_batch_tracing=False, info={})

    def test() -> None:
        tracer = LangChainTracer(client=client, project_name="p")
        chain_of(run).invoke("a", {"callbacks": [tracer], "run_name": "root"})
        assert posts == []

    assert not run.attempt(test)
    assert posts == []
    assert run.attempt(test, answers="a")
    client.flush()
    made = [post["name"] for post in posts if post["method"] == "POST"]
    ended = [post for post in posts if post["method"] == "PATCH"]
    assert sorted(made) == ["RunnablePassthrough", "root", "step"]
    assert len(ended) == 3
    assert not any(post.get("error") for post in ended)
    assert all(post["end_time"] for post in ended)


def test_langsmith_runs_show_what_was_at_the_time(
    run: Run, server: tuple[str, list[dict[str, Any]]]
) -> None:
    url, posts = server
    client = langsmith.Client(api_url=url, api_key="k", auto_batch_tracing=False, info={})

    def test() -> None:
        messages = ["one"]
        client.create_run(
            "r", {"messages": messages}, "chain", id="1" * 8 + "-1111" * 3 + "-" + "1" * 12
        )
        client.create_run("s", inputs={"messages": messages}, run_type="chain")
        messages.append("two")

    run.attempt(test)
    assert [post["inputs"] for post in posts] == [{"messages": ["one"]}] * 2


def test_late_langsmith_updates_of_a_parked_attempt_are_dropped(
    run: Run, server: tuple[str, list[dict[str, Any]]]
) -> None:
    url, posts = server
    client = langsmith.Client(api_url=url, api_key="k", auto_batch_tracing=False, info={})
    trees: list[Any] = []

    def test() -> None:
        tree = langsmith.RunTree(name="r", client=client, inputs={})
        tree.post()
        trees.append(tree)
        run.ask("a")

    def finish(tree: Any) -> None:
        tree.end(error="park")
        tree.patch()

    run.attempt(test)
    finish(trees.pop())
    assert posts == []
    run.attempt(test, answers="a")
    finish(trees.pop())
    assert [post["method"] for post in posts] == ["POST", "PATCH"]


# ---- the whole


# ---- OpenAI Agents SDK


class AgentProcessor:
    """A processor of the SDK's; ``told`` is what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_trace_start(self, trace: Any) -> None:
        self.told.append(f"start {trace.name}")

    def on_trace_end(self, trace: Any) -> None:
        self.told.append(f"end {trace.name}")

    def on_span_start(self, span: Any) -> None:
        self.told.append(f"begin {span.span_data.name}")

    def on_span_end(self, span: Any) -> None:
        self.told.append(f"finish {span.span_data.name} {span.ended_at is not None}")

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


@pytest.fixture
def agents() -> Iterator[Any]:
    """The SDK with one processor of ours in place of the one that sends to OpenAI."""
    agents = pytest.importorskip("agents")
    from agents.tracing import setup

    setup.GLOBAL_TRACE_PROVIDER = None
    agents.set_trace_processors([AgentProcessor()])
    yield agents
    agents.set_trace_processors([])
    setup.GLOBAL_TRACE_PROVIDER = None


def processor_of(agents: Any) -> AgentProcessor:
    processor: AgentProcessor = agents.tracing.get_trace_provider()._multi_processor._processors[0]
    return processor


ONE_TRACE = [
    "start workflow",
    "begin outer",
    "begin inner",
    "finish inner True",
    "finish outer True",
    "end workflow",
]


def test_agents_leave_one_trace(run: Run, agents: Any) -> None:
    """``Live`` writes OpenTelemetry spans, which are held back there: it is told at once."""

    class Live(AgentProcessor):
        __module__ = "openinference.instrumentation.openai_agents"

    lasting, live = processor_of(agents), Live()
    agents.add_trace_processor(live)
    inside: list[list[str]] = []

    def test() -> None:
        own = AgentProcessor()
        agents.set_trace_processors([lasting, live, own])
        with agents.trace("workflow"), agents.custom_span("outer"), agents.custom_span("inner"):
            run.ask("a")
            run.ask("b")
        inside.append(own.told)
        assert own.told == ONE_TRACE, "a test may look at what its own processor was told"

    assert not run.attempt(test)
    assert not run.attempt(test, answers="a")
    assert lasting.told == [] and live.told == ONE_TRACE * 2
    assert run.attempt(test, answers="b")
    assert lasting.told == ONE_TRACE and inside == [ONE_TRACE]
    with agents.trace("later"):
        pass
    assert lasting.told[6:] == ["start later", "end later"]


def test_a_trace_of_agents_is_told_once(run: Run, agents: Any) -> None:
    """One trace ends before the park: each attempt repeats it, and it was told of already."""

    def test() -> None:
        with agents.trace("first"):
            pass
        with agents.trace("second"):
            run.ask("a")

    assert not run.attempt(test)
    assert run.attempt(test, answers="a")
    told = processor_of(agents).told
    assert told == ["start first", "end first", "start second", "end second"]


def test_a_late_span_of_a_parked_attempt_is_dropped(run: Run, agents: Any) -> None:
    left: list[Any] = []

    def test() -> None:
        trace = agents.trace("workflow")
        trace.start(mark_as_current=True)
        left.append((trace, agents.custom_span("late", parent=trace)))
        run.ask("a")
        trace.finish(reset_current=True)

    assert not run.attempt(test)
    trace, span = left[0]
    with span:
        pass
    trace.finish(reset_current=True)
    assert processor_of(agents).told == []
    assert run.attempt(test, answers="a")
    assert processor_of(agents).told == ["start workflow", "end workflow"]


def test_without_an_attempt_all_passes_straight(run: Run) -> None:
    exporter, handler = Listing(), Recorder()
    tracer = provider_with(exporter).get_tracer("t")
    with tracer.start_as_current_span("outer"):
        with tracer.start_as_current_span("inner"):
            pass
        assert names(exporter) == ["inner"]
    with pytest.raises(Park):
        RunnableLambda(run.ask).invoke("a", {"callbacks": [handler]})
    assert handler.heard == ["start ask", "error Park('a')"]


def test_uninstall_restores_everything() -> None:
    places = [
        (callback_manager, "handle_event"),
        (callback_manager, "ahandle_event"),
        (otel.SynchronousMultiSpanProcessor, "on_end"),
        (otel.ConcurrentMultiSpanProcessor, "on_start"),
        (langsmith.Client, "create_run"),
        (langsmith.Client, "update_run"),
    ]
    before = [getattr(*place) for place in places]
    buffer = TraceBuffer(lambda: False)
    buffer.begin("t")
    assert [getattr(*place) for place in places] == before, "not installed"
    for _ in range(2):
        buffer.install()
        assert not any(getattr(*place) is was for place, was in zip(places, before, strict=True))
        buffer.begin("t")
        buffer.refresh()
        buffer.uninstall()
        assert [getattr(*place) for place in places] == before


def test_libraries_are_patched_only_once_imported() -> None:
    script = """
import sys
from pytest_langasync.interception.tracing import TraceBuffer
buffer = TraceBuffer(lambda: True)
buffer.install()
buffer.begin("t")
roots = {name.partition(".")[0] for name in sys.modules}
assert not {"opentelemetry", "langsmith", "langchain_core"} & roots
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
buffer.begin("t")
provider.get_tracer("t").start_span("a").end()
buffer.discard()
assert not exporter.get_finished_spans()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

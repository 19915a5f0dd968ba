"""What the cache keeps of requests: whole bodies, large texts once, or digests alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.suite import BATCH, Suite, end_jobs, output

from pytest_langasync import wrap_chain
from pytest_langasync.cache import redaction
from pytest_langasync.cache.store import Store
from pytest_langasync.cache.texts import LARGE, Texts
from pytest_langasync.cli import main
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.providers import echoed
from pytest_langasync.sandbox import Sandbox

SECRET = """
import os
import uuid

@pytest.mark.langasync
def test_secret():
    assert ask("the xyzzy prompt " + os.environ.get("EDIT", ""), seed=1)

@pytest.mark.langasync
def test_generated():
    marked = str(uuid.uuid4())
    assert ask(f"the xyzzy ticket {marked}", user="xyzzy-user")
"""


ECHO = """
import openai

@pytest.mark.langasync
def test_echo():
    tool = {"type": "function", "name": "look", "description": "xyzzy tool", "strict": True,
            "parameters": {"type": "object", "properties": {}}}
    asked = {"model": "gpt-4o-mini", "input": "Say a", "instructions": "the xyzzy instructions",
             "metadata": {"ticket": "xyzzy 1"}, "user": "xyzzy", "tools": [tool]}
    if STREAM:
        for event in openai.OpenAI().responses.create(**asked, stream=True):
            answer = getattr(event, "response", None) or answer
    else:
        answer = openai.OpenAI().responses.create(**asked)
    assert answer.instructions == "the xyzzy instructions"
    assert answer.metadata["ticket"] == "xyzzy 1"
    assert answer.tools[0].description == "xyzzy tool" and answer.text.format.type == "text"
"""


def cached(suite: Suite) -> str:
    """Return everything in the cache that we wrote of requests."""
    files = [p for p in (suite.path / ".langasync").rglob("*") if p.is_file()]
    kept = [p for p in files if "results" not in p.name]
    return "\n".join(p.read_text(errors="replace") for p in kept)


class TestDigests:
    @pytest.mark.parametrize("mode", [BATCH, ["--langasync-realtime"]], ids=["batch", "realtime"])
    def test_no_prompt_on_disk(
        self, suite: Suite, provider: Sandbox, mode: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite.pytester.makeini("[pytest]\nlangasync_store_prompts = false\n")
        suite.write(SECRET)
        suite.plain(*mode, "-k", "secret").assert_outcomes(passed=1, deselected=1)
        assert "xyzzy" not in cached(suite) and "sha256:" in cached(suite)
        suite.plain(*BATCH, "-k", "secret").assert_outcomes(passed=1, deselected=1)
        assert len(provider.ledger()) == 1
        monkeypatch.setenv("EDIT", "edited")
        offline = output(suite.plain("--langasync-offline", "-rs", "-k", "secret"))
        assert "messages: 'sha256:" in offline and "seed" not in offline and "xyzzy" not in offline
        again = suite.plain(*BATCH, "-k", "secret")
        again.stdout.fnmatch_lines(["*changed since it was stored: ~messages in 1 call"])
        assert len(provider.ledger()) == 2 and "xyzzy" not in cached(suite)

    @pytest.mark.parametrize("mode", [BATCH, ["--langasync-realtime"]], ids=["batch", "realtime"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_no_answer_repeats_a_prompt(
        self, suite: Suite, provider: Sandbox, mode: list[str], stream: bool
    ) -> None:
        """A response tells the instructions and the tools that it was given."""
        suite.pytester.makeini("[pytest]\nlangasync_store_prompts = false\n")
        suite.write(ECHO.replace("STREAM", str(stream)))
        for _ in range(2):  # from the provider, then from the cache
            suite.plain(*mode, "--langasync-report=run.json").assert_outcomes(passed=1)
        assert len(provider.ledger()) == 1
        kept = [p for p in (suite.path / ".langasync").rglob("*") if p.is_file()]
        assert len(kept) > 5 and not [p for p in kept if b"xyzzy" in p.read_bytes()]
        (results,) = (suite.path / ".langasync").rglob("results.jsonl")
        assert '"instructions":{"$langasync_echo":true}' in results.read_text()
        assert "xyzzy" not in (suite.path / "run.json").read_text()

    def test_generated_identifiers_are_matched_by_digest(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        suite.pytester.makeini("[pytest]\nlangasync_store_prompts = false\n")
        suite.write(SECRET)
        provider.set_faults({"batch": [{"latency": 3600}]})
        assert suite.plain(*BATCH, "--langasync-timeout=0").ret == 75
        end_jobs(provider)
        suite.plain(*BATCH).assert_outcomes(passed=2)
        assert len(provider.ledger()) == 2 and "xyzzy" not in cached(suite)

    def test_reports_and_commands_say_so(
        self, suite: Suite, provider: Sandbox, capsys: pytest.CaptureFixture[str]
    ) -> None:
        suite.pytester.makeini("[pytest]\nlangasync_store_prompts = false\n")
        suite.write(SECRET)
        suite.plain(*BATCH, "--langasync-report=run.json,run.html").assert_outcomes(passed=2)
        report = json.loads((suite.path / "run.json").read_text())
        calls = [call for test in report["tests"] for call in test["calls"]]
        assert [call["request"] for call in calls] == [None, None]
        assert all(call["answer"] for call in calls)
        assert "xyzzy ticket" not in (suite.path / "run.html").read_text().split("answered")[0]
        job = Store(suite.path / ".langasync")
        job.open()
        capsys.readouterr()
        for one in job.jobs():
            assert main(["--cache-dir", str(job.root), "show", one.id]) == 0
        shown = capsys.readouterr().out
        assert "asked     (not stored)" in shown and "the xyzzy ticket" not in shown.split("ans")[0]

    def test_inputs_of_a_chain_are_not_kept(
        self, tmp_path: Path, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import openai

        def chain(question: str) -> str | None:
            with openai.OpenAI() as client:
                message: Any = {"role": "user", "content": question}
                done = client.chat.completions.create(model="gpt-4o-mini", messages=[message])
            return done.choices[0].message.content

        monkeypatch.chdir(tmp_path)
        wrapped = wrap_chain(chain, cache_dir=tmp_path / "cache", store_prompts=False)
        job = wrapped.submit_batch(["xyzzy one", "xyzzy two"])
        first = job.wait()
        files = [p for p in (tmp_path / "cache").rglob("*.json*") if "results" not in p.name]
        assert files and not any("xyzzy" in p.read_text() for p in files)
        with pytest.raises(ConfigurationError, match="inputs are not in the cache"):
            wrapped.get_job(job.id)
        assert wrapped.get_job(job.id, inputs=["xyzzy one", "xyzzy two"]).get_results() == first


def image(letter: str) -> str:
    return "data:image/png;base64," + letter * 50_000


class TestLargeTexts:
    SOURCE = """
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(20))
def test_image(n):
    url = "data:image/png;base64," + "A" * 50_000
    parts = [{"type": "text", "text": f"What is it, {n}?"},
             {"type": "image_url", "image_url": {"url": url}}]
    assert ask(parts)
"""

    @pytest.mark.parametrize("mode", [BATCH, ["--langasync-realtime"]], ids=["batch", "realtime"])
    def test_stored_once_and_read_whole(
        self, suite: Suite, provider: Sandbox, mode: list[str]
    ) -> None:
        suite.write(self.SOURCE)
        suite.plain(*mode).assert_outcomes(passed=20)
        assert all(image("A") in json.dumps(row["body"]) for row in provider.ledger())
        cache = suite.path / ".langasync"
        (text,) = (cache / "texts").iterdir()
        assert text.read_text() == image("A") and text.stat().st_mode & 0o077 == 0
        requests = [*cache.rglob("requests.jsonl")]
        assert requests and sum(path.stat().st_size for path in requests) < 20_000
        store = Store(cache)
        store.open()
        found = [r for n in range(20) for r in store.requests_of(f"test_it.py::test_image[{n}]")]
        assert len(found) == 20
        for stored in found:
            parts = stored.body()["messages"][0]["content"]
            assert parts[1]["image_url"]["url"] == image("A")
        text.write_text("damaged")
        assert found[0].body() is None
        suite.plain(*BATCH).assert_outcomes(passed=20)
        assert len(provider.ledger()) == 20, "answers do not hang on it"

    def test_prune_removes_those_without_a_request(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(self.SOURCE)
        suite.plain(*BATCH).assert_outcomes(passed=20)
        cache = suite.path / ".langasync"
        Texts(cache / "texts").pack(image("B"))
        used, orphan = sorted((cache / "texts").iterdir(), key=lambda p: "B" in p.read_text())
        prune = ["--cache-dir", str(cache), "prune", "--older-than"]
        assert main([*prune, "30d"]) == 0 and used.exists() and orphan.exists()
        old = time.time() - 7200
        for path in (used, orphan):
            os.utime(path, (old, old))
        assert main([*prune, "1h"]) == 0
        assert used.exists() and not orphan.exists()
        assert main([*prune, "0"]) == 0
        assert not used.exists(), "its job is gone"


responses = st.fixed_dictionaries(
    {"object": st.just("response"), "output": st.lists(st.text())},
    optional={
        name: st.text() | st.none() | st.lists(st.text()) for name in ("tools", "user", "id")
    },
)


@given(answer=responses, known=st.booleans())
def test_an_echo_is_taken_and_given_back(answer: dict[str, Any], known: bool) -> None:
    asked = {name: value for name, value in answer.items() if name in ("tools", "user")}
    names = echoed(answer)
    kept = redaction.without_echo(answer, redaction.digests(asked) if known else None, names)
    assert kept.keys() == answer.keys() and redaction.with_echo(kept, asked) == answer
    assert not any(kept[name] == asked[name] for name in asked if asked[name])
    other = {**answer, "object": "chat.completion"}
    assert redaction.without_echo(other, asked, echoed(other)) == other
    assert redaction.with_echo(other, asked) == other


large = st.sampled_from([image("A"), "é" * LARGE, "\ud800" * LARGE])
bodies = st.recursive(
    st.none() | st.integers() | st.text() | large,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@given(body=bodies)
def test_any_body_is_unpacked_as_it_was(
    body: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = Texts(tmp_path_factory.getbasetemp() / "texts")
    packed, names = texts.pack(body)
    assert len(json.dumps(packed)) < 100_000 and texts.unpack(packed, names) == body


def test_what_looks_like_a_reference_stays(tmp_path: Path) -> None:
    texts = Texts(tmp_path)
    body = {"$langasync_text": "a" * 40, "more": [{"$langasync_text": "x"}]}
    assert texts.unpack(*texts.pack(body)) == body

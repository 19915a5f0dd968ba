"""What users have by now: caches, reports, options, hooks and names of version 0.1.0 still work.

The golden files were made by the code of that version (see ``golden/make.py``) and are kept. These
tests go the ways of users alone, so that the package may be taken apart and put together anew.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anthropic
import golden_files as golden
import golden_interface
import openai
import pytest

import pytest_langasync

assert anthropic and openai  # imported here once, not anew by each run inside this process

FACTS = golden.load(golden.GOLDEN / "facts.json")
INTERFACE = golden.load(golden.GOLDEN / "interface.json")
JUDGED = {
    **FACTS["verdicts"],
    "test_last.py::test_wrong": "failed",
    "test_last.py::test_refused": "passed",
    "test_last.py::test_generated": "passed",
}
"""Tests whose answers are in the cache, and how they come out."""
BATCH = ("--langasync-batch", "--langasync-poll-interval=0.05")
LATER = ("test_waits", "test_waits_for_both", "test_waits_at_claude")
"""Tests of ``test_later.py``, whose last answers are not."""
COLUMNS = ("provider", "model", "status", "asked", "ok", "failed", "paid")
ADDED = frozenset(
    {"tests[].failure", "tests[].xfail", "cache_ages_seconds", "cache_ages_seconds[]"}
    | {
        f"{row}.{name}"
        for row in ("totals", "models[]")
        for name in ("flex", "verdicts_cost_usd", "verdicts_list_price_usd")
    }
)
"""Fields that reports of schema 1 have got since, as in ``tests[].calls[].model``."""

ON_PURPOSE = {
    "pytest_langasync: CostMonitor: members: record_batch: parameter cost_per_request has another "
    "default"
}
"""What has changed because it was of no use as it was: requests counted by hand cost nothing."""

MAIN = Path(pytest_langasync.__file__).with_name("__main__.py").read_text("utf-8")
"""What ``python -m pytest_langasync`` runs."""

Play = Callable[..., pytest.RunResult]
Commands = Callable[..., tuple[int, str]]
Serve = Callable[["Provider"], AbstractContextManager[dict[str, str]]]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import what a run imports: pytester forgets what was imported inside one."""
    for name in ("genai_prices.data_snapshot", "rich.live", "tenacity", "uvicorn"):
        import_module(name)
    for module in pkgutil.walk_packages(pytest_langasync.__path__, f"{pytest_langasync.__name__}."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of what is optional
                import_module(module.name)


@pytest.fixture
def play(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return a function that runs pytest on the golden suite, in this process."""

    def run(*args: str, env: dict[str, str] | None = None) -> pytest.RunResult:
        settle(monkeypatch, env or golden.environment())
        return pytester.runpytest_inprocess(*golden.ALONE, *args)

    return run


@pytest.fixture
def commands(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Return a function that runs ``python -m pytest_langasync``, in this process."""

    def run(*args: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        settle(monkeypatch, env or golden.environment())
        monkeypatch.setattr(sys, "argv", ["pytest_langasync", *args])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            exec(MAIN, {"__name__": "__main__"})  # runpy trips over pytest's import hook
        return int(end.value.code or 0), "".join(capsys.readouterr())

    return run


def settle(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    """Replace the environment."""
    for name in os.environ.keys() - env.keys():
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def with_cache(folder: Path, *names: str, kept: str = "cache") -> Path:
    """Write modules of the suite to ``folder``, and beside them a golden cache; return that."""
    golden.unpack(folder, *names)
    golden.restore(golden.GOLDEN / kept, folder / ".langasync")
    return folder / ".langasync"


def heard(folder: Path, hook: str) -> list[dict[str, Any]]:
    """Return what the suite's conftest was told by a hook."""
    lines = map(json.loads, (folder / "heard.jsonl").read_text().splitlines())
    return [line for line in lines if line["hook"] == hook]


def differences(kept: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two reports, by path; a field added on purpose does not."""
    before, after = dict(golden.flat(kept)), dict(golden.flat(now))
    return {
        path: (before.get(path, "absent"), after.get(path, "absent"))
        for path in sorted(before.keys() | after.keys())
        if (path not in before and re.sub(r"\[\d+\]", "[]", path) not in ADDED)
        or (path in before and (path not in after or not same(before[path], after[path])))
    }


def same(before: Any, after: Any) -> bool:
    """Whether two values are equal and of one type."""
    return type(before) is type(after) and before == after


# ---- a cache of layout 1, without any network


@dataclass(frozen=True)
class Offline:
    """A run of the whole suite on the golden cache alone."""

    result: pytest.RunResult
    report: Any
    markdown: str
    properties: frozenset[str]
    folder: Path

    @property
    def calls(self) -> list[Any]:
        return [call for test in self.report["tests"] for call in test["calls"]]


@pytest.fixture(scope="module")
def once() -> dict[str, Offline]:
    """Keep the run that several tests look at."""
    return {}


@pytest.fixture
def offline(play: Play, pytester: pytest.Pytester, once: dict[str, Offline]) -> Offline:
    """Return the run, made by the first who asks."""
    if not once:
        folder = pytester.path
        with_cache(folder, "test_evals.py", "test_later.py", "test_last.py")
        compared = f"--langasync-baseline={FACTS['run']}"
        result = play(*golden.OFFLINE, compared, "--junitxml=junit.xml")
        found = ElementTree.parse(folder / "junit.xml").iter("property")
        once["run"] = Offline(
            result,
            golden.load(folder / "report.json"),
            (folder / "report.md").read_text(),
            frozenset(one.attrib["name"] for one in found),
            folder,
        )
    return once["run"]


def test_every_stored_answer_gives_its_verdict(offline: Offline) -> None:
    verdicts = {test["id"]: test["outcome"] for test in offline.report["tests"]}
    waiting = dict.fromkeys((f"test_later.py::{name}" for name in LATER), "deferred")
    assert verdicts == {**JUDGED, **waiting}
    assert offline.result.ret == 1, "a test that fails weighs more than those that wait"
    counts = offline.result.parseoutcomes()
    assert counts == {"passed": 19, "failed": 1, "missed": 2, "deferred": 3}


def test_every_answer_is_from_the_cache(offline: Offline) -> None:
    totals = offline.report["totals"]
    assert totals["paid_usd"] == 0 and totals["cached"] == totals["requests"] == len(offline.calls)
    assert {call["source"] for call in offline.calls} == {"cache"}
    assert offline.report["masked"] == 1, "the identifier that the test made this time is another"
    one = next(t for t in offline.report["tests"] if t["id"] == "test_evals.py::test_one_call")
    answer = one["calls"][0]["answer"]["choices"][0]["message"]["content"]
    assert answer == "Sandbox answer to: What is the capital of France?"


def test_the_report_is_of_schema_1(offline: Offline) -> None:
    kept = golden.load(golden.GOLDEN / "offline.json")
    assert kept["schema"] == 1
    assert differences(kept, golden.normal(offline.report)) == {}
    assert "0.00" in offline.markdown and FACTS["run"] in offline.markdown


def test_junit_and_hooks_are_told(offline: Offline) -> None:
    names = ("score_length", "score_polite", "score_language", "score_contains", "cost_usd", "job")
    assert {f"langasync_{name}" for name in names} <= offline.properties
    scores = {(one["test"], one["name"]): one for one in heard(offline.folder, "score")}
    counted = scores["test_evals.py::test_one_call", "length"]
    assert counted["value"] == 49 and counted["reason"] == "counted"
    (run,) = heard(offline.folder, "run_finished")
    assert set(run["run"]) >= golden.load(golden.GOLDEN / "offline.json").keys()


def test_what_is_under_way_is_deferred(play: Play, pytester: pytest.Pytester) -> None:
    with_cache(pytester.path, "test_evals.py", "test_later.py")
    chosen = ("test_evals.py::test_two_waves", "test_later.py::test_waits_for_both")
    result = play("--langasync-offline", "-v", "-rs", *chosen)
    assert result.ret == 75
    assert result.parseoutcomes() == {"passed": 1, "deferred": 1}
    result.stdout.fnmatch_lines(
        ["*test_waits_for_both DEFERRED*", "*1 deferred (exit status 75):*", "*waiting for batch_*"]
    )


@pytest.mark.parametrize("option", ["--langasync-baseline=last", "--langasync-report=report.html"])
def test_a_run_that_was_stopped_is_in_the_past(
    play: Play, pytester: pytest.Pytester, option: str
) -> None:
    with_cache(pytester.path, "test_evals.py")
    assert play("--langasync-offline", option, "test_evals.py::test_claude").ret == 0


def test_digests_of_prompts_serve_the_embedded_sandbox(
    play: Play, pytester: pytest.Pytester
) -> None:
    golden.unpack(pytester.path, "test_last.py")
    (pytester.path / "pytest.ini").write_text(golden.PRIVATE_INI)
    golden.restore(golden.GOLDEN / "private", pytester.path / ".langasync" / "sandbox")
    env = golden.environment(official=True)
    result = play("--langasync-sandbox", "--langasync-offline", "-v", env=env)
    assert result.parseoutcomes() == {"passed": 2, "failed": 1} and result.ret == 1
    result.stdout.fnmatch_lines(["*test_wrong FAILED*", "*paid $0.00 for 3 requests*"])


# ---- what is done with that cache afterwards


class Provider:
    """Plays both providers: the jobs that a golden cache waits for have ended, nothing is sold.

    A submission in doubt is the batch ``batch_found``.
    """

    def __init__(self, cache: Path) -> None:
        self.ended = True
        self.asked: list[str] = []
        self.nonce = ""
        self.jobs: dict[str, list[dict[str, Any]]] = {}
        for path in cache.glob("jobs/*/requests.jsonl"):
            if not path.with_name("results.jsonl").exists():
                self.jobs[path.parent.name] = requests(path)
        for path in cache.glob("intents/*.requests.jsonl"):
            self.nonce = path.name.partition(".")[0]
            self.jobs["batch_found"] = requests(path)

    def __call__(self, asked: golden.Asked) -> golden.Answer:
        self.asked.append(f"{asked.method} {asked.target}")
        path = asked.target.partition("?")[0].removeprefix("/v1/")
        place, _, rest = path.removeprefix("messages/").partition("/")
        job_id = rest.partition("/")[0].removeprefix("file-")
        claude, rows = path.startswith("messages/"), self.jobs.get(job_id, [])
        found: Any = None
        if asked.method == "GET" and path in ("batches", "messages/batches"):
            listed = [self.openai_job("batch_found")] if self.nonce and not claude else []
            found = {"object": "list", "data": listed, "has_more": False}
        elif asked.method == "GET" and rows and path.endswith(("/content", "/results")):
            lines = (self.claude_row(row) if claude else self.openai_row(row) for row in rows)
            return 200, {}, "".join(json.dumps(line) + "\n" for line in lines).encode()
        elif asked.method == "GET" and rows and place == "batches":
            found = self.claude_job(job_id) if claude else self.openai_job(job_id)
        elif asked.method == "DELETE" and place == "files":
            found = {"id": rest, "object": "file", "deleted": True}
        error = {"message": "not here", "type": "invalid_request_error", "code": None}
        body = json.dumps(found or {"type": "error", "error": error}).encode()
        return 200 if found else 404, {"content-type": "application/json"}, body

    def openai_job(self, job_id: str) -> dict[str, Any]:
        number = len(self.jobs[job_id])
        counts = {"total": number, "completed": number, "failed": 0}
        return {
            "id": job_id, "object": "batch", "request_counts": counts,
            "status": "completed" if self.ended else "in_progress",
            "output_file_id": f"file-{job_id}", "endpoint": "/v1/chat/completions",
            "input_file_id": "file-in", "completion_window": "24h", "created_at": time.time(),
            "metadata": {"langasync_nonce": self.nonce} if job_id == "batch_found" else None,
        }  # fmt: skip

    def claude_job(self, job_id: str) -> dict[str, Any]:
        counts = dict.fromkeys(("processing", "errored", "canceled", "expired"), 0)
        return {
            "id": job_id, "type": "message_batch", "processing_status": "ended",
            "request_counts": {**counts, "succeeded": len(self.jobs[job_id])},
            "results_url": f"{golden.ANTHROPIC_URL}/v1/messages/batches/{job_id}/results",
            "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z",
        }  # fmt: skip

    def openai_row(self, row: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.answer(row)}
        body = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20},
        }  # fmt: skip
        response = {"status_code": 200, "request_id": "req_1", "body": body}
        return {"custom_id": row["custom_id"], "response": response, "error": None}

    def claude_row(self, row: dict[str, Any]) -> dict[str, Any]:
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": self.answer(row)}], "stop_reason": "end_turn",
            "stop_sequence": None, "usage": {"input_tokens": 10, "output_tokens": 10},
        }  # fmt: skip
        result = {"type": "succeeded", "message": message}
        return {"custom_id": row["custom_id"], "result": result}

    def answer(self, row: dict[str, Any]) -> str:
        return f"Sandbox answer to: {row['body']['messages'][-1]['content']}"

    @property
    def sold(self) -> list[str]:
        return [line for line in self.asked if line.startswith("POST")]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Return a context in which a provider answers at the golden cache's base URLs."""
    look_up = socket.getaddrinfo

    @contextmanager
    def serving(provider: Provider) -> Iterator[dict[str, str]]:
        with golden.behind(provider) as port, monkeypatch.context() as patch:

            def found(host: Any, asked: Any, *more: Any, **named: Any) -> Any:
                here = str(host).endswith(".golden.test")
                return look_up(*(("127.0.0.1", port) if here else (host, asked)), *more, **named)

            # Not by a proxy: the oldest SDK that is supported takes none from the environment.
            patch.setattr(socket, "getaddrinfo", found)
            yield golden.environment("", keys=True)

    return serving


def requests(path: Path) -> list[dict[str, Any]]:
    """Return what a job, or a submission, of the golden cache has asked."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def chain(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Wrap the golden suite's chain beside the golden cache."""
    with_cache(pytester.path, "chain.py")
    pytester.syspathinsert()
    yield lambda: pytest_langasync.wrap_chain(import_module("chain").capital, poll_interval=0.05)
    for name in ("chain", "llm"):
        sys.modules.pop(name, None)


def test_what_was_under_way_is_collected(
    play: Play, commands: Commands, pytester: pytest.Pytester, serve: Serve
) -> None:
    cache = with_cache(pytester.path, "test_evals.py", "test_later.py")
    provider = Provider(cache)
    with serve(provider) as env:
        chosen = ("test_later.py", "test_evals.py::test_one_call")
        report = "--langasync-report=report.json"
        result = play(*BATCH, report, *chosen, env=env)
        assert result.ret == 0 and result.parseoutcomes() == {"passed": 4}
        totals = golden.load(pytester.path / "report.json")["totals"]
        assert (totals["batched"], totals["cached"], totals["requests"]) == (3, 2, 5)
        assert not provider.sold
        status, text = commands("doctor", env=env)
        assert "1 running" in text and "all is well" in text and status == 0
    assert {job for job in provider.jobs if any(job in line for line in provider.asked)} == {
        *provider.jobs
    }, "the last one by the doctor, which asks for what a chain waits for"


def test_a_submission_in_doubt_is_found(
    play: Play, commands: Commands, pytester: pytest.Pytester, serve: Serve
) -> None:
    cache = with_cache(pytester.path, "test_later.py", kept="doubt")
    provider = Provider(cache)
    told = f"in doubt: submission {provider.nonce} of 1 requests to {golden.OPENAI_URL}"
    status, text = commands("doctor")
    assert status == 1 and told in text
    golden.restore(golden.GOLDEN / "doubt", pytester.path / "other")
    status, text = commands("--cache-dir=other", "doctor", f"--forget={provider.nonce}")
    assert status == 0 and "the 1 requests of" in text and provider.nonce in text
    with serve(provider) as env:
        result = play(*BATCH, "test_later.py::test_waits", env=env)
    assert result.ret == 0 and result.parseoutcomes() == {"passed": 1}
    assert not provider.sold
    assert [folder.name for folder in (cache / "jobs").iterdir()] == ["batch_found"]


def test_a_chain_that_was_done(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch, golden.environment(keys=True))
    facts, wrapped = FACTS["chains"]["done"], chain()
    assert facts["results"][0].startswith("Sandbox answer to: judge Sandbox answer to: Name")
    for job_id in (facts["id"], facts["provider_jobs"][1]):
        job = wrapped.get_job(job_id)
        assert job.id == facts["id"] and job.status == "completed"
        assert list(job.provider_jobs) == facts["provider_jobs"]
        assert job.get_results() == facts["results"] and job.errors == [None] * 3
        total = job.summary.total
        assert (total.requests, total.batched, total.realtime) == (6, 4, 2), "one was urgent"
        assert 0 < total.paid < total.list_price and total.saved == total.list_price - total.paid
    records = {record.id: record for record in wrapped.list_jobs()}
    assert records[facts["id"]].inputs == ("France", "Spain", "Peru")
    assert [one.completed for one in wrapped.list_jobs()] == [True, False]


def test_a_chain_that_was_under_way(
    chain: Any, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    facts = FACTS["chains"]["under way"]
    events: list[Any] = []
    provider = Provider(Path(".langasync"))
    with serve(provider) as env:
        settle(monkeypatch, env)
        job = chain().get_job(facts["provider_jobs"][1])
        assert job.id == facts["id"] and job.status == "pending"
        provider.ended = False
        with pytest.raises(pytest_langasync.JobPendingError):
            job.get_results()
        provider.ended = True
        results = job.wait(30, on_event=events.append)
    asked = "Sandbox answer to: judge Sandbox answer to: Name the capital of"
    assert results == [f"{asked} {country}" for country in ("Chile", "Kenya")]
    assert job.status == "completed" and not provider.sold
    (collected,) = [event for event in events if event.kind == "collected"]
    assert (collected.provider, collected.requests) == ("openai", 2)
    assert collected.job.id == facts["provider_jobs"][1]


def test_the_commands_read_the_cache(commands: Commands, pytester: pytest.Pytester) -> None:
    cache = with_cache(pytester.path)
    known = sorted(folder.name for folder in (cache / "jobs").iterdir())
    status, text = commands("jobs")
    rows = [line.split() for line in text.splitlines()]
    assert status == 0 and "4 still running" in text
    assert rows[0] == ["job", "age", *COLUMNS]
    assert sorted(row[0] for row in rows[1 : len(known) + 1]) == known
    (first,) = [row for row in rows if row[:1] == FACTS["chains"]["done"]["provider_jobs"][:1]]
    assert first[2:8] == ["openai", "gpt-4o-mini", "completed", "2", "2", "0"]
    for job_id in known:
        status, text = commands("show", job_id)
        running = not (cache / "jobs" / job_id / "results.jsonl").exists()
        assert status == 0 and f"job {job_id}" in text and "    asked     " in text
        assert ("    answered  " in text) != running
    status, text = commands("doctor")
    assert status == 1, "what is under way has to be asked about, and there is no key"
    assert f"{len(known)} jobs, 4 running" in text and "set OPENAI_API_KEY" in text
    assert "damage" not in text and "in doubt" not in text
    assert commands("show", "batch_0")[0] == 2
    status, text = commands("prune", "--older-than=0")
    assert status == 0 and f"removed {len(known) - 4} jobs" in text
    assert "4 answers obtained" in text and "kept 4 that still run" in text


# ---- a run today


def test_the_report_of_a_run_on_the_sandbox(play: Play, pytester: pytest.Pytester) -> None:
    golden.unpack(pytester.path, "test_evals.py", "test_live.py")
    kept = golden.load(golden.GOLDEN / "report.json")
    (pytester.path / "report.json").write_text(json.dumps(kept))
    more = ("--langasync-report=live.json", "--langasync-baseline=report.json")
    result = play(*golden.LIVE, *more, env=golden.environment(official=True))
    assert result.ret == 0 and result.parseoutcomes() == {
        "passed": 18, "missed": 2, "deselected": 1,
    }  # fmt: skip
    assert differences(kept, golden.normal(golden.load(pytester.path / "live.json"))) == {}
    asked = heard(pytester.path, "sandbox_reply")
    assert {(one["provider"], one["endpoint"]) for one in asked} == {
        ("openai", "/chat/completions"), ("openai", "/responses"), ("anthropic", "/messages"),
    }  # fmt: skip
    twice = [one["attempt"] for one in asked if one["prompt"] == "Roll a die"]
    assert sorted(twice) == [0, 1] and {one["choice"] for one in asked} == {0}
    assert all({"model", "messages"} <= set(one["body"]) or "input" in one["body"] for one in asked)


# ---- what is offered


@pytest.fixture(scope="module")
def offered() -> dict[str, Any]:
    """Keep the interface of today."""
    return {}


@pytest.fixture
def interface(
    play: Play, commands: Commands, pytester: pytest.Pytester, offered: dict[str, Any]
) -> dict[str, Any]:
    """Return the interface of today."""
    if not offered:

        def told(*args: str) -> str:
            status, text = commands(*args)
            return "" if status else text

        offered |= golden_interface.today(
            pytester.path, lambda *args: play(*args).stdout.str(), told
        )
    return offered


@pytest.mark.parametrize("part", INTERFACE)
def test_nothing_that_was_offered_is_gone(part: str, interface: dict[str, Any]) -> None:
    assert INTERFACE[part], "there is something to lose"
    assert set(golden_interface.broken(INTERFACE[part], interface[part])) <= ON_PURPOSE


def test_a_conftest_may_implement_the_hooks(play: Play, pytester: pytest.Pytester) -> None:
    hooks = INTERFACE["hooks"].items()
    source = (f"def {name}({', '.join(one['arguments'])}): pass\n" for name, one in hooks)
    pytester.makeconftest("".join(source))
    result = play("--strict-markers")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "unknown hook" not in result.stderr.str() + result.stdout.str()


@pytest.mark.parametrize(
    ("args", "source", "said"),
    [
        (["--langasync-timeout=soon"], "", "--langasync-timeout: 'soon' is not a duration"),
        (["--langasync-offline", "--langasync-realtime"], "", "contradict each other"),
        ([], "priorty='high'", "has no keyword 'priorty': did you mean 'priority'?"),
    ],
)
def test_a_mistake_ends_with_status_4(
    play: Play, pytester: pytest.Pytester, args: list[str], source: str, said: str
) -> None:
    mark = f"@pytest.mark.langasync({source})"
    pytester.makepyfile(f"import pytest\n\n{mark}\ndef test_it():\n    pass\n")
    result = play(*args)
    assert result.ret == 4
    assert said in result.stderr.str() and not (pytester.path / ".langasync").exists()

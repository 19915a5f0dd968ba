"""Hosts that do not do as the documentation says.

Nothing is bought twice, nothing is stored that is no answer, and what no batch takes goes in real
time, named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.loopback import Say
from support.odd_host import OddHost, completion, odd_host, row
from support.suite import BATCH, Suite, output, verdict

from pytest_langasync.cli import main

EVALS = """
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(2))
def test_it(n):
    assert ask(f"q{n}") == f"[q{n}]"
"""
FULL: dict[str, Any] = {"message": "m", "type": "server_error", "param": None}


@pytest.fixture
def host(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., OddHost]]:
    """Return a function that makes the host which the suite calls."""
    with odd_host() as made:

        def configured(**ways: Any) -> OddHost:
            for name, way in ways.items():
                setattr(made, name, way)
            return made

        monkeypatch.setenv("OPENAI_BASE_URL", made.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        suite.write(EVALS)
        yield configured


def late(polls: int) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    """Return how a batch is told that names its file after so many polls."""
    return lambda batch, asked: {**batch, "output_file_id": None} if asked <= polls else batch


@pytest.mark.parametrize("polls", [2, 6])
def test_a_file_that_is_named_late(suite: Suite, host: Any, polls: int) -> None:
    there = host(batch=late(polls))
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q1"] and there.live == []


def test_a_file_that_is_named_by_the_next_run(suite: Suite, host: Any) -> None:
    there = host(batch=late(10**6))
    result = suite.plain(*BATCH)
    assert verdict(result) == {"deferred": 2} or result.ret == 75
    assert "a later run collects it" in output(result)
    there.batch = late(0)
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q1"] and there.live == []


def test_a_passing_failure_inside_a_success_is_sent_again(suite: Suite, host: Any) -> None:
    failures = iter([{"error": {**FULL, "code": "server_error"}}])
    there = host(row=lambda line: row(line, next(failures, None)))
    result = suite.plain(*BATCH)
    assert verdict(result) == {"passed": 2}
    assert sorted(there.batched) in (["q0", "q0", "q1"], ["q0", "q1", "q1"])


def test_a_failure_inside_a_success_serves_one_verdict(suite: Suite, host: Any) -> None:
    error = {"error": {**FULL, "type": "x", "code": "invalid_prompt"}}
    there = host(row=lambda line: row(line, error))
    assert verdict(suite.plain(*BATCH)) == {"failed": 2}
    there.row = row
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q0", "q1", "q1"]


def test_a_failure_inside_a_success_in_real_time(suite: Suite, host: Any) -> None:
    error = {"error": {**FULL, "code": "server_error"}}
    there = host(live_answer=lambda body: Say(error))
    assert verdict(suite.plain("--langasync-realtime")) == {"failed": 2}
    there.live_answer = lambda body: Say(completion(body))
    assert verdict(suite.plain("--langasync-realtime")) == {"passed": 2}
    before = len(there.live)
    assert verdict(suite.plain("--langasync-realtime")) == {"passed": 2}
    assert len(there.live) == before


def test_a_body_that_is_the_text_of_its_json(suite: Suite, host: Any) -> None:
    there = host(row=lambda line: row(line, json.dumps(completion(line["body"]))))
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q1"]


def test_a_job_that_fails_for_the_servers_own_key_is_not_sent_again(
    suite: Suite, host: Any
) -> None:
    said = "Error code: 401 - {'error': 'Incorrect API key provided'}"

    def failing(line: dict[str, Any]) -> dict[str, Any]:
        error = {"code": "inference_failed", "message": said}
        return {"custom_id": line["custom_id"], "response": None, "error": error}

    there = host(row=failing)
    result = suite.plain(*BATCH)
    assert verdict(result) == {"failed": 2} and said.split(" - ")[0] in output(result)
    assert sorted(there.batched) == ["q0", "q1"] and there.live == []
    there.row = row
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}


def test_a_job_that_fails_twice_with_one_message_is_not_sent_a_third_time(
    suite: Suite, host: Any
) -> None:
    there = host(row=lambda line: row(line, {"error": {**FULL, "code": "broken"}}, 500))
    assert verdict(suite.plain(*BATCH)) == {"failed": 2}
    assert sorted(there.batched) == ["q0", "q0", "q1", "q1"]


def test_words_and_shapes_of_other_servers(suite: Suite, host: Any) -> None:
    """A status of its own, times as texts, rows without ``error``, nulls left out."""

    def told(batch: dict[str, Any], polls: int) -> dict[str, Any]:
        kept = {name: value for name, value in batch.items() if value is not None}
        shown = {**kept, "status": "scheduling" if polls < 2 else "Completed"}
        return {**shown, "created_at": "2033-05-18T03:33:20Z", "request_counts": {}}

    def bare(line: dict[str, Any]) -> dict[str, Any]:
        made = row(line)
        return {"custom_id": made["custom_id"], "response": {**made["response"], "request_id": 7}}

    there = host(batch=told, row=bare)
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q1"] and there.live == []


def test_headers_of_one_call_make_no_job_for_each(suite: Suite, host: Any) -> None:
    there = host()
    headers = (
        "{'X-Client-Request-Id': str(n), 'sentry-trace': f'{n}-1', 'b3': str(n), "
        "'Helicone-Property-Session': str(n), 'x-datadog-trace-id': str(n)}"
    )
    suite.write(EVALS.replace('ask(f"q{n}")', f'ask(f"q{{n}}", extra_headers={headers})'))
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert len(there.batches) == 1
    (create,) = there.server.at("POST /v1/batches")
    assert "sentry-trace" not in create.headers and "b3" not in create.headers


def test_two_accounts_make_two_jobs(suite: Suite, host: Any) -> None:
    there = host()
    suite.write(EVALS.replace('f"q{n}")', 'f"q{n}", extra_headers={"Helicone-Auth": f"k{n}"})', 1))
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    keys = sorted(seen.headers["helicone-auth"] for seen in there.server.at("POST /v1/batches"))
    assert keys == ["k0", "k1"]


def test_a_job_whose_id_is_a_uuid_is_resumed_with_an_empty_cache(suite: Suite, host: Any) -> None:
    ids = "5f0c8f1e-8e0f-4b7e-9d0c-3f5a2c1b7a{:02x}".format
    there = host(job_id=ids, batch=lambda batch, polls: {**batch, "metadata": None})
    suite.plain(*BATCH, "--langasync-timeout=0")
    there.batched.clear()
    again = suite.plain(*BATCH, "--langasync-cache-dir=other", f"--langasync-resume={ids(0)}")
    assert verdict(again) == {"passed": 2}
    assert there.batched == [] and there.live == []


def test_a_host_that_lists_batches_and_has_no_files(suite: Suite, host: Any) -> None:
    there = host(closed=("POST /v1/files",))
    result = suite.plain(*BATCH)
    assert verdict(result) == {"passed": 2}
    assert sorted(there.live) == ["q0", "q1"]
    assert there.server.count("POST /v1/files") == 1
    assert output(result).count("it has no batch API") == 1


def test_what_batches_refuse_goes_in_real_time_under_xdist(suite: Suite, host: Any) -> None:
    there = host(row=refused_rows)
    result = suite.plain("-n", "2", *BATCH)
    assert verdict(result) == {"passed": 2}, output(result)
    assert sorted(there.batched) == sorted(there.live) == ["q0", "q1"]


NO_LIST = {
    "404": Say({"detail": "x"}, 404),
    "500": Say({"error": {**FULL, "code": "500"}}, 500),
    "html": Say(b"<html>"),
    "list": Say([]),
    "501": Say({}, 501),
    "400": Say({"error": "x"}, 400),
}


@pytest.mark.parametrize("say", NO_LIST.values(), ids=NO_LIST)
def test_a_host_without_a_list_is_asked_once(suite: Suite, host: Any, say: Say) -> None:
    there = host()
    there.server.on("GET /v1/batches", say)
    result = suite.plain(*BATCH)
    assert verdict(result) == {"passed": 2}
    assert there.server.count("GET /v1/batches") == 1
    assert output(result).count("it has no batch API") == 1


NO_SUCH_MODEL = {"message": "The model does not exist", "type": "x", "param": None}


def refused_whole(batch: dict[str, Any], polls: int) -> dict[str, Any]:
    problem = {"code": "model_not_found", "message": "gpt is not supported by the Batch API."}
    errors = {"data": [{**problem, "param": "body.model", "line": 1}]}
    return {**batch, "status": "failed", "output_file_id": None, "errors": errors} | {
        "request_counts": {"total": 0, "completed": 0, "failed": 0}
    }


def refused_rows(line: dict[str, Any]) -> dict[str, Any]:
    return row(line, {"error": {**NO_SUCH_MODEL, "code": "model_not_found"}}, 404)


@pytest.mark.parametrize("ways", [{"batch": refused_whole}, {"row": refused_rows}])
def test_a_model_that_only_batches_refuse(suite: Suite, host: Any, ways: Any) -> None:
    there = host(**ways)
    result = suite.plain(*BATCH)
    assert verdict(result) == {"passed": 2}
    assert sorted(there.live) == ["q0", "q1"]
    assert output(result).count("its batches refuse gpt-4o-mini") == 1
    # The next run knows.
    suite.write(EVALS.replace("q{n}", "p{n}"))
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q1"] and len(there.live) == 4
    # Until it is told to forget.
    there.batch, there.row = (lambda batch, polls: batch), row
    cache = ("--cache-dir", str(suite.path / ".langasync"))
    assert main([*cache, "doctor", "--forget", "gpt-4o-mini"]) == 0
    suite.write(EVALS.replace("q{n}", "r{n}"))
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q1", "r0", "r1"] and len(there.live) == 4


def test_a_feature_that_only_batches_refuse(suite: Suite, host: Any) -> None:
    def refuse_seeds(line: dict[str, Any]) -> dict[str, Any]:
        if "seed" not in line["body"]:
            return row(line)
        said = {"message": "seed is not supported in batches", "type": "x", "param": "seed"}
        return row(line, {"error": {**said, "code": "unsupported"}}, 400)

    there = host(row=refuse_seeds)
    seeded = EVALS.replace('ask(f"q{n}")', 'ask(f"q{n}", **({"seed": 1} if n else {}))')
    suite.write(seeded)
    result = suite.plain(*BATCH)
    assert verdict(result) == {"passed": 2}
    assert sorted(there.batched) == ["q0", "q1"] and there.live == ["q1"]
    assert "its batches refuse such requests" in output(result)
    suite.write(seeded.replace("q{n}", "p{n}"))
    assert verdict(suite.plain(*BATCH)) == {"passed": 2}
    assert sorted(there.batched) == ["p0", "q0", "q1"] and there.live == ["q1", "p1"]

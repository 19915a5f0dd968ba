"""The lanes: calls gathered and sent at once, with the flex tier, or one lane after another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.suite import BATCH, Suite, output, verdict

from pytest_langasync.sandbox import Sandbox

pytestmark = pytest.mark.filterwarnings("ignore")

MANY = """
@pytest.mark.parametrize("number", range(20))
@pytest.mark.langasync
def test_many(number):
    assert str(number) in ask(f"Number {number}?")
"""
CHAIN = """
@pytest.mark.langasync
def test_chain():
    first = ask("one")
    assert "two" in ask("two " + first)
"""
FLEX = """
import llm
llm.MODEL = "gpt-5-mini"
"""
CALLS = "POST /v1/chat/completions"


def faults(provider: Sandbox, *specs: dict[str, Any]) -> None:
    """Let the provider answer calls so."""
    provider.set_faults({"http": [{"path": CALLS, **spec} for spec in specs]})


def report(suite: Suite) -> Any:
    return json.loads((suite.path / "report.json").read_text())


def test_real_time_sends_all_calls_at_once(suite: Suite, provider: Sandbox) -> None:
    suite.write(MANY)
    faults(provider, {"count": 0, "delay": 0.3})
    result = suite.plain("--langasync-realtime")
    assert verdict(result) == {"passed": 20}
    assert "sending realtime-1 openai gpt-4o-mini 20 requests" in output(result)
    times = [row["at"] for row in provider.ledger()]
    assert len(times) == 20 and max(times) - min(times) < 3.0, "one after the other takes 6 s"
    assert verdict(suite.plain("--langasync-realtime")) == {"passed": 20}
    assert len(provider.ledger()) == 20, "a warm run is free"


def test_calls_that_depend_on_answers_follow(suite: Suite, provider: Sandbox) -> None:
    suite.write(CHAIN)
    assert verdict(suite.plain("--langasync-lane=realtime")) == {"passed": 1}
    assert [row["job_id"] for row in provider.ledger()] == ["", ""]


def test_what_one_lane_bought_serves_in_every_other(suite: Suite, provider: Sandbox) -> None:
    suite.write(FLEX + MANY)
    assert verdict(suite.plain("--langasync-flex")) == {"passed": 20}
    for lane in ("batch", "realtime", "flex"):
        assert verdict(suite.plain(f"--langasync-lane={lane}")) == {"passed": 20}
    assert verdict(suite.plain("--langasync-offline")) == {"passed": 20}
    assert len(provider.ledger()) == 20


def test_flex_is_paid_at_half_price(suite: Suite, provider: Sandbox) -> None:
    suite.write(FLEX + MANY)
    result = suite.plain("--langasync-flex", "--langasync-report=report.json")
    assert verdict(result) == {"passed": 20}
    assert {row["body"]["service_tier"] for row in provider.ledger()} == {"flex"}
    assert "(50.0 %)" in output(result) and "flex: 20 requests, list $" in output(result)
    assert report(suite)["totals"]["flex"] == 20


def test_flex_that_is_served_as_standard_saves_nothing(suite: Suite, provider: Sandbox) -> None:
    suite.write(FLEX + MANY)
    standard = [['"service_tier":"flex"', '"service_tier":"default"']]
    faults(provider, {"count": 0, "replace": standard})
    result = suite.plain("--langasync-flex")
    assert verdict(result) == {"passed": 20} and "saved $0.00 (0.0 %)" in output(result)


def test_a_model_without_flex_goes_by_batch(suite: Suite, provider: Sandbox) -> None:
    suite.write(MANY)  # gpt-4o-mini
    result = suite.plain("--langasync-flex", *BATCH[1:])
    assert verdict(result) == {"passed": 20}
    assert "gpt-4o-mini has no flex tier" in output(result)
    assert all(row["job_id"] for row in provider.ledger())


FULL = {"error": {"message": "Resource Unavailable", "type": "x", "param": None, "code": None}}


def test_no_room_in_flex_is_waited_for(suite: Suite, provider: Sandbox) -> None:
    suite.write(FLEX + CHAIN)
    faults(provider, {"status": 429, "body": FULL})
    assert verdict(suite.plain("--langasync-flex")) == {"passed": 1}
    assert [row["body"]["service_tier"] for row in provider.ledger()] == ["flex", "flex"]


def test_no_room_in_flex_until_its_time_is_up(suite: Suite, provider: Sandbox) -> None:
    suite.write(FLEX + CHAIN)
    faults(provider, {"status": 429, "body": FULL})
    assert verdict(suite.plain("--langasync-lanes=flex:0.2s,realtime")) == {"passed": 1}
    assert not any("service_tier" in row["body"] for row in provider.ledger())
    suite.write(FLEX + CHAIN.replace("one", "three"))
    faults(provider, {"status": 429, "body": FULL})
    result = suite.plain("--langasync-flex", "--langasync-timeout=0")
    assert result.ret == 75 and "no room in the flex tier" in output(result)


def test_a_batch_that_is_late_is_cancelled_and_sent_by_the_next_lane(
    suite: Suite, provider: Sandbox
) -> None:
    provider.set_faults({"batch": [{"count": 0, "latency": 3600.0}]})
    suite.write(FLEX + MANY)
    result = suite.plain("--langasync-lanes=batch:0.2s,flex:10m,realtime", BATCH[1])
    assert verdict(result) == {"passed": 20}
    assert [row["job_id"] for row in provider.ledger()] == [""] * 20


def test_a_marker_names_a_lane(suite: Suite, provider: Sandbox) -> None:
    suite.write(CHAIN.replace("langasync", "langasync(lane='realtime')") + MANY)
    assert verdict(suite.plain(*BATCH)) == {"passed": 21}
    jobs = [row["job_id"] for row in provider.ledger()]
    assert jobs.count("") == 2 and len(jobs) == 22


def test_errors_and_time_outs_reach_the_test(suite: Suite, provider: Sandbox) -> None:
    suite.write("""
import openai

@pytest.mark.langasync
def test_bad():
    with pytest.raises(openai.BadRequestError):
        ask("x", temperature="hot")

@pytest.mark.langasync
def test_slow():
    with openai.OpenAI(max_retries=0, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            client.responses.create(model="gpt-4o-mini", input="slow")
""")
    provider.set_faults({"http": [{"path": "POST /v1/responses", "count": 0, "delay": 5.0}]})
    assert verdict(suite.plain("--langasync-realtime")) == {"passed": 2}


def test_a_rate_limit_is_waited_for(suite: Suite, provider: Sandbox) -> None:
    suite.write(MANY)
    faults(provider, {"status": 429, "count": 3, "headers": {"retry-after-ms": "20"}})
    assert verdict(suite.plain("--langasync-realtime")) == {"passed": 20}
    assert len(provider.ledger()) == 20


def test_one_at_a_time_is_in_place(suite: Suite, provider: Sandbox) -> None:
    suite.write("""
@pytest.mark.langasync
def test_it():
    trace("run")
    ask("one")
    ask("two")
""")
    assert verdict(suite.plain("--langasync-realtime", "--langasync-concurrency=1")) == {
        "passed": 1
    }
    assert suite.traced() == ["run"]


def test_the_guard_covers_what_is_sent_at_once(suite: Suite, provider: Sandbox) -> None:
    suite.write(MANY)
    result = suite.plain("--langasync-realtime", "--langasync-max-cost=0.000001")
    assert result.ret == pytest.ExitCode.USAGE_ERROR and provider.ledger() == []
    assert "--langasync-max-cost" in output(result)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--langasync-lanes=batch,realtime"], "needs a time"),
        (["--langasync-lanes=batch:1h,quick"], "'quick' is not one of batch, flex, realtime"),
        (["--langasync-lanes=realtime:1m,batch"], "is followed by another lane"),
        (["--langasync-flex", "--langasync-realtime"], "contradict each other"),
        (["--langasync-lane=flex", "--langasync-lanes=batch"], "contradict each other"),
        (["--langasync-flex", "--langasync-concurrency=0"], "whole number of 1 or more"),
    ],
)
def test_mistakes(suite: Suite, args: list[str], told: str) -> None:
    suite.write(CHAIN)
    result = suite.plain(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR and told in output(result)


def test_workers_of_xdist_wait_together(suite: Suite, provider: Sandbox) -> None:
    suite.write(MANY + CHAIN)
    faults(provider, {"count": 0, "delay": 0.1})
    result = suite.plain("--langasync-realtime", "-n2")
    assert verdict(result) == {"passed": 21}
    assert "sending realtime-1 openai gpt-4o-mini 21 requests" in output(result)
    assert len(provider.ledger()) == 22


@pytest.mark.parametrize("option", ["-s", "--pdb"])
def test_a_test_that_is_watched_runs_once(suite: Suite, provider: Sandbox, option: str) -> None:
    suite.write("@pytest.mark.langasync\ndef test_it():\n    trace('run')\n    ask('one')\n")
    assert verdict(suite.plain("--langasync-realtime", option)) == {"passed": 1}
    assert suite.traced() == ["run"]

"""Money: the summary, the report file, the estimate and the guard."""

from __future__ import annotations

import json
import re
from typing import Any

import anthropic
import openai
import pytest
from support.suite import BATCH, CLAUDE, LATER, ONE_STEP, TWO_STEPS, Suite, let_end, output, verdict

from pytest_langasync.sandbox import Sandbox

assert anthropic and openai  # imported here once, not anew by each run inside this process

UNKNOWN = """
@pytest.mark.langasync
def test_homemade():
    import llm
    llm.MODEL = "homemade-7b"
    try:
        assert ask("a model that nobody sells")
    finally:
        llm.MODEL = "gpt-4o-mini"
"""
LIMITED = """
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_limited(n):
    first = ask(f"limited {n}", max_tokens=1000)
    assert ask("judge " + first, max_tokens=1000)
"""


def table(result: pytest.RunResult) -> dict[str, list[str]]:
    """Return the cells of the summary's rows by model, those of the head as ``model``."""
    rows = (re.split(r"  +", line.strip()) for line in result.outlines)
    return {
        ("total" if row[0] == "total" else row[1]): row
        for row in rows
        if len(row) > 4 and row[0] in ("provider", "openai", "anthropic", "total")
    }


def sent(provider: Sandbox) -> list[str]:
    """Return what was sent; whether it has a batch API may be asked."""
    return [what for what in provider.requests() if what.startswith("POST")]


def report(suite: Suite) -> dict[str, Any]:
    """Return the report file of the last run."""
    found: dict[str, Any] = json.loads((suite.path / "run.json").read_text())
    return found


def test_summary(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows per model, what is unknown is named, nothing is guessed; a second run costs nothing."""
    monkeypatch.setenv("COLUMNS", "120")
    suite.write(ONE_STEP + CLAUDE + UNKNOWN)
    first = suite.run()
    rows = table(first)
    assert rows["model"][2:7] == ["batch", "in", "out", "list", "paid"]
    assert rows["gpt-4o-mini"][2] == rows["claude-sonnet-4-5"][2] == "1"
    assert rows["homemade-7b"][5:7] == ["?", "?"]
    assert rows["total"][1] == "3" and rows["total"][4].endswith("+?")
    assert "1 request of model homemade-7b has no known price" in first.outlines
    (paid,) = [line for line in first.outlines if line.startswith("this run: paid ")]
    assert paid.endswith("for 3 requests, 1 request of unknown price left out")
    (saved,) = [line for line in first.outlines if line.startswith("these verdicts: saved ")]
    assert "(50.0 %)" in saved
    reports = "--langasync-report=run.json,run.md,run.html"
    second = suite.run(reports)
    models = {
        row["model"]: row for row in json.loads((suite.path / "run.json").read_text())["models"]
    }
    assert models["homemade-7b"]["paid_usd"] is None and models["homemade-7b"]["unknown_price"] == 1
    assert models["gpt-4o-mini"]["list_price_usd"] > 0
    assert table(second)["model"][2] == "cache" and table(second)["total"][5] == "$0.00+?"
    old = r"^nothing was bought: answers are \d+s( to \d+s)? old$"
    assert re.search(old, second.stdout.str(), re.M)
    assert saved in second.outlines, "the verdicts cost what they cost, whoever paid"
    assert any(line.startswith("this run: paid $0.00 for 3") for line in second.outlines)
    assert "nothing was bought" in (suite.path / "run.md").read_text()
    assert "Nothing was bought" in (suite.path / "run.html").read_text()


def test_the_model_that_served(suite: Suite) -> None:
    suite.pytester.makeconftest(
        "import pytest\n"
        "@pytest.hookimpl(optionalhook=True)\n"
        "def pytest_langasync_sandbox_reply(request):\n"
        "    return {'id': 'chatcmpl-1', 'object': 'chat.completion', 'created': 1,\n"
        "            'model': 'gpt-4o-mini-2024-07-18', 'usage': {'prompt_tokens': 1000,\n"
        "            'completion_tokens': 100, 'total_tokens': 1100}, 'choices': [{'index': 0,\n"
        "            'finish_reason': 'stop', 'message': {'role': 'assistant',\n"
        "            'content': 'Spain'}}]}\n"
    )
    suite.write(ONE_STEP)
    result = suite.run("--langasync-report=run.json")
    assert "gpt-4o-mini was served by gpt-4o-mini-2024-07-18" in result.outlines
    # $0.15 and $0.60 a million tokens: 1,000 in and 100 out
    assert report(suite)["totals"]["list_price_usd"] == pytest.approx(0.00021)
    assert report(suite)["totals"]["paid_usd"] == pytest.approx(0.000105)


def test_answers_that_no_test_used_are_paid_too(suite: Suite) -> None:
    """A prompt edited while its job runs: the old answer is collected by ID, and in the books."""
    suite.write(ONE_STEP)
    suite.run(*LATER)
    (job,) = (path.name for path in (suite.path / ".langasync/sandbox/jobs").iterdir())
    suite.write(ONE_STEP.replace("What is", "Name"))
    let_end(suite.provider)
    suite.run(f"--langasync-resume={job}", "--langasync-report=run.json")
    data = report(suite)
    assert data["totals"]["batched"] == 2 and len(suite.ledger()) == 2
    unused = [one for one in data["tests"][0]["calls"] if one["job_id"] == job]
    assert [one["paid_usd"] for one in unused] == [
        pytest.approx(data["totals"]["paid_usd"] / 2, rel=0.2)
    ]


def test_report(suite: Suite) -> None:
    """``--langasync-report`` holds the summary and each test's calls, answers, cost, jobs."""
    suite.write(TWO_STEPS + "@pytest.mark.langasync\ndef test_bad(): assert not ask('bad')\n")
    result = suite.run("--langasync-report=run.json", "--langasync-poll-interval=2")
    assert "report written to run.json" in result.outlines
    data = report(suite)
    assert data["exit_status"] == result.ret == 1 and data["ended_at"] > data["started_at"]
    assert data["settings"] == {"sandbox": True, "poll_interval": 2.0, "report": ["run.json"]}
    totals = data["totals"]
    assert (totals["requests"], totals["batched"], totals["failed"]) == (3, 3, 0)
    assert totals["paid_usd"] == pytest.approx(totals["list_price_usd"] / 2)
    assert totals["saved_percent"] == 50.0
    tests = {one["id"].split("::")[1]: one for one in data["tests"]}
    assert tests["test_judged"]["outcome"] == "passed" and tests["test_bad"]["outcome"] == "failed"
    asked, judged = tests["test_judged"]["calls"]
    assert asked["request"]["messages"][0]["content"] == "What is the capital of France?"
    assert "capital of France" in asked["answer"]["choices"][0]["message"]["content"]
    assert asked["job_id"] != judged["job_id"] and {asked["job_id"], judged["job_id"]} == set(
        data["jobs"]
    )
    assert asked["source"] == "batch" and asked["usage"]["input_tokens"] > 0
    assert asked["paid_usd"] == pytest.approx(asked["list_price_usd"] / 2)
    suite.run("--langasync-report=run.json")
    (again, _) = report(suite)["tests"][0]["calls"]
    assert again["source"] == "cache" and again["paid_usd"] == 0 and again["age_seconds"] > 0


def test_a_deferred_run_has_a_report(suite: Suite) -> None:
    suite.write(ONE_STEP)
    result = suite.run(*LATER, "--langasync-report=sub/run.json")
    data = json.loads((suite.path / "sub/run.json").read_text())
    assert data["exit_status"] == result.ret == 75 and data["totals"]["deferred"] == 1
    (test,) = data["tests"]
    assert test["outcome"] == "deferred" and test["deferred"][0]["job_id"] == data["jobs"][0]


class TestEstimate:
    """``--langasync-estimate``: the first wave, both prices, and nothing is sent."""

    def test_it(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(TWO_STEPS + ONE_STEP + CLAUDE + LIMITED + "def test_free(): pass\n")
        result = suite.plain("--langasync-estimate")
        assert result.ret == 0 and verdict(result) == {"passed": 1, "skipped": 7}
        assert not provider.requests() and not (suite.path / ".langasync").exists()
        rows = table(result)
        assert rows["gpt-4o-mini"][2] == "6" and rows["claude-sonnet-4-5"][2] == "1"
        assert rows["claude-sonnet-4-5"][4] == "64", "its output limit"
        text = output(result)
        assert "first wave only" in text and "deferred" not in text
        assert "likely: 0 of 7 by the length of earlier answers" in text
        assert re.search(r"^flex +\$[\d.]+ +\$[\d.]+ +seconds to 15", text, re.M)
        assert re.search(
            r"^\$[\d.]+ to \$[\d.]+ in real time, \$[\d.]+ to \$[\d.]+ as a", text, re.M
        )
        assert "run the same command again" not in text

    def test_without_a_key(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            monkeypatch.delenv(name)
        suite.pytester.makeconftest("import openai\nCLIENT = openai.OpenAI()\n")
        suite.write(ONE_STEP + CLAUDE)
        result = suite.plain("--langasync-estimate")
        assert result.ret == 0 and verdict(result) == {"skipped": 2}
        assert {"gpt-4o-mini", "claude-sonnet-4-5"} <= table(result).keys()
        assert not provider.requests()

    def test_earlier_answers_tell_how_long_the_next_will_be(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        result = suite.plain("--langasync-estimate", "--langasync-refresh")
        assert result.ret == 0 and "likely: 1 of 1 by the length" in output(result)
        likely = re.search(r"^batch +\$([\d.]+) ", output(result), re.M)
        assert likely is not None and float(likely[1]) < 0.00001, "not that of 300 tokens"

    def test_of_an_unknown_model(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(UNKNOWN)
        result = suite.plain("--langasync-estimate")
        assert "1 request of model homemade-7b has no known price" in result.outlines
        assert table(result)["homemade-7b"][-2:] == ["unknown", "unknown"]

    def test_with_all_answers_there(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        result = suite.plain("--langasync-estimate")
        assert result.ret == 0
        assert "nothing to send: every call of the first wave has a stored answer" in output(result)


class TestGuard:
    """``--langasync-max-cost``: over the whole run, before every wave."""

    def refused(self, result: pytest.RunResult) -> str:
        assert result.ret == 4
        (line,) = [one for one in result.errlines if one.startswith("ERROR: ")]
        assert line.startswith("ERROR: --langasync-max-cost: ")
        assert "Traceback" not in output(result)
        return line

    def test_nothing_is_sent_above_it(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(LIMITED + "def test_free(): pass\n")
        result = suite.plain(*BATCH, "--langasync-max-cost=0.001")
        line = self.refused(result)
        # 4 × 1,000 tokens at $0.30 a million, and the input
        assert re.search(r"may cost up to \$0\.0012, above \$0\.0010\. The next 4 req", line)
        assert verdict(result) == {"passed": 1, "deferred": 4} and not sent(provider)

    def test_before_every_wave(self, suite: Suite, provider: Sandbox) -> None:
        """The first wave turned out cheap; the second would have been allowed, a third is not."""
        suite.write(LIMITED)
        assert suite.plain(*BATCH, "--langasync-max-cost=0.0013").ret == 0
        assert len(provider.ledger()) == 8, "what was paid counts, not what was feared"
        suite.write(
            "@pytest.mark.langasync\n@pytest.mark.parametrize('n', range(4))\n"
            "def test_grows(n):\n    ask(f'one {n}', max_tokens=100)\n"
            "    ask(f'two {n}', max_tokens=2000)\n"
        )
        result = suite.plain(*BATCH, "--langasync-max-cost=0.0013")
        assert "what was bought before stays in the cache" in self.refused(result)
        assert verdict(result) == {"deferred": 4} and len(provider.ledger()) == 12
        assert suite.plain(*BATCH).ret == 0 and len(provider.ledger()) == 16

    def test_an_unknown_price_is_refused(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(UNKNOWN)
        result = suite.plain(*BATCH, "--langasync-max-cost=100")
        assert "no upper bound is known for 'homemade-7b'" in self.refused(result)
        assert not sent(provider)

    def test_real_time(self, suite: Suite, provider: Sandbox) -> None:
        """The guard covers what is sent at list price, too: a wave, or in place a call."""
        suite.write(LIMITED)
        for limit in ("0.0005", "0.00062"):
            result = suite.plain("--langasync-realtime", f"--langasync-max-cost={limit}")
            self.refused(result)
            assert not provider.ledger()
        in_place = ("--langasync-realtime", "--langasync-concurrency=1")
        self.refused(suite.plain(*in_place, "--langasync-max-cost=0.00062"))
        assert 0 < len(provider.ledger()) < 8
        assert suite.plain("--langasync-realtime", "--langasync-max-cost=1").ret == 0
        assert len(provider.ledger()) == 8

    def test_stored_answers_cost_nothing(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(LIMITED)
        suite.plain(*BATCH)
        assert suite.plain(*BATCH, "--langasync-max-cost=0").ret == 0

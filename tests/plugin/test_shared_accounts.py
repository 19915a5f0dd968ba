"""A colleague's cache, a copy that CI made, a cache that was lost: what their runs buy and book."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import openai
import pytest
from support.suite import BATCH, CLAUDE, LEAVE, ONE_STEP, SLOW, Suite, end_jobs, output

from pytest_langasync.cache.store import Store
from pytest_langasync.sandbox import Sandbox

DAY = 86400.0
NEWS = """
import os

@pytest.mark.langasync
def test_news():
    assert ask("What is new on day " + os.environ["DAY"] + "?")
"""


def copied(suite: Suite) -> str:
    """Copy the cache; return the option that uses the copy."""
    shutil.copytree(suite.path / ".langasync", suite.path / "copy")
    return f"--langasync-cache-dir={suite.path / 'copy'}"


def calls(suite: Suite) -> list[dict[str, Any]]:
    report = json.loads((suite.path / "run.json").read_text())
    return [call for test in report["tests"] for call in test["calls"]]


def aged(provider: Sandbox, days: float) -> None:
    """Make the provider's batches older."""
    for name in ("openai", "anthropic"):
        for batch_id in provider._state.batch_ids(name):
            provider._state.update_batch(
                batch_id, lambda fresh: fresh.update(created=fresh["created"] - days * DAY)
            )


def files(provider: Sandbox) -> set[str]:
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="sk-test") as client:
        return {file.id for file in client.files.list()}


def test_a_pull_requests_copy_leaves_mains_answers_alone(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(NEWS)
    monkeypatch.setenv("DAY", "1")
    provider.set_faults(SLOW)
    assert suite.plain(*LEAVE).ret == 75, "main submits"
    copy = copied(suite)
    end_jobs(provider)
    provider.set_faults({})
    suite.plain(*BATCH, copy, "--langasync-report=run.json").assert_outcomes(passed=1)
    (call,) = calls(suite)
    assert call["source"] == "cache" and call["paid_usd"] == 0, "main has paid"
    theirs = files(provider)
    store = Store(suite.path / "copy")
    store.open()
    for job in store.jobs():
        store.update_job(replace(job, ended_at=(job.ended_at or 0.0) - 40 * DAY))
    monkeypatch.setenv("DAY", "2")
    suite.plain(*BATCH, copy).assert_outcomes(passed=1)
    assert theirs <= files(provider), "its next push tidies"
    monkeypatch.setenv("DAY", "1")
    suite.plain(*BATCH, "--langasync-report=run.json").assert_outcomes(passed=1)
    (call,) = calls(suite)
    assert call["source"] == "batch" and call["paid_usd"] > 0, "main collects, and books it"
    assert len(provider.ledger()) == 2


def test_todays_answers_of_a_lost_cache_are_cached_and_told(
    suite: Suite, provider: Sandbox
) -> None:
    suite.write(ONE_STEP)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    (job,) = (suite.path / ".langasync/jobs").iterdir()
    aged(provider, 0.25)
    (suite.path / ".langasync").rename(suite.path / "lost")
    result = suite.plain(*BATCH, "--langasync-report=run.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*adopted {job.name} *bought 6 hours ago, not by this*"])
    (call,) = calls(suite)
    assert call["source"] == "cache" and call["paid_usd"] == 0
    assert call["age_seconds"] == pytest.approx(0.25 * DAY, abs=60)
    assert len(provider.ledger()) == 1


def test_last_months_answers_are_not(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    aged(provider, 20)
    (suite.path / ".langasync").rename(suite.path / "lost")
    result = suite.plain(*BATCH)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 jobs of this suite *the newest 20 days old*-adopt=30d*"])
    assert len(provider.ledger()) == 2
    aged(provider, 2)
    (suite.path / ".langasync").rename(suite.path / "lost again")
    asked = suite.plain(*BATCH, "--langasync-adopt=30d")
    asked.assert_outcomes(passed=1)
    assert "adopted" in output(asked) and len(provider.ledger()) == 2


def test_a_running_batch_at_anthropic_and_an_older_cache(suite: Suite, provider: Sandbox) -> None:
    suite.write(CLAUDE)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    copy = copied(suite)
    provider.set_faults(SLOW)
    suite.write(CLAUDE.replace("Say hi", "Say bye").replace("test_claude", "test_bye"))
    aged(provider, 0.01)
    assert suite.plain(*LEAVE).ret == 75
    result = suite.plain(*LEAVE, copy, "-rs")
    assert result.ret == 75 and len(provider.ledger()) == 2 - 1
    text = output(result)
    assert "only its results can tell whose it is" in text and "--langasync-adopt=0" in text
    assert "a running batch that this cache does not know may hold them" in text
    end_jobs(provider)
    provider.set_faults({})
    suite.plain(*BATCH, copy).assert_outcomes(passed=1)
    assert len(provider.ledger()) == 2

"""Files at OpenAI are deleted a day after their answers were stored, when nobody may need them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import openai
import pytest
from support.suite import BATCH, CLAUDE, Suite, end_jobs, output

from pytest_langasync.cache.store import Store
from pytest_langasync.sandbox import Sandbox

SOURCE = """
import os

@pytest.mark.langasync
def test_news():
    assert ask("What is new on day " + os.environ["DAY"] + "?")

@pytest.mark.langasync
def test_two_steps():
    assert ask("judge " + ask("What was it on day " + os.environ["DAY"] + "?"))
"""


@pytest.fixture
def day(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> object:
    def go_to(number: int) -> None:
        monkeypatch.setenv("DAY", str(number))
        store = Store(suite.path / ".langasync")
        store.open()
        for job in store.jobs():
            if job.ended_at is not None:
                store.update_job(replace(job, ended_at=job.ended_at - 90_000))

    go_to(1)
    return go_to


def files(provider: Sandbox) -> set[str]:
    """Return the IDs of the files that the provider has."""
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="sk-test") as client:
        return {file.id for file in client.files.list()}


def test_the_next_run_that_sends_something_deletes(
    suite: Suite, provider: Sandbox, day: object
) -> None:
    suite.write(SOURCE + CLAUDE)
    suite.plain(*BATCH).assert_outcomes(passed=3)
    first = files(provider)
    assert len(first) == 4, "input and output of two waves"
    suite.plain(*BATCH).assert_outcomes(passed=3)
    assert files(provider) == first, "a warm run needs no network"
    day(2)  # type: ignore[operator]
    suite.plain(*BATCH).assert_outcomes(passed=3)
    second = files(provider)
    assert len(second) == 4 and not first & second
    day(1)  # type: ignore[operator]
    suite.plain("--langasync-offline").assert_outcomes(passed=3)
    bought = Counter(str(row["body"]) for row in provider.ledger())
    assert set(bought.values()) == {1}


def test_they_stay_while_a_test_is_not_judged(suite: Suite, provider: Sandbox, day: object) -> None:
    suite.write(SOURCE)
    provider.set_faults({"batch": [{"latency": 3600, "nth": 2}]})
    waiting = suite.plain(*BATCH, "-k", "two_steps", "--langasync-timeout=0")
    assert waiting.ret == 75 and len(provider.ledger()) == 1
    first = files(provider)
    suite.plain(*BATCH, "-k", "news").assert_outcomes(passed=1, deselected=1)
    assert first <= files(provider), "the first wave is needed should the cache be lost"
    end_jobs(provider)
    suite.plain(*BATCH, "-k", "two_steps").assert_outcomes(passed=1, deselected=1)
    day(2)  # type: ignore[operator]
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert not first & files(provider)


@pytest.mark.parametrize("option", ["--langasync-keep-files", ""], ids=["option", "ini"])
def test_an_option_keeps_them(suite: Suite, provider: Sandbox, day: object, option: str) -> None:
    if not option:
        suite.pytester.makeini("[pytest]\nlangasync_keep_files = true\n")
    suite.write(SOURCE)
    options = [option] if option else []
    suite.plain(*BATCH, *options).assert_outcomes(passed=2)
    first = files(provider)
    day(2)  # type: ignore[operator]
    suite.plain(*BATCH, *options).assert_outcomes(passed=2)
    assert first < files(provider)


def test_trouble_is_left_to_the_next_run(suite: Suite, provider: Sandbox, day: object) -> None:
    suite.write(SOURCE)
    suite.plain(*BATCH).assert_outcomes(passed=2)
    first = files(provider)
    day(2)  # type: ignore[operator]
    provider.set_faults({"http": [{"path": "DELETE /v1/files/*", "status": 403, "count": 0}]})
    result = suite.plain(*BATCH)
    result.assert_outcomes(passed=2)
    assert "403" not in output(result) and first < files(provider)
    provider.set_faults({})
    day(3)  # type: ignore[operator]
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert not first & files(provider)


def test_answers_that_are_lost_here_and_there_are_bought_again(
    suite: Suite, provider: Sandbox, day: object
) -> None:
    suite.write(SOURCE)
    suite.plain(*BATCH, "-k", "news").assert_outcomes(passed=1, deselected=1)
    job = provider.ledger()[0]["job_id"]
    day(2)  # type: ignore[operator]
    suite.plain(*BATCH, "-k", "news").assert_outcomes(passed=1, deselected=1)
    day(1)  # type: ignore[operator]
    (suite.path / ".langasync/jobs" / job / "results.jsonl").write_text("damaged\n")
    result = suite.plain(*BATCH, "-k", "news", "--langasync-timeout=20")
    result.assert_outcomes(passed=1, deselected=1)
    assert "answers are missing; they are bought again" in output(result)
    assert len(provider.ledger()) == 3


def test_a_job_without_its_files_cannot_rebuild_a_cache(
    suite: Suite, provider: Sandbox, day: object
) -> None:
    suite.write(SOURCE)
    suite.plain(*BATCH, "-k", "news").assert_outcomes(passed=1, deselected=1)
    job = provider.ledger()[0]["job_id"]
    day(2)  # type: ignore[operator]
    suite.plain(*BATCH, "-k", "news").assert_outcomes(passed=1, deselected=1)
    day(1)  # type: ignore[operator]
    (suite.path / ".langasync").rename(suite.path / "lost")
    before = len(provider.ledger())
    options = ("-k", "news", f"--langasync-resume={job}", "--langasync-timeout=1")
    resumed = suite.plain(*BATCH, *options)
    assert "INTERNALERROR" not in output(resumed) and "Traceback" not in output(resumed)
    assert "no longer at OpenAI" in output(resumed)
    assert resumed.ret == 75 and len(provider.ledger()) == before

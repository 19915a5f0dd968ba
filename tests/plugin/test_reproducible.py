"""A test must ask the same again: what may differ, and what becomes of one that does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.suite import Suite, let_end

Verdicts = Callable[[pytest.RunResult], dict[str, int]]


def test_generated_identifiers_replay(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
import datetime, uuid

@pytest.mark.langasync
def test_it(tmp_path):
    token = str(uuid.uuid4())
    now = datetime.datetime.now().isoformat()
    answer = ask(f"id {token} at {now}", user=str(tmp_path))
    assert token in answer and now in answer
    assert token in ask(f"judge {token} {answer}")
""")
    result = suite.run("-v")
    assert verdicts(result) == {"passed": 1}
    assert len(suite.ledger()) == 2
    result.stdout.fnmatch_lines(["*generated identifiers*"])
    suite.pytester.makeini("[pytest]\nlangasync_match_generated_ids = false\n")
    assert verdicts(suite.run("-p", "no:cacheprovider")) == {"failed": 1}


RANDOM = """
import itertools
counter = itertools.count()

{mark}
@pytest.mark.langasync
def test_it():
    assert ask(f"number {{next(counter)}}")

@pytest.mark.langasync
def test_other(): assert ask("other")
"""


@pytest.mark.parametrize("mark", ["", "@pytest.mark.xfail"])
def test_another_request_each_time_fails_with_the_difference(
    suite: Suite, mark: str, verdicts: Verdicts
) -> None:
    suite.write(RANDOM.format(mark=mark))
    result = suite.run()
    assert result.ret == 1 and verdicts(result) == {"failed": 1, "passed": 1}
    result.stdout.fnmatch_lines(["*is not reproducible*", "*number 0*number 1*", "*realtime=True*"])
    assert sorted(text for wave in suite.waves() for text in wave) == ["number 0", "other"]


def test_an_edited_prompt_is_bought_and_said(suite: Suite, verdicts: Verdicts) -> None:
    source = "@pytest.mark.langasync\ndef test_it(): assert ask('judge ' + ask('{text}'))\n"
    late = ("--langasync-sandbox-latency=1h", "--langasync-timeout=0")
    suite.write(source.format(text="one"))
    for _ in range(2):  # the second run collects the first wave and sends the next
        assert verdicts(suite.run(*late)) == {"deferred": 1}
        let_end(suite.provider)
    suite.write(source.format(text="two"))
    result = suite.run()
    assert verdicts(result) == {"passed": 1}
    result.stdout.fnmatch_lines(["1 test asked something else than the run before*"])
    asked = sorted(text[-3:] for wave in suite.waves() for text in wave)
    assert asked == ["one", "one", "two", "two"], "both waves of either"


def test_an_unordered_set(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
import random

@pytest.mark.langasync
@pytest.mark.asyncio
async def test_it():
    texts = ["a", "b", "c", "d"]
    random.shuffle(texts)
    answers = await asyncio.gather(*map(aask, texts))
    assert [a[-1] for a in answers] == texts
    assert await aask("judge " + " ".join(sorted(answers)))
""")
    assert verdicts(suite.run()) == {"passed": 1}
    assert [len(wave) for wave in suite.waves()] == [4, 1]


def test_hypothesis_runs_in_real_time(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
from hypothesis import given, settings, strategies as st

@pytest.mark.langasync
@settings(max_examples=3, deadline=None, database=None)
@given(st.integers())
def test_it(n): assert ask(f"number {n}")
""")
    result = suite.run()
    assert verdicts(result) == {"passed": 1}
    assert {row["job_id"] for row in suite.ledger()} == {""}
    result.stdout.fnmatch_lines(["*ypothesis*"])


class TestSwallowed:
    """Tests that catch what parks them."""

    def test_what_comes_after_is_ignored(self, suite: Suite, verdicts: Verdicts) -> None:
        suite.write("""
@pytest.mark.langasync
def test_it():
    try:
        answer = ask("first")
    except BaseException:
        answer = "nothing"
    assert ask("second " + answer)
    assert "Sandbox" in answer
""")
        assert verdicts(suite.run()) == {"passed": 1}
        assert [wave[0][:6] for wave in suite.waves()] == ["first", "second"]

    def test_pytest_exit_is_a_park(self, suite: Suite, verdicts: Verdicts) -> None:
        suite.write("""
@pytest.mark.langasync
def test_it():
    try:
        assert ask("first")
    except BaseException:
        pytest.exit("no answer")
""")
        assert verdicts(suite.run()) == {"passed": 1}

    def test_ctrl_c_is_real(self, suite: Suite) -> None:
        suite.write("""
@pytest.mark.langasync
def test_it():
    try:
        ask("first")
    except BaseException:
        raise KeyboardInterrupt
""")
        result = suite.pytester.runpytest_subprocess("--langasync-sandbox", "-p", "no:randomly")
        assert result.ret == 2 and not suite.ledger()

    def test_threads_that_outlive_an_attempt(self, suite: Suite, verdicts: Verdicts) -> None:
        suite.write("""
import threading
released = threading.Event()

@pytest.mark.langasync
def test_it():
    def late():
        released.wait(5)
        ask("late")
    threading.Thread(target=late, daemon=True).start()
    assert ask("now")

def test_after(): released.set()
""")
        assert verdicts(suite.run("-W", "ignore")) == {"passed": 2}
        assert suite.waves()[0] == ["now"]

"""Runs that end before the answers are there, and the runs that go on with them."""

from __future__ import annotations

import re
import shutil
from xml.etree import ElementTree

import anthropic
import openai
import pytest
from support.suite import (
    BATCH,
    CLAUDE,
    LATER,
    LEAVE,
    ONE_STEP,
    SLOW,
    TWO_STEPS,
    Suite,
    end_jobs,
    jobs_in,
    let_end,
    output,
    start,
    until,
    verdict,
)

from pytest_langasync.sandbox import Sandbox

assert anthropic and openai  # imported here once, not anew by each run inside this process


class TestLeave:
    """``--langasync-timeout=0``: submit, leave, come back."""

    def test_waiting_tests_are_deferred(self, suite: Suite) -> None:
        suite.write(ONE_STEP + "def test_other(): pass\n")
        result = suite.run(*LATER, "-v", "-rs", "--junitxml=out.xml")
        assert result.ret == 75
        assert verdict(result) == {"passed": 1, "deferred": 1}
        (job,) = jobs_in(suite.path / ".langasync/sandbox")
        result.stdout.fnmatch_lines(["*test_plain DEFERRED*", f"*{job}*in_progress*0/1*"])
        tree = ElementTree.parse(suite.path / "out.xml")
        (skipped,) = tree.iter("skipped")
        assert job in skipped.attrib["message"] and "0/1" in skipped.attrib["message"]

    def test_the_letter_is_a_d(self, suite: Suite) -> None:
        suite.write(ONE_STEP + "def test_other(): pass\n")
        result = suite.run(*LATER, "-q")
        assert "D" in {letter for line in result.outlines for letter in _letters(line)}

    def test_a_failure_wins_over_deferral(self, suite: Suite) -> None:
        suite.write(ONE_STEP + "def test_bad(): assert 0\n")
        result = suite.run(*LATER)
        assert result.ret == 1
        assert verdict(result) == {"failed": 1, "deferred": 1}

    def test_lf_keeps_the_deferred(self, suite: Suite) -> None:
        suite.write(ONE_STEP + "def test_other(): pass\n")
        suite.run(*LATER)
        let_end(suite.provider)
        result = suite.run("--lf")
        assert verdict(result) == {"passed": 1}
        assert verdict(suite.run("--lf")) == {"passed": 2}, "nothing is left"

    def test_the_same_command_goes_on(self, suite: Suite) -> None:
        suite.write(TWO_STEPS + ONE_STEP)
        first = suite.run(*LATER)
        assert verdict(first) == {"deferred": 2} and suite.ledger() == []
        let_end(suite.provider)
        second = suite.run(*LATER)
        assert second.ret == 75 and verdict(second) == {"passed": 1, "deferred": 1}
        third = suite.run(*LATER)
        assert third.ret == 75 and verdict(third) == {"passed": 1, "deferred": 1}
        let_end(suite.provider)
        last = suite.run(*LATER)
        assert last.ret == 0 and verdict(last) == {"passed": 2}
        assert [len(wave) for wave in suite.waves()] == [2, 1]

    def test_both_providers(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP + CLAUDE)
        provider.set_faults(SLOW)
        assert suite.plain(*LEAVE).ret == 75
        end_jobs(provider)
        assert verdict(suite.plain(*LEAVE)) == {"passed": 2}
        assert len(provider.ledger()) == 2

    def test_the_cache_may_move(self, suite: Suite) -> None:
        suite.write(TWO_STEPS)
        suite.run(*LATER)
        let_end(suite.provider)
        (suite.path / ".langasync").rename(suite.path / "moved")
        assert suite.run(*LATER, "--langasync-cache-dir=moved").ret == 75
        let_end(suite.path / "moved/sandbox/provider")
        assert suite.run(*LATER, "--langasync-cache-dir=moved").ret == 0
        sandbox = Sandbox(suite.path / "moved/sandbox/provider")
        assert len(sandbox.ledger()) == 2
        sandbox.stop()


def _letters(line: str) -> str:
    found = re.fullmatch(r"(?:test_it\.py )?([.DFEs]+)\s*(?:\[100%\])?", line.strip())
    return found[1] if found else ""


class TestInterrupted:
    """A run that ends by force goes on with its jobs."""

    def test_killed_while_it_waits(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(TWO_STEPS + CLAUDE)
        provider.set_faults(SLOW)
        process = start(suite)
        until(process, "submitted msgbatch_")
        process.kill()
        process.communicate()
        end_jobs(provider)
        provider.set_faults({})
        result = suite.plain(*BATCH)
        assert verdict(result) == {"passed": 2}
        assert "attached batch_" in output(result) and "attached msgbatch_" in output(result)
        assert len(provider.ledger()) == 3
        assert provider.requests()["POST /v1/messages/batches"] == 1
        assert provider.requests()["POST /v1/batches"] == 2

    def test_ctrl_c_leaves_the_jobs_running(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP)
        provider.set_faults(SLOW)
        process = start(suite)
        until(process, "submitted batch_")
        process.send_signal(2)
        assert process.stdout is not None
        rest = process.stdout.read()
        assert process.wait() == 2
        (job,) = jobs_in(suite.path / ".langasync")
        assert f"--langasync-resume={job}" in rest and "Run the same command again" in rest
        assert "Traceback" not in rest
        assert provider.requests()[f"POST /v1/batches/{job}/cancel"] == 0
        end_jobs(provider)
        assert suite.plain(*BATCH).ret == 0
        assert len(provider.ledger()) == 1


class TestResume:
    """``--langasync-resume``: the cache is gone, the provider still has the answers."""

    def leave(self, suite: Suite, provider: Sandbox, source: str) -> str:
        suite.write(source)
        provider.set_faults(SLOW)
        assert suite.plain(*LEAVE).ret == 75
        provider.set_faults({})
        (job,) = jobs_in(suite.path / ".langasync")
        shutil.rmtree(suite.path / ".langasync")
        return job

    @pytest.mark.parametrize("source", [TWO_STEPS, CLAUDE], ids=["openai", "anthropic"])
    def test_with_an_empty_cache(self, suite: Suite, provider: Sandbox, source: str) -> None:
        job = self.leave(suite, provider, source)
        end_jobs(provider)
        result = suite.plain(*BATCH, f"--langasync-resume={job}")
        assert verdict(result) == {"passed": 1}
        assert len(provider.ledger()) == (2 if source is TWO_STEPS else 1)

    @pytest.mark.parametrize("source", [ONE_STEP, CLAUDE], ids=["openai", "anthropic"])
    def test_while_the_job_runs(self, suite: Suite, provider: Sandbox, source: str) -> None:
        job = self.leave(suite, provider, source)
        for _ in range(2):  # the second time, the cache knows the job, but perhaps not its requests
            result = suite.plain(*LEAVE, f"--langasync-resume={job}")
            assert result.ret == 75 and job in output(result)
        assert suite.plain(*LEAVE).ret == 75, "without the option, nothing is bought either"
        end_jobs(provider)
        assert verdict(suite.plain(*LEAVE, f"--langasync-resume={job}")) == {"passed": 1}
        assert len(provider.ledger()) == 1

    def test_several_jobs_of_several_waves(self, suite: Suite, provider: Sandbox) -> None:
        """Anthropic's batches carry no suite: with their IDs all of them are found."""
        suite.write(
            CLAUDE.replace("    assert", "    ask_claude(message)\n    assert")
            + """
def ask_claude(first):
    anthropic.Anthropic(max_retries=0).messages.create(
        model="claude-sonnet-4-5", max_tokens=64,
        messages=[{"role": "user", "content": "judge " + first.content[0].text}],
    )
"""
        )
        assert suite.plain(*BATCH).ret == 0
        jobs = jobs_in(suite.path / ".langasync")
        assert len(jobs) == 2
        shutil.rmtree(suite.path / ".langasync")
        assert suite.plain(*BATCH, f"--langasync-resume={','.join(jobs)}").ret == 0
        assert len(provider.ledger()) == 2

    def test_small_waves_look_for_what_was_bought(self, suite: Suite, provider: Sandbox) -> None:
        """With the cache gone, ``--langasync-realtime-under`` does not pay again in real time."""
        suite.write(ONE_STEP)
        suite.plain(*BATCH)
        shutil.rmtree(suite.path / ".langasync")
        assert suite.plain(*BATCH, "--langasync-realtime-under=5").ret == 0
        assert len(provider.ledger()) == 1

    def test_the_suite_is_the_project(self, suite: Suite, provider: Sandbox) -> None:
        """CI checks a project out into folders of many names."""
        suite.write(ONE_STEP)
        (suite.path / "pyproject.toml").write_text('[project]\nname = "evals"\n')
        suite.plain(*BATCH)
        shutil.rmtree(suite.path / ".langasync")
        moved = suite.path / "job@2"
        moved.mkdir()
        for name in ("pyproject.toml", "test_it.py", "llm.py", "tox.ini"):
            shutil.copy(suite.path / name, moved)
        result = suite.plain(*BATCH, f"--rootdir={moved}", "-c", str(moved / "tox.ini"), str(moved))
        assert result.ret == 0 and len(provider.ledger()) == 1

    def test_last(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP)
        provider.set_faults(SLOW)
        suite.plain(*LEAVE)
        end_jobs(provider)
        assert suite.plain(*BATCH, "--langasync-resume=last").ret == 0
        assert len(provider.ledger()) == 1

    def test_last_of_nothing(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP)
        result = suite.plain(*BATCH, "--langasync-resume=last")
        assert result.ret == 4
        assert output(result).count("there is no job in") == 1
        assert provider.requests()["POST /v1/batches"] == 0

    @pytest.mark.parametrize(
        ("job", "says"),
        [
            ("batch_000000000000000000000000", "does not know the"),
            ("msgbatch_000000000000000000000000", "no call waits for an answer of a job"),
            ("nonsense", "is not a job ID of a known provider"),
        ],
    )
    def test_a_wrong_id(self, suite: Suite, provider: Sandbox, job: str, says: str) -> None:
        suite.write(ONE_STEP)
        result = suite.plain(*BATCH, f"--langasync-resume={job}")
        assert result.ret == 4
        (line,) = [one for one in result.errlines if one.startswith("ERROR: ")]
        assert says in line and "Traceback" not in output(result)
        assert provider.requests()["POST /v1/batches"] == 0


@pytest.mark.parametrize("kind", ["raised", "swallowed"])
def test_whoever_shares_a_parked_fixture_waits_for_its_calls(suite: Suite, kind: str) -> None:
    body = 'return ask("shared")'
    if kind == "swallowed":
        body = "try: " + body + "\n    except BaseException: return None"
    suite.write(f"""
@pytest.fixture(scope="session")
def answer():
    trace("set up")
    {body}

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(3))
def test_it(answer, n): assert "shared" in answer

def test_unmarked(answer): assert "shared" in answer
""")
    result = suite.run(*LATER, "-rs")
    assert verdict(result) == {"deferred": 4}
    assert result.ret == 75
    assert suite.traced() == ["set up"]
    result.stdout.fnmatch_lines(["  *::test_unmarked: waiting for batch_* with 1 call: 3 tests *"])
    assert result.stdout.str().count("with 1 call") == 4
    let_end(suite.provider)
    assert verdict(suite.run()) == {"passed": 4}
    assert suite.traced()[-1:] == ["set up"]
    assert suite.waves() == [["shared"]]


@pytest.mark.timeout(60)
def test_a_test_parked_without_a_call_brings_nothing_forward(suite: Suite) -> None:
    suite.write("""
from pytest_langasync.plugin.parked_fixtures import Parked

pytestmark = pytest.mark.langasync

def test_callless(langasync):
    trace(f"attempt {langasync.attempt}")
    if langasync.attempt < 3:
        raise Parked("by a thread of an attempt that has ended")

def test_it(): assert ask("hello")
""")
    result = suite.run(*LATER)
    assert verdict(result) == {"deferred": 2}
    assert suite.traced() == ["attempt 1"]
    result.stdout.fnmatch_lines(["  parked without a call of its own"])
    let_end(suite.provider)
    assert verdict(suite.run()) == {"passed": 2}
    assert suite.traced() == ["attempt 1", "attempt 2", "attempt 3"]

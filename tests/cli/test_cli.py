"""``python -m pytest_langasync``: what it shows, cancels, removes and finds."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.chains import wrapped
from support.suite import BATCH, CLAUDE, ONE_STEP, TWO_STEPS, Suite, end_jobs

from pytest_langasync.cache.store import Store
from pytest_langasync.cli import main
from pytest_langasync.models import Job, JobState
from pytest_langasync.sandbox import Sandbox


def command(suite: Suite, *arguments: str) -> tuple[int, str]:
    """Run one command on the suite's cache; return its status and what it wrote."""
    out = io.StringIO()
    cache = suite.path / ".langasync"
    status = main(["--cache-dir", str(cache), *arguments], out)
    return status, out.getvalue()


def test_jobs_and_show(suite: Suite, provider: Sandbox) -> None:
    assert command(suite, "jobs") == (0, f"no jobs in {suite.path / '.langasync'}\n")
    suite.write(ONE_STEP + CLAUDE + ONE_STEP.replace("test_plain", "test_bad").replace(
        "What is", "[[status:400]] What is"))  # fmt: skip
    suite.plain(*BATCH)
    suite.plain(*BATCH, "--langasync-refresh")
    status, text = command(suite, "jobs")
    lines = text.splitlines()
    assert status == 0 and len(lines) == 5 and lines[0].split()[:3] == ["job", "age", "provider"]
    gpt = next(line for line in lines if "gpt-4o-mini" in line)
    assert gpt.split()[4:8] == ["completed", "2", "1", "1"] and gpt.split()[-1].startswith("$0.0")
    assert next(line.split()[-1] for line in lines if "gpt" in line) != "$0.00", (
        "refreshed, yet paid"
    )
    status, text = command(suite, "show", lines[-1].split()[0])
    assert (
        status == 0 and "asked     " in text and "answered  " in text and "Sandbox answer" in text
    )


def test_nothing_controls_the_terminal(suite: Suite, provider: Sandbox) -> None:
    suite.write("@pytest.mark.langasync\ndef test_it(): ask('\\x1b[2J evil \\x1b]0;title\\x07')\n")
    suite.plain(*BATCH)
    job = command(suite, "jobs")[1].splitlines()[1].split()[0]
    text = command(suite, "show", job)[1]
    assert "evil" in text and "\x1b" not in text and "\x07" not in text


def test_cancel(suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write(ONE_STEP)
    provider.set_faults({"batch": [{"latency": 3600}]})
    suite.plain(*BATCH, "--langasync-timeout=0")
    _status, text = command(suite, "jobs")
    job = text.splitlines()[1].split()[0]
    assert f"--langasync-resume={job}" in text
    assert f"{job}: in_progress 0/1" in command(suite, "doctor")[1]
    assert "is being cancelled" in command(suite, "cancel", job)[1]
    end_jobs(provider)
    provider.set_faults({})
    assert suite.plain(*BATCH).ret == 0
    assert "has ended already" in command(suite, "cancel", job)[1]
    assert len(provider.ledger()) == 1
    monkeypatch.delenv("OPENAI_API_KEY")
    provider.set_faults({"batch": [{"latency": 3600}]})


def test_a_chains_job_is_known(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(suite.path)
    provider.set_faults({"batch": [{"latency": 3600}]})
    job = wrapped().submit_batch(["a"])
    text = command(suite, "show", job.id)[1]
    assert text.startswith(f"{job.id}: chain ask, 1 input, going on, provider jobs: batch_")
    assert "asked     About a" in text
    status, text = command(suite, "cancel", job.id)
    assert status == 0 and f"{job.provider_jobs[0]} is being cancelled" in text
    end_jobs(provider)
    later = wrapped().get_job(job.id)
    assert later.wait(timeout=30) == [None] and later.status == "cancelled"
    assert "1 input, cancelled" in command(suite, "show", job.id)[1]
    assert provider.requests()["POST /v1/batches"] == 1


def test_prune(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP + CLAUDE)
    suite.plain(*BATCH)
    assert command(suite, "prune", "--older-than", "1h") == (
        0,
        "removed 0 jobs and their answers, 0 answers obtained at list price, and 0 accounts of "
        "runs\n",
    )
    provider.set_faults({"batch": [{"latency": 3600}]})
    suite.write(ONE_STEP.replace("Spain", "Italy"), "test_more")
    suite.plain(*BATCH, "--langasync-timeout=0")
    _status, text = command(suite, "prune", "--older-than", "0")
    assert (
        text
        == "removed 2 jobs and their answers, 0 answers obtained at list price, and 2 accounts "
        "of runs\nkept 1 that still run\n"
    )
    left = Store(suite.path / ".langasync")
    left.open()
    assert [job.state for job in left.jobs()] == [JobState.RUNNING]


def test_prune_in_real_time(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP)
    suite.plain("--langasync-realtime").assert_outcomes(passed=1)
    realtime = suite.path / ".langasync" / "realtime"
    assert ", 0 answers obtained" in command(suite, "prune", "--older-than", "1h")[1]
    assert len(list(realtime.iterdir())) == 1
    assert ", 1 answers obtained" in command(suite, "prune", "--older-than", "0")[1]
    assert list(realtime.iterdir()) == [] and provider.ledger()
    suite.plain("--langasync-realtime").assert_outcomes(passed=1)
    assert len(provider.ledger()) == 2


def doubtful(suite: Suite, provider: Sandbox) -> Store:
    """Leave a submission in doubt; return the cache."""
    suite.write(ONE_STEP)
    listing = {"path": "GET /v1/batches*", "nth": 3, "status": 500, "count": 0}
    create = {"path": "POST /v1/batches", "status": 500, "after": True}
    provider.set_faults({"http": [create, listing]})
    suite.plain(*BATCH, "--langasync-timeout=0")
    provider.set_faults({})
    store = Store(suite.path / ".langasync")
    store.open()
    return store


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_doctor_and_a_submission_in_doubt(suite: Suite, provider: Sandbox) -> None:
    assert command(suite, "doctor")[0] == 0
    store = doubtful(suite, provider)
    (intent,) = store.open_submissions()
    status, text = command(suite, "doctor")
    assert status == 1 and f"doctor --forget {intent.nonce}" in text
    assert command(suite, "doctor", "--forget", "nothing")[0] == 2
    assert command(suite, "doctor", "--forget", intent.nonce)[0] == 0
    provider.set_faults({})
    text = command(suite, "doctor")[1]
    assert not store.open_submissions() and "in doubt" not in text and "orphan: " in text


class TestDoctor:
    def test_every_damaged_file_is_named(self, suite: Suite, provider: Sandbox) -> None:
        store = doubtful(suite, provider)
        suite.write(CLAUDE, "test_more")
        suite.plain(*BATCH, "test_more.py")
        (nonce,) = store.intents.nonces()
        names = [f"intents/{nonce}.requests.jsonl", "state.json"]
        for pattern in ("jobs/*/job.json", "jobs/*/requests.jsonl", "runs/*.json"):
            path = next(store.root.glob(pattern))
            names.append(str(path.relative_to(store.root)))
        for name in names:
            flip(store.root / name)
        text = command(suite, "doctor")[1]
        assert [name for name in names if f"{store.root / name}: " not in text] == []
        for name in (f"{nonce}.json", f"{nonce}.json.copy"):
            flip(store.root / "intents" / name)
        status, text = command(suite, "doctor")
        assert status == 1 and f"damage: submission {nonce} cannot be read" in text
        assert command(suite, "doctor", "--forget", nonce)[0] == 0
        assert nonce not in command(suite, "doctor")[1]

    def test_what_another_process_submits_is_not_in_doubt(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        store = doubtful(suite, provider)
        stray = store.root / "intents" / "abcdefghijkl.requests.jsonl"
        stray.write_text("another process is about to write its submission")
        with store.lock():
            stray.write_text("once more")
            status, text = command(suite, "doctor")
        assert status == 0 and "another process is submitting" in text and "in doubt" not in text
        assert stray.exists()
        assert command(suite, "doctor")[0] == 1

    def test_forgetting_what_became_a_job_meanwhile(
        self, suite: Suite, provider: Sandbox, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = doubtful(suite, provider)
        (intent,) = store.open_submissions()
        m = intent.meta
        job = Job("batch_1", m.provider, m.base_url, m.endpoint, m.model, (), intent.nonce, 1.0, 1)
        out, statuses = io.StringIO(), []
        arguments = ["--cache-dir", str(store.root), "doctor", "--forget", intent.nonce]
        thread = threading.Thread(target=lambda: statuses.append(main(arguments, out)))
        with store.lock():
            thread.start()
            while thread.is_alive() and "waiting for it" not in out.getvalue():
                time.sleep(0.01)
            store.promote(intent.nonce, job)
        thread.join(10)
        assert statuses == [2] and "forgotten" not in out.getvalue()
        assert "it is the job batch_1" in capsys.readouterr().err

    def test_jobs_of_a_lost_cache_are_found(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite.write(ONE_STEP)
        suite.plain(*BATCH).assert_outcomes(passed=1)
        shutil.rmtree(suite.path / ".langasync")
        status, text = command(suite, "doctor")
        assert status == 1 and f"orphan: {provider.ledger()[0]['job_id']} (1 requests)" in text
        assert not (suite.path / ".langasync").exists()
        monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/elsewhere")
        assert command(suite, "doctor")[0] == 0, "a server without a batch API is no trouble"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["show", "batch_nothing"], "there is no job 'batch_nothing'"),
        (["prune", "--older-than", "soon"], "'soon' is not a duration"),
    ],
)
def test_mistakes(
    suite: Suite, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(suite, *arguments)[0] == 2
    assert text in capsys.readouterr().err


def test_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_langasync", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "doctor" in done.stdout


def test_doctor_finds_orphans(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(TWO_STEPS + CLAUDE)
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert command(suite, "doctor") == (0, command(suite, "doctor")[1])
    first, _second = sorted(
        (suite.path / ".langasync" / "jobs").glob("batch_*"), key=lambda path: path.stat().st_ctime
    )
    first.rename(suite.path / "lost")
    status, text = command(suite, "doctor")
    assert status == 1 and f"orphan: {first.name} (1 requests)" in text
    assert f"--langasync-resume={first.name} takes it in" in text and "msgbatch" not in text
    suite.plain(*BATCH, f"--langasync-resume={first.name}").assert_outcomes(passed=2)
    assert len(provider.ledger()) == 3 and command(suite, "doctor")[0] == 0
    first.rename(suite.path / "lost again")
    monkeypatch.delenv("OPENAI_API_KEY")
    status, text = command(suite, "doctor")
    assert status == 0 and "orphan:" not in text, "nobody can be asked without a key"

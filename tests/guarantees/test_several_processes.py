"""Several processes: the workers of one pytest-xdist run, and whole runs side by side."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.suite import Suite, until

from pytest_langasync.cache.store import Store
from pytest_langasync.engine.buyer import WaveResult
from pytest_langasync.models import MissingCall, Target
from pytest_langasync.plugin.xdist_link import Controller, WorkerLink
from pytest_langasync.plugin.xdist_messages import WaveReply
from pytest_langasync.sandbox import Sandbox

pytest.importorskip("xdist")
TWO_WAVES = """
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(8))
def test_it(n):
    answer = ask(f"number {n}")
    if n % 2:
        assert "again" in ask("again " + answer)
    assert n != 5

def test_plain():
    pass
"""


class Processes:
    """Runs pytest on a suite in processes of their own."""

    def __init__(self, suite: Suite) -> None:
        self.path, self.started = suite.path, list[subprocess.Popen[str]]()

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
        process = subprocess.Popen(
            command,
            cwd=self.path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.started.append(process)
        return process

    def run(self, *args: str) -> tuple[int, dict[str, int], str]:
        """Return exit status, outcomes and output."""
        return self.result(self.start(*args))

    def result(self, process: subprocess.Popen[str]) -> tuple[int, dict[str, int], str]:
        output, _ = process.communicate(timeout=240)
        last = [line for line in output.splitlines() if re.search(r" in \d[^ ]*s\b", line)][-1:]
        found = re.findall(r"(\d+) (passed|failed|deferred|error)", "".join(last))
        return process.returncode, {word: int(count) for count, word in found}, output


@pytest.fixture
def processes(suite: Suite) -> Iterator[Processes]:
    suite.use("xdist.plugin")
    started = Processes(suite)
    yield started
    for process in started.started:
        process.kill()


@pytest.mark.parametrize("dist", ["load", "loadscope", "worksteal"])
def test_one_job_for_the_whole_run(suite: Suite, processes: Processes, dist: str) -> None:
    suite.write(TWO_WAVES)
    suite.write(TWO_WAVES.replace("number", "other"), "test_other")
    status, outcomes, output = processes.run("--langasync-sandbox", "-n2", "--dist", dist, "-v")
    assert (status, outcomes) == (1, {"passed": 16, "failed": 2}), output
    assert [len(wave) for wave in suite.waves()] == [16, 8]
    shown = Counter(re.findall(r"(?:PASSED|FAILED) (test_\w+\.py::\S+)", output.split("= FAIL")[0]))
    assert len(shown) == 18 and set(shown.values()) == {1}
    assert "gathered 16 requests: wave 1" in output
    assert re.search(r"gpt-4o-mini +24 ", output)
    if dist == "load":
        status, outcomes, _ = processes.run("--langasync-sandbox", "-n2")
        assert (status, outcomes, len(suite.ledger())) == (1, {"passed": 16, "failed": 2}, 24)


def test_a_worker_that_crashes_in_a_wave(suite: Suite, processes: Processes) -> None:
    suite.write("""
import os
import pathlib

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(8))
def test_it(n):
    ask(f"number {n}")
    if n == 3 and not pathlib.Path("mended").exists():
        os._exit(3)
""")
    status, outcomes, output = processes.run("--langasync-sandbox", "-n2")
    assert status == 1 and outcomes["failed"] == 1, output
    assert sum(outcomes.values()) == 8, "each test is reported"
    assert "crashed while running 'test_it.py::test_it[3]'" in output
    assert [len(wave) for wave in suite.waves()] == [8]
    (suite.path / "mended").touch()
    status, outcomes, _ = processes.run("--langasync-sandbox", "-n2")
    assert (status, outcomes, len(suite.ledger())) == (0, {"passed": 8}, 8)


def test_a_worker_that_crashes_before_the_wave(suite: Suite, processes: Processes) -> None:
    suite.write("""
import os

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(8))
def test_it(n):
    if n == 4:
        os._exit(3)
    ask(f"number {n}")
""")
    status, outcomes, output = processes.run("--langasync-sandbox", "-n2")
    assert status == 1 and outcomes["failed"] == 1 and sum(outcomes.values()) == 8, output
    assert outcomes.get("passed", 0) >= 3, "nobody else is held up"
    assert len(suite.waves()) == 1


def test_stopped_by_a_failure_nothing_more_is_sent(suite: Suite, processes: Processes) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(6))
def test_it(n):
    ask(f"number {n}")

@pytest.mark.parametrize("n", range(2))
def test_fails(n):
    assert False
""")
    for option in ("-x", "--maxfail=2"):
        status, _, output = processes.run("--langasync-sandbox", "-n2", option)
        assert status in (1, 2) and suite.ledger() == [], output
        assert re.search(r"stopped: \d tests were still parked", output)


def test_estimates_and_the_cost_guard_count_the_whole_run(
    suite: Suite, processes: Processes
) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(8))
def test_it(n):
    ask(f"number {n}", max_tokens=1_000_000)
""")
    status, outcomes, output = processes.run("--langasync-estimate", "--langasync-sandbox", "-n2")
    assert (status, outcomes) == (0, {}), output
    assert re.search(r"gpt-4o-mini +8 +~\d+ +8,000,000 ", output)
    # Either half of the tests would have been allowed: $0.30 a test.
    cost = "--langasync-max-cost=2"
    status, outcomes, output = processes.run("--langasync-sandbox", "-n2", cost)
    assert status == 4 and outcomes == {"deferred": 8}, output
    assert "ERROR: --langasync-max-cost: this run may cost up to $2.4" in output
    assert suite.ledger() == []


def test_mistakes_are_one_line(
    suite: Suite, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(TWO_WAVES)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    status, _, output = processes.run("--langasync-batch", "-n2")
    assert status == 4 and output.count("Traceback") == 0, output
    assert output.count("ERROR: no API key: set OPENAI_API_KEY. Nothing was sent") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted_while_it_waits(suite: Suite, processes: Processes, provider: Sandbox) -> None:
    import signal

    suite.write(TWO_WAVES)
    provider.set_faults({"batch": [{"latency": 3600.0}]})
    process = processes.start("--langasync-batch", "-n2")
    deadline = time.monotonic() + 120
    while "POST /v1/batches" not in provider.requests() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    status, _, output = processes.result(process)
    assert status == 2, output
    assert re.search(r"batch_\w+", output.split("langasync ---")[-1]), "which jobs go on"
    assert provider.requests()["POST /v1/batches"] == 1


def test_after_a_sigterm_no_worker_is_left(suite: Suite, processes: Processes) -> None:
    suite.write("""
import os
import pathlib

@pytest.fixture(scope="session", autouse=True)
def process():
    pathlib.Path(f"worker.{os.getpid()}").touch()

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(n): ask(f"number {n}")
""")
    process = processes.start("--langasync-sandbox", "--langasync-sandbox-latency=1h", "-n2")
    until(process, "in_progress 0/4")
    workers = [int(path.suffix[1:]) for path in suite.path.glob("worker.*")]
    assert len(workers) == 2
    process.terminate()
    processes.result(process)  # comes once nobody holds its output: the workers have ended
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_tests_that_look_at_others(suite: Suite, processes: Processes) -> None:
    suite.write("""
FOUND = []

@pytest.fixture(scope="module")
def results(): return []

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(results, n):
    FOUND.append(ask(f"number {n}"))
    if n % 2:
        ask(f"again {n}")
    assert len(results) == n
    results.append(n)

def test_all(results):
    assert len(FOUND) == len(results) == 4
""")
    suite.write(TWO_WAVES, "test_other")
    status, outcomes, output = processes.run("--langasync-sandbox", "-n2", "--dist=loadfile")
    assert (status, outcomes) == (1, {"passed": 13, "failed": 1}), output
    assert len(suite.ledger()) == 18


def test_eight_runs_at_once(suite: Suite, processes: Processes, provider: Sandbox) -> None:
    suite.write(TWO_WAVES)
    cache = suite.path / ".langasync"
    cache.mkdir()
    leave_stale_locks(cache)
    running = [processes.start("--langasync-batch") for _ in range(8)]
    for process in running:
        status, outcomes, output = processes.result(process)
        assert (status, outcomes) == (1, {"passed": 8, "failed": 1}), output
    asked = Counter(row["body"]["messages"][0]["content"] for row in provider.ledger())
    assert len(asked) == 12 and set(asked.values()) == {1}


def leave_stale_locks(cache: Path) -> None:
    """Let a process die while it holds every lock of the cache."""
    code = (
        "import os, sys, filelock\n"
        "for name in ('submit.lock', 'state.lock'):\n"
        "    filelock.FileLock(os.path.join(sys.argv[1], name)).acquire()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(cache)], check=False)


A_PENDING = MissingCall("k", "t", 0, Target("openai", "u", "/e"), "m", 2)


def link(controller: Controller, store: Store) -> WorkerLink:
    return WorkerLink(
        controller.invite("gw0", started_at=0.0),
        store,
        bought=lambda missing, bases: None,
        failed=lambda: 0,
        refused=lambda: "",
    )


def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has about 100 characters at most; pytest-xdist itself needs none."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    configuration = vars(multiprocessing.current_process())["_config"]
    monkeypatch.setitem(configuration, "tempdir", str(long))
    store = Store(tmp_path / "cache")
    controller = Controller(
        store,
        lambda missing, refused: WaveReply(result=WaveResult(why="hello")),
        lambda key, request: None,
    )
    try:
        assert link(controller, store).buy([]).why == "hello"
    finally:
        controller.close()


def test_what_the_controller_does_not_understand_ends_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    controller = Controller(
        store, lambda missing, refused: WaveReply(result=WaveResult()), lambda key, request: None
    )
    try:
        worker = link(controller, store)
        target = replace(A_PENDING.target, headers=(("only",),))  # type: ignore[arg-type]
        nonsense = replace(A_PENDING, target=target)
        store.spool(nonsense, {})
        with (
            pytest.warns(UserWarning, match="serializer"),  # pydantic sees it, too
            pytest.raises(KeyboardInterrupt, match="has ended"),
        ):
            worker.buy([nonsense])
        assert isinstance(controller.error, ValueError) and controller.ended
    finally:
        controller.close()

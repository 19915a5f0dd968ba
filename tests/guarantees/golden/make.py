"""How the golden files were made: ``python tests/guarantees/golden/make.py``, at version 0.1.0.

They show what that version wrote (layout 1 of the cache, schema 1 of the report) and what it
offered its users, and are kept: ``test_golden.py`` reads them with the code of today. Made anew by
a later version they would guard nothing, so this script does not replace them. Given a folder, it
shows there what today's code makes: ``make.py FOLDER``.

- ``cache/``: of the suite in ``suite/``, in batch mode, at the base URLs in ``golden_files``; a
  sandbox answered behind a proxy. ``test_evals.py`` was judged; of ``test_later.py`` the last calls
  of each test were left under way; ``test_last.py`` was stopped (``-x``) at its first test when
  all answers were there. Two jobs of the chain in ``chain.py``: one done, and one whose second wave
  is under way.
- ``private/``: the embedded sandbox's cache of ``test_last.py``, stopped in the same way, with
  ``langasync_store_prompts = false``.
- ``doubt/``: of ``test_waits`` in ``test_later.py``, whose batch was created while the answer to
  that, and then the provider's list, did not come through: a submission in doubt.
- ``facts.json``: what came of all that.
- ``report.json``: the report of a run of ``test_evals.py`` and ``test_live.py`` on the embedded
  sandbox, compared with an earlier one; ``offline.json``: that of a run on ``cache/`` alone. Both
  as ``golden_files.normal`` shows them.
- ``interface.json``: options, settings, hooks, marker, fixtures, commands and names.

The clock was set back: an answer from the future is no old one, and a machine's clock may be slow.
``.gitignore`` is called ``gitignore`` in the copies, for git would heed it. Locks are left out.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHIFT = 1793534400.0 - time.time()
"""From now to November 2026, in seconds."""
EARLIER = "import time\nnow = time.time\ntime.time = lambda: now() + {shift}\n"
real = time.time
time.time = lambda: real() + SHIFT
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import golden_files as golden  # noqa: E402
import golden_interface  # noqa: E402

from pytest_langasync.sandbox import Sandbox  # noqa: E402

PYTEST = (sys.executable, "-m", "pytest", *golden.ALONE)
BATCH = (*PYTEST, "--langasync-batch", "--langasync-poll-interval=0.05")
SUBMIT = """
import json, sys, time
from chain import capital
from pytest_langasync import wrap_chain

chain = wrap_chain(capital, poll_interval=0.05)
job = chain.submit_batch(sys.argv[3:], urgent=lambda country: country == "Peru")
while len(job.provider_jobs) < int(sys.argv[2]):
    job.get_status()
    time.sleep(0.05)
results = job.wait() if sys.argv[1] == "wait" else None
print(json.dumps({"id": job.id, "provider_jobs": job.provider_jobs, "results": results}))
"""
"""How many jobs of the provider's to wait for is its second argument, inputs are what follows."""


def main(target: Path) -> None:
    """Make all of them in ``target``."""
    if (target / "cache").exists():
        raise SystemExit(__doc__)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "early").mkdir()
        (work / "early" / "sitecustomize.py").write_text(EARLIER.format(shift=SHIFT))
        os.environ["PYTHONPATH"] = str(work / "early")
        facts = bought(work, target)
        write(target / "facts.json", facts)
        private(work, target)
        doubt(work, target)
        reports(work, target, facts["run"])
        empty = work / "empty"
        empty.mkdir()
        write(
            target / "interface.json",
            golden_interface.today(
                empty,
                lambda *args: expect(run(empty, golden.environment(), *PYTEST, *args), 0),
                lambda *args: expect(
                    run(empty, {**os.environ, "COLUMNS": "100"}, *COMMANDS, *args), 0
                ),
            ),
        )


COMMANDS = (sys.executable, "-m", "pytest_langasync")


def bought(work: Path, target: Path) -> dict[str, Any]:
    """Make ``cache/``; return the facts."""
    suite = golden.unpack(work / "golden", "test_evals.py", "chain.py")
    with Sandbox(work / "provider") as sandbox, golden.behind(to_sandbox(sandbox)) as port:
        env = golden.environment(f"http://127.0.0.1:{port}", keys=True)
        expect(run(suite, env, *BATCH, "test_evals.py", "--langasync-report=evals.json"), 0)
        submit = (sys.executable, "-c", SUBMIT)
        done = run(suite, env, *submit, "wait", "0", "France", "Spain", "Peru")
        chains = {"done": json.loads(expect(done, 0))}
        golden.unpack(suite, "test_later.py", "test_last.py")
        later = (*BATCH, "--langasync-timeout=0")
        sandbox.set_faults({"batch": [endless(provider="openai")]})
        for _ in range(2):
            both = "test_later.py::test_waits_for_both"
            expect(run(suite, env, *later, both), 75)
        sandbox.set_faults({"batch": [endless()]})
        one_each = ("test_later.py::test_waits", "test_later.py::test_waits_at_claude")
        expect(run(suite, env, *later, *one_each), 75)
        sandbox.set_faults({"batch": [endless(nth=2)]})
        left = run(suite, env, *submit, "leave", "2", "Chile", "Kenya")
        chains["under way"] = json.loads(expect(left, 0))
        sandbox.set_faults({})
        expect(run(suite, env, *BATCH, "-x", "test_last.py"), 1)
    keep(suite / ".langasync", target / "cache")
    report = golden.load(suite / "evals.json")
    verdicts = {test["id"]: test["outcome"] for test in report["tests"]}
    return {"run": report["name"], "verdicts": verdicts, "chains": chains}


def endless(**when: Any) -> dict[str, Any]:
    """Return a fault of the sandbox's: batches that take for ever."""
    return {"count": 0, "latency": 1e10, **when}


def to_sandbox(sandbox: Sandbox) -> golden.Handle:
    """Return a function that hands requests to any host on to the sandbox."""

    def handle(asked: golden.Asked) -> golden.Answer:
        behind = http.client.HTTPConnection("127.0.0.1", int(sandbox.url.rpartition(":")[2]))
        try:
            behind.request(asked.method, asked.target, asked.data, dict(asked.headers))
            reply = behind.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            behind.close()

    return handle


def private(work: Path, target: Path) -> None:
    """Make ``private/``."""
    suite = golden.unpack(work / "private", "test_last.py")
    (suite / "pytest.ini").write_text(golden.PRIVATE_INI)
    done = run(suite, golden.environment(official=True), *PYTEST, "--langasync-sandbox", "-x")
    expect(done, 1)
    keep(suite / ".langasync" / "sandbox", target / "private")


def doubt(work: Path, target: Path) -> None:
    """Make ``doubt/``."""
    suite = golden.unpack(work / "doubt", "test_later.py")
    lost = {"path": "POST /v1/batches", "after": True, "reset": True, "count": 0}
    blind = {"path": "GET /v1/batches", "status": 403, "nth": 3, "count": 0}
    with Sandbox(work / "doubtful") as sandbox, golden.behind(to_sandbox(sandbox)) as port:
        sandbox.set_faults({"http": [lost, blind]})
        env = golden.environment(f"http://127.0.0.1:{port}", keys=True)
        expect(run(suite, env, *BATCH, "test_later.py::test_waits"), 4)
    keep(suite / ".langasync", target / "doubt")


def reports(work: Path, target: Path, baseline: str) -> None:
    """Make ``report.json`` and ``offline.json``."""
    suite = golden.unpack(work / "live", "test_evals.py", "test_live.py")
    live = (*PYTEST, *golden.LIVE, "--langasync-report=live.json")
    for more in ((), ("--langasync-baseline=report.json",)):
        shutil.rmtree(suite / ".langasync", ignore_errors=True)
        expect(run(suite, golden.environment(official=True), *live, *more), 0)
        write(suite / "report.json", golden.normal(golden.load(suite / "live.json")))
    shutil.copy(suite / "report.json", target / "report.json")
    suite = golden.unpack(work / "offline", "test_evals.py", "test_later.py", "test_last.py")
    golden.restore(target / "cache", suite / ".langasync")
    compared = f"--langasync-baseline={baseline}"
    expect(run(suite, golden.environment(), *PYTEST, *golden.OFFLINE, compared), 1)
    write(target / "offline.json", golden.normal(golden.load(suite / "report.json")))


def run(folder: Path, env: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``."""
    return subprocess.run(
        command, cwd=folder, env=dict(env), capture_output=True, text=True, timeout=120
    )


def expect(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Return a run's output, if it ended as it should."""
    if done.returncode != status:
        raise SystemExit(f"{done.args} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def keep(cache: Path, target: Path) -> None:
    """Copy a cache to where it is kept."""
    shutil.copytree(cache, target, ignore=shutil.ignore_patterns("*.lock", "provider", "sandbox"))
    (target / ".gitignore").rename(target / "gitignore")


def write(path: Path, document: Any) -> None:
    """Write a JSON document as it is kept."""
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else golden.GOLDEN)

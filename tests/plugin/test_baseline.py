"""A run against an earlier one, kept runs, and who is told when a run is over."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from support.suite import Suite, one_line, output

Verdicts = Callable[[pytest.RunResult], dict[str, int]]
BASELINE = "--langasync-baseline=last"
GATE = "--langasync-fail-on-regression"

GRADED = """
import os

BAD = os.environ.get("BAD") == "1"

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(8))
def test_it(langasync, n):
    assert ask(f"q {n}")
    langasync.score("quality", n % 3 + (5 if BAD else 8))
    assert not BAD
"""


@pytest.fixture(autouse=True)
def not_on_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the summaries of these runs out of the one that CI shows."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def graded(suite: Suite) -> Suite:
    """Return a suite that ran well once."""
    suite.write(GRADED)
    suite.run().assert_outcomes(passed=8)
    return suite


def names(suite: Suite) -> list[str]:
    """Return the kept runs, oldest first."""
    return sorted(path.stem for path in (suite.path / ".langasync/sandbox/runs").glob("*.json"))


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_worse(graded: Suite, monkeypatch: pytest.MonkeyPatch, workers: list[str]) -> None:
    (baseline,) = names(graded)
    monkeypatch.setenv("BAD", "1")
    result = graded.run(BASELINE, GATE, "--langasync-report=run.json,sub/run.md", *workers)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"*compared with {baseline}*",
            "8 tests in both, 0 new, 0 not run",
            "newly failing: 8",
            "  test_it.py::test_it[[]?[]]",
            "  … and 3 more (-v names them)",
            "verdicts: more than noise, p = 0.0078 (McNemar)",
            "quality: mean 8.88 → 5.88, -3 *, 8 pairs: more than noise, p = 0.0078",
            "worse: 8 newly failing, 0 newly passing (p = 0.0078)",
            "worse: quality fell from 8.88 to 5.88 (n = 8, p = 0.0078)",
            "report written to run.json",
            "report written to sub/run.md",
            f"FAILED langasync - worse than {baseline}*",
        ]
    )
    assert "[1" not in "".join(line.partition("[100%]")[2] for line in result.outlines)
    run = json.loads((graded.path / "run.json").read_text())
    assert run["comparison"]["baseline"] == baseline and run["exit_status"] == 1
    assert len(run["comparison"]["newly_failing"]) == 8
    assert "**Worse:** 8 newly failing" in (graded.path / "sub/run.md").read_text()
    assert names(graded)[-1] == run["name"]


def test_no_gate_without_the_option(graded: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAD", "1")
    result = graded.run(BASELINE)
    result.assert_outcomes(failed=8)
    result.stdout.no_fnmatch_line("*FAILED langasync*")


def test_the_gate_alone_takes_the_last_run(graded: Suite) -> None:
    result = graded.run(GATE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*compared with*", "8 tests in both*"])


def test_better_is_no_regression(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write(GRADED)
    monkeypatch.setenv("BAD", "1")
    suite.run().assert_outcomes(failed=8)
    monkeypatch.delenv("BAD")
    result = suite.run(GATE, "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["newly passing: 8", "  test_it.py::test_it[[]7[]]"])
    result.stdout.no_fnmatch_line("*more (-v*")


def test_a_run_or_a_report_by_name(graded: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = names(graded)
    graded.run("--langasync-report=good.json")
    monkeypatch.setenv("BAD", "1")
    graded.run()
    result = graded.run(f"--langasync-baseline={first}")
    result.stdout.fnmatch_lines([f"*compared with {first}*", "newly failing: 8"])
    (graded.path / "sub").mkdir()
    result = graded.run("--langasync-baseline=good.json", GATE)
    result.stdout.fnmatch_lines(["newly failing: 8", "FAILED langasync - worse than *"])
    result = graded.run(BASELINE)
    result.stdout.no_fnmatch_line("newly failing*")


def test_wrong_names(graded: Suite) -> None:
    (first,) = names(graded)
    suite = graded
    says = one_line(suite.run("--langasync-baseline=nosuch"))
    assert says.startswith("--langasync-baseline: 'nosuch' is no run in ") and first in says
    assert "cannot read" in one_line(suite.run("--langasync-baseline=nosuch.json"))
    (suite.path / "bad.json").write_text('{"schema": 1, "tests": 3}')
    assert "is no report of --langasync-report" in one_line(
        suite.run("--langasync-baseline=bad.json")
    )
    (suite.path / "new.json").write_text('{"schema": 99, "tests": []}')
    assert "newer pytest-langasync" in one_line(suite.run("--langasync-baseline=new.json"))
    (suite.path / f".langasync/sandbox/runs/{first}.json").write_text("{")
    assert "is damaged" in one_line(suite.run(f"--langasync-baseline={first}"))


STOPPED = """
import pytest

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(2))
def test_it(n):
    assert ask(f"q {n}") and n
"""


def test_a_stopped_run_breaks_no_later_one(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "summary.md"))
    suite.write(STOPPED)
    reports = "--langasync-report=run.md,run.html,run.json"
    first = suite.run("-x", reports)
    assert first.ret == 1 and "INTERNALERROR" not in output(first)
    tests = json.loads((suite.path / "run.json").read_text())["tests"]
    assert [test.get("outcome") for test in tests] == ["failed", None]
    assert tests[1]["calls"], "its answer was paid for"
    assert tests[0]["parameters"] == {"n": 0}
    again = suite.run(BASELINE, reports)
    again.stdout.fnmatch_lines(["1 tests in both, 1 new, 0 not run"])
    for page in ("summary.md", "run.html"):
        assert "LLM evaluations" in (suite.path / page).read_text("utf-8")


def test_xfail_is_xfail_in_every_report(suite: Suite) -> None:
    suite.write(
        "import pytest\n@pytest.mark.xfail(reason='known')\n@pytest.mark.langasync\n"
        "def test_it(): assert ask('hello') == 'no'\n"
    )
    suite.run("--langasync-report=run.md,run.html,run.json").assert_outcomes(xfailed=1)
    assert "**1 xfailed**" in (suite.path / "run.md").read_text("utf-8")
    assert "<dt>Xfailed</dt>" in (suite.path / "run.html").read_text("utf-8")
    (test,) = json.loads((suite.path / "run.json").read_text())["tests"]
    assert (test["outcome"], test["xfail"]) == ("skipped", "known")


def test_nothing_to_compare_with(suite: Suite) -> None:
    suite.write(GRADED)
    result = suite.run(BASELINE, GATE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["no earlier run to compare with"])


def test_runs_with_deferred_or_other_tests_are_no_baseline(graded: Suite) -> None:
    (first,) = names(graded)
    graded.write("@pytest.mark.langasync\ndef test_other(): ask('other')\n", "test_other")
    graded.run("test_other.py")
    graded.run("--langasync-refresh", "--langasync-timeout=0", "--langasync-sandbox-latency=1h")
    assert len(names(graded)) == 2, "a run that judged nothing is not kept"
    result = graded.run("--langasync-offline", BASELINE, "test_it.py")
    result.stdout.fnmatch_lines([f"*compared with {first}*"])


def test_the_summary_of_a_step_on_github(
    graded: Suite, monkeypatch: pytest.MonkeyPatch, verdicts: Verdicts
) -> None:
    summary = graded.path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert verdicts(graded.run()) == {"passed": 8}
    text = summary.read_text()
    assert text.startswith("before\n## LLM evaluations") and "**8 passed**" in text
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(graded.path / "no" / "dir.md"))
    result = graded.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*GITHUB_STEP_SUMMARY: *No such file*"])


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_other_plugins_are_told_once(suite: Suite, workers: list[str]) -> None:
    suite.write(GRADED)
    suite.pytester.makeconftest(
        "import json, pathlib\n"
        "def pytest_langasync_run_finished(config, run):\n"
        "    with pathlib.Path('told.jsonl').open('a') as file:\n"
        "        file.write(json.dumps(run) + '\\n')\n"
    )
    suite.run(*workers).assert_outcomes(passed=8)
    (line,) = (suite.path / "told.jsonl").read_text().splitlines()
    run = json.loads(line)
    assert (run["schema"], run["exit_status"], len(run["tests"])) == (1, 0, 8)
    tests = {test["id"]: test for test in run["tests"]}
    assert tests["test_it.py::test_it[0]"]["scores"] == {"quality": {"value": 8}}
    assert "request" not in tests["test_it.py::test_it[0]"]["calls"][0]


def test_kept_runs_and_other_plugins_see_no_text(graded: Suite) -> None:
    graded.pytester.makeconftest(
        "import json, pathlib\n"
        "def pytest_langasync_run_finished(config, run):\n"
        "    pathlib.Path('told.json').write_text(json.dumps(run))\n"
    )
    graded.write("""
@pytest.mark.langasync(chain=ask, inputs=["q 1"], scorer=lambda i, o, e: {"score": 1, "comment": o})
def test_it(scored):
    assert "no" == scored.output
""")
    graded.run("--langasync-report=run.json").assert_outcomes(failed=1)
    (test,) = json.loads((graded.path / "run.json").read_text())["tests"]
    assert "Sandbox answer" in test["failure"] and "Sandbox" in test["scores"]["<lambda>"]["reason"]
    kept = list((graded.path / ".langasync/sandbox/runs").glob("*.json"))
    for path in (*kept, graded.path / "told.json"):
        assert "q 1" not in path.read_text() and "Sandbox answer" not in path.read_text()
    path = kept[0]
    assert path.stat().st_mode & 0o077 == 0


def test_a_report_that_cannot_be_written_is_told_at_the_start(graded: Suite) -> None:
    (graded.path / "file").write_text("")
    result = graded.run("--langasync-report=file/run.json,ok.json", "--langasync-refresh")
    assert result.ret == 4 and len(graded.ledger()) == 8
    result.stderr.fnmatch_lines(["ERROR: --langasync-report: *file/run.json cannot be written"])


def test_a_report_that_cannot_be_written_loses_nothing(graded: Suite) -> None:
    graded.write("import pathlib\ndef test_it(): pathlib.Path('file').write_text('')\n")
    result = graded.run("--langasync-report=file/run.json,ok.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*cannot write file/run.json: *", "report written to ok.json"])


def test_the_gate_does_not_open_by_itself(graded: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that the gate failed is no baseline for the next; one without the gate is."""
    monkeypatch.setenv("BAD", "1")
    for _ in range(2):
        result = graded.run(GATE)
        result.stdout.fnmatch_lines(["FAILED langasync - worse than*"])
    graded.run()
    graded.run(GATE).stdout.no_fnmatch_line("FAILED langasync - worse than*")

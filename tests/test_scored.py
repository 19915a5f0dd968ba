"""Scores, cases, repeats and gates, in batch mode and without."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from conftest import Suite

from pytest_langasync.sandbox import Sandbox

Verdicts = Callable[[pytest.RunResult], dict[str, int]]

DECLARATIVE = """
from pytest_langasync.scoring import contains, judge, rating

CASES = [{"input": "one", "expected": "ONE"}, {"input": "two", "expected": "none", "name": "b"}]

@pytest.mark.langasync(chain=ask, inputs=CASES, scorer=contains)
def test_quality(scored):
    assert scored.score is True, scored.output
    assert scored.input == "one" and "one" in scored.output and scored.expected == "ONE"
    assert scored.reason is None
    assert scored.usage[0] > 0 if scored.calls else scored.usage is None
"""


@pytest.mark.parametrize("flag", ["", "--langasync-sandbox"])
def test_declarative(suite: Suite, provider: Sandbox, flag: str, verdicts: Verdicts) -> None:
    suite.write(DECLARATIVE)
    result = suite.plain("-v", *flag.split())
    assert verdicts(result) == {"passed": 1, "failed": 1}
    result.stdout.fnmatch_lines(["*test_quality[[]0[]] PASSED*", "*test_quality[[]b[]] FAILED*"])
    result.stdout.fnmatch_lines(["*test_quality: 1 of 2 passed, 50%*too few to tell*"])


def test_a_judge_joins_the_next_wave(suite: Suite, verdicts: Verdicts) -> None:
    suite.write(
        "from pytest_langasync.scoring import judge\n"
        "scorers = {'judged': judge('rate {output}: 8', ask), 'long': lambda i, o, e: len(o)}\n"
        "@pytest.mark.langasync(chain=ask, inputs=['a', 'b', 'c'], scorer=scorers)\n"
        "def test_it(scored):\n"
        "    assert scored.scores['judged'] == 8 and scored.scores['long'] > 5\n"
        "    assert 'rate' in scored.reason and len(scored.calls) == 2 and scored.cost > 0\n"
        "    assert scored.job_id.startswith('batch_')\n"
    )
    result = suite.run("--junitxml=out.xml", "--langasync-report=run.json")
    assert verdicts(result) == {"passed": 3}
    run = json.loads((suite.path / "run.json").read_text())
    assert run["gates"] == [] and run["tests"][0]["scores"]["judged"]["value"] == 8
    assert (
        run["tests"][0]["case"]["input"] == "a"
        and run["tests"][0]["group"] == "test_it.py::test_it"
    )
    assert [len(wave) for wave in suite.waves()] == [3, 3]
    result.stdout.fnmatch_lines(["    judged: mean 8 (95 % interval 8 to 8), 3 scores"])
    xml = ElementTree.parse(suite.path / "out.xml")
    names = [p.get("name") for p in xml.iter("property")]
    assert names.count("langasync_score_judged") == 3 == names.count("langasync_cost_usd")
    assert names.count("langasync_job") == 6


def test_files_functions_and_datasets(suite: Suite, verdicts: Verdicts) -> None:
    rows = [{"input": "a", "expected": "a", "id": "first"}, {"question": "q"}]
    (suite.path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (suite.path / "rows.json").write_text(json.dumps(rows))
    (suite.path / "rows.csv").write_text("input,expected\na,a\nb,b\n")
    suite.write("""
class Case:
    def __init__(self, name, inputs, expected_output):
        self.name, self.inputs, self.expected_output = name, inputs, expected_output

class Dataset:
    cases = [Case("n", "x", "y")]

def same(value): return value

for number, source in enumerate(["rows.jsonl", "rows.json", "rows.csv", lambda: [1], Dataset()]):
    def test(scored):
        trace(f"{scored.input} {scored.expected}")
    globals()[f"test_{number}"] = pytest.mark.langasync(chain=same, inputs=source)(test)
del test
""")
    assert verdicts(suite.plain("-p", "no:cacheprovider")) == {"passed": 8}
    assert suite.traced() == [
        "a a", "{'question': 'q'} None", "a a", "{'question': 'q'} None", "a a", "b b", "1 None",
        "x y",
    ]  # fmt: skip


def test_a_failed_request_is_an_error(suite: Suite, verdicts: Verdicts) -> None:
    suite.write(
        "@pytest.mark.langasync(chain=ask, inputs=['[[status:400]]'], scorer=len)\n"
        "def test_it(scored): pass\n"
    )
    assert verdicts(suite.run()) == {"errors": 1}


REPEATED = """
@pytest.mark.langasync(repeats=5, min_pass_rate={rate})
def test_it(langasync, request):
    langasync.score("ok", "repeat5" not in request.node.name, reason="why not")
    assert ask("hello")
    assert "repeat5" not in request.node.name, "the last one"
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_repeats_and_a_gate(suite: Suite, workers: str, verdicts: Verdicts) -> None:
    suite.write(REPEATED.format(rate=0.8))
    result = suite.run(f"-n{workers}", "-v", "--junitxml=out.xml")
    assert result.ret == 0 and verdicts(result) == {"passed": 4, "missed": 1}
    assert len(suite.ledger()) == 5, "each repeat is a sample of its own"
    result.stdout.fnmatch_lines(["*test_it: 4 of 5 passed, 80%*", "    ok: mean 0.8 *"])
    assert "missed: the last one" in (suite.path / "out.xml").read_text()
    suite.write(REPEATED.format(rate=0.9))
    result = suite.run(f"-n{workers}")
    assert result.ret == 1 and verdicts(result) == {"failed": 1, "passed": 4, "missed": 1}
    result.stdout.fnmatch_lines(["FAILED *test_it - pass rate 0.8, required 0.9 (5 tests)"])
    assert len(suite.ledger()) == 5


def test_gates_of_the_run(suite: Suite) -> None:
    suite.write(
        "@pytest.mark.langasync\n@pytest.mark.parametrize('n', range(4))\n"
        "def test_it(langasync, n): langasync.score('quality', 2 * n)\n"
    )
    assert suite.plain("--langasync-min-score=quality=3", "--langasync-min-pass-rate=1").ret == 0
    result = suite.plain("--langasync-min-score=quality=3.5,other=1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED langasync - score quality 3, required 3.5 (4 tests)"])
    result.stdout.fnmatch_lines(["FAILED langasync - score other never recorded*"])
    suite.write("@pytest.mark.langasync\ndef test_no(): assert 0\n", "test_other")
    result = suite.plain("--langasync-min-pass-rate=0.9")
    result.stdout.fnmatch_lines(["FAILED*pass rate 0.8, required 0.9 (5 tests)"])


def test_deferred_tests_stay_outside(suite: Suite) -> None:
    suite.write(REPEATED.format(rate=0.9))
    result = suite.run("--langasync-sandbox-latency=1h", "--langasync-timeout=0")
    assert result.ret == 75 and "required" not in result.stdout.str()


def test_the_hook(suite: Suite) -> None:
    suite.pytester.makeconftest(
        "def pytest_langasync_score(item, name, value, reason):\n"
        "    open('seen.txt', 'a').write(f'{item.name} {name} {value} {reason}')\n"
    )
    suite.write("def test_it(langasync): langasync.score('a', 'label', 'because')\n")
    assert suite.plain().ret == 0
    assert (suite.path / "seen.txt").read_text() == "test_it a label because"


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("repeats=0", "repeats=0 is not a whole number of 1 or more"),
        ("min_pass_rate=2", "min_pass_rate=2 is not a number from 0 to 1"),
        ("input=[1]", "has no keyword 'input': did you mean 'inputs'?"),
        ("chain=len, inputs='no.jsonl'", "no.jsonl cannot be read"),
        ("chain=len, inputs='no.txt'", "must end in .jsonl, .json or .csv"),
        ("chain=len, inputs=[]", "holds no case"),
        ("chain=len, inputs=7", "is neither a list nor a file"),
    ],
)
def test_mistakes(suite: Suite, marker: str, text: str) -> None:
    suite.write(f"@pytest.mark.langasync({marker})\ndef test_it(scored): pass\n")
    result = suite.plain()
    output = result.stdout.str() + result.stderr.str()
    assert result.ret == 4 and text in output and "Traceback" not in output


def test_scored_without_cases(suite: Suite) -> None:
    suite.write("@pytest.mark.langasync\ndef test_it(scored): pass\n")
    assert "needs cases" in suite.plain().stdout.str()


@pytest.mark.parametrize("option", ["--langasync-min-pass-rate=2", "--langasync-min-score=7"])
def test_wrong_options(suite: Suite, option: str) -> None:
    result = suite.plain(option)
    assert result.ret == 4 and option.partition("=")[0] in result.stderr.str()


def test_a_failure_that_the_chain_survives(suite: Suite) -> None:
    suite.write("""
import openai

def chain(text):
    try:
        return ask(text)
    except openai.BadRequestError:
        return "fallback"

@pytest.mark.langasync(chain=chain, inputs=["[[status:400]] hello", "hello"])
def test_it(scored):
    wanted = "HTTP 400 from gpt-4o-mini" if "status" in scored.input else None
    assert scored.error == wanted
    assert (scored.output == "fallback") == bool(wanted)
""")
    suite.run().assert_outcomes(passed=2)
    suite.run("-n1").assert_outcomes(passed=2)

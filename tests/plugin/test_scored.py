"""Scores, cases, repeats and gates, in batch mode and without."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from support.suite import Suite

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
    judged = "    judged: mean 8 (95 % interval 8 to 8, too few to tell), 3 scores"
    result.stdout.fnmatch_lines([judged])
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
        "@pytest.mark.langasync(chain=ask, inputs=['[[status:400]]'], scorer=contains)\n"
        "def test_it(scored): pass\n"
    )
    assert verdicts(suite.run()) == {"errors": 1}


@pytest.mark.parametrize(("rate", "options", "texts"), [
    (0.5, [], 0), (0.5, ["-v"], 1), (0.9, [], 1), (0.9, ["--tb=no"], 0),
])  # fmt: skip
def test_misses_keep_their_failure(
    suite: Suite, rate: float, options: list[str], texts: int
) -> None:
    suite.write(REPEATED.format(rate=rate))
    shown = suite.run(*options).stdout.str()
    assert shown.count("missed: test_it.py::test_it[repeat5]") == texts
    assert shown.count("E       AssertionError: the last one") == texts
    assert shown.count('>       assert "repeat5" not in request.node.name') == texts


def test_a_reply_that_cannot_be_read_is_a_short_error(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
from pytest_langasync.scoring import judge

def reply(text): return "I would rather not say \\x1b[m"

@pytest.mark.langasync(chain=ask, inputs=["a"], scorer=judge("rate {output}", reply))
def test_it(scored): pass

def scorer(input, output, expected):
    raise KeyError("their own mistake")

@pytest.mark.langasync(chain=ask, inputs=["b"], scorer=scorer)
def test_theirs(scored): pass
""")
    result = suite.run("-p", "no:cacheprovider")
    assert verdicts(result) == {"errors": 2}
    shown = result.stdout.str()
    told = shown.split("ERROR at setup of test_it")[1].split("ERROR at setup of test_theirs")
    lines = [line for line in told[0].splitlines()[1:] if line.strip("_ ")]
    said = r"no number in the judge's reply: 'I would rather not say \x1b[m'"
    assert lines[0] == said and "langasync calls" in lines[1]
    assert "their own mistake" in told[1] and "pytest_langasync" not in told[1]


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
    result.stdout.fnmatch_lines(["*test_it: 4 of 5 passed, 80%*", "    ok: 4 of 5 true, 80% *"])
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
        ("chain=len, inputs={'a': 1}", "is neither a list nor a file"),
        ("chain=len, inputs='bad.jsonl'", "bad.jsonl, line 2 is no JSON"),
        ("chain=len, inputs='bad.csv'", "bad.csv, line 3 has not 2 fields"),
        ("chain='ask', inputs=[1]", "chain='ask' is neither a Runnable nor a function"),
        ("chain=len, inputs=[1], scorer=['x']", "scorer='x' is no scorer"),
        (
            "chain=len, inputs=[1], scorer=rating",
            "scorer=rating makes a scorer: give rating(1, 10)",
        ),
        ("chain=len, inputs=[1], scorer={'a': judge}", "give judge(prompt, model)"),
        ("chain=len, inputs=[1], scorer=[exact, int]", "scorer=int is a class: give an object of"),
        ("chain=len, inputs=[1], scorer=len", "scorer=len cannot be called with (input, output,"),
        ("chain=len", "needs inputs=… for the fixture 'scored'"),
        ("", "needs chain=… and inputs=… for the fixture 'scored'"),
    ],
)
def test_mistakes(suite: Suite, marker: str, text: str) -> None:
    (suite.path / "bad.jsonl").write_text('{"input": 1}\n{"input"\n')
    (suite.path / "bad.csv").write_text("input,expected\na,b\na\n")
    suite.write(
        "from pytest_langasync.scoring import exact, judge, rating\n\n"
        f"@pytest.mark.langasync({marker})\ndef test_it(scored): pass\n"
    )
    result = suite.plain()
    output = result.stdout.str() + result.stderr.str()
    assert result.ret == 4 and text in output and "Traceback" not in output


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def test_it(scored): pass", "needs chain=… and inputs=… for the fixture 'scored'"),
        (
            "@pytest.mark.langasync(chain=ask, inputs=[1])\ndef test_it(): pass",
            "chain=… is of no use here: the test does not ask for the fixture 'scored'",
        ),
        (
            "import unittest\nclass TestIt(unittest.TestCase):\n"
            "    @pytest.mark.langasync(repeats=2)\n    def test_it(self): pass",
            "repeats=… is for test functions",
        ),
    ],
)
def test_what_would_run_nothing(suite: Suite, source: str, text: str) -> None:
    suite.write(source)
    result = suite.plain()
    assert result.ret == 4 and text in result.stderr.str()


def test_a_marker_adds_to_that_of_its_class(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
@pytest.mark.langasync(repeats=3, priority="low")
class TestIt:
    @pytest.mark.langasync(min_pass_rate=0.5)
    @pytest.mark.langasync(priority="high")
    def test_it(self, request):
        assert "repeat1" not in request.node.name
""")
    assert verdicts(suite.plain()) == {"passed": 2, "missed": 1}


def test_gates_where_nothing_was_judged(suite: Suite) -> None:
    """A gate is for what was judged: neither a submission nor a file without evals fails it."""
    suite.write(
        "@pytest.mark.langasync\ndef test_it(langasync): langasync.score('q', len(ask('x')))"
    )
    suite.write("def test_plain(): pass", "test_plain")
    gate = "--langasync-min-score=q=7"
    assert suite.run(gate, "--langasync-sandbox-latency=1h", "--langasync-timeout=0").ret == 75
    assert suite.run(gate, "--langasync-estimate").ret == 0
    assert suite.plain(gate, "--collect-only").ret == 0
    assert suite.plain(gate, "-n1", "test_plain.py").ret == 0


def test_expected_failures_are_no_misses(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
@pytest.mark.langasync(min_pass_rate=0.6)
@pytest.mark.parametrize("n", [0, 1, pytest.param(2, marks=pytest.mark.xfail)])
def test_it(n):
    assert n == 0
""")
    result = suite.plain()
    assert result.ret == 1
    assert verdicts(result) == {"passed": 1, "missed": 1, "xfailed": 1, "failed": 1}
    result.stdout.fnmatch_lines(["*pass rate 0.5, required 0.6 (2 tests)*"])


def test_a_failed_gate_names_its_misses_and_lf_keeps_them(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync(min_pass_rate=0.9)
@pytest.mark.parametrize("n", range(3))
def test_it(n):
    assert n == 0, f"it was {n}"

def test_other(): pass
""")
    suite.plain("-p", "cacheprovider").stdout.fnmatch_lines(["  *test_it[[]2[]]: it was 2"])
    result = suite.plain("--lf", "-v")
    result.stdout.fnmatch_lines(["*test_it[[]1[]] MISSED*", "*test_it[[]2[]] MISSED*"])
    assert "test_other" not in result.stdout.str() and "[0]" not in result.stdout.str()


def test_reruns_do_not_pile_properties_up(suite: Suite) -> None:
    suite.write(
        "@pytest.mark.langasync\ndef test_it(langasync):\n"
        "    langasync.score('q', len(ask('x')))\n    assert 0\n"
    )
    suite.use("pytest_rerunfailures")
    suite.run("--reruns=2", "--junitxml=out.xml")
    xml = ElementTree.parse(suite.path / "out.xml")
    names = [p.get("name") for p in list(xml.iter("testcase"))[-1].iter("property")]
    assert sorted(names) == ["langasync_cost_usd", "langasync_job", "langasync_score_q"]


def test_repeats_are_independent_where_samples_are_shared(suite: Suite) -> None:
    suite.write(
        "@pytest.mark.langasync(repeats=3)\ndef test_it(): assert ask('same')\n"
        "@pytest.mark.langasync\ndef test_one(): assert ask('same')\n"
    )
    assert suite.run("-o", "langasync_samples=shared").ret == 0
    assert len(suite.ledger()) == 3
    assert suite.run("-o", "langasync_samples=shared").ret == 0 and len(suite.ledger()) == 3


@pytest.mark.parametrize("workers", ["0", "1"])
def test_scores_of_a_librarys_own_types(suite: Suite, workers: str) -> None:
    suite.write("""
import enum

class Label(str, enum.Enum):
    GOOD = "good"

class Real(float): pass

@pytest.mark.langasync(chain=lambda value: Label.GOOD, inputs=[Label.GOOD])
def test_it(scored, langasync):
    langasync.score("label", Label.GOOD, reason=ValueError("why"))
    langasync.score("real", Real(0.5))
""")
    result = suite.run(f"-n{workers}", "--langasync-report=run.json,run.html")
    result.assert_outcomes(passed=1)
    (test,) = json.loads((suite.path / "run.json").read_text())["tests"]
    assert test["scores"]["label"] == {"value": "good", "reason": "why"}
    assert test["case"]["input"] == "good"


def test_labels_and_misses_do_not_control_the_terminal(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync(min_pass_rate=0)
def test_it(langasync):
    langasync.score("\\x1b[31m", "\\x1b]0;title\\x07")
    raise ValueError("\\x1b[32m miss")
""")
    result = suite.plain("-v", "-rA")
    assert (
        result.ret == 0
        and "\x1b[3" not in result.stdout.str()
        and "\x07" not in result.stdout.str()
    )
    result.stdout.fnmatch_lines(["*title*"])


def test_scorers_of_one_kind_and_their_calls(suite: Suite) -> None:
    """Scores of one name are kept apart, and what two judges ask goes into one wave."""
    suite.write("""
from pytest_langasync.scoring import judge

def slow(output):
    def score(i, o, e): return len(ask(f"{output} {o}"))
    return score

JUDGES = [judge("x {output} 3", ask), judge("y {output} 4", ask)]
NAMED = {"one": slow("x"), "two": lambda i, o, e: {"a": 1, "b": 2}}

@pytest.mark.langasync(chain=ask, inputs=["a"], scorer=JUDGES)
def test_list(scored):
    assert scored.scores == {"score": 3, "score 2": 4}

@pytest.mark.langasync(chain=ask, inputs=["a"], scorer=NAMED)
def test_dict(scored):
    assert list(scored.scores) == ["one", "two a", "two b"]
""")
    suite.run().assert_outcomes(passed=2)
    assert [len(wave) for wave in suite.waves()] == [2, 3]


KEPT_CLIENT = """
import openai

CLIENT = openai.AsyncOpenAI(max_retries=0)

async def chain(text):
    message = [{"role": "user", "content": text}]
    done = await CLIENT.chat.completions.create(model="gpt-4o-mini", messages=message)
    return done.choices[0].message.content

async def scorer(input, output, expected):
    return len(await chain(output))

@pytest.mark.langasync(chain=chain, inputs=["a", "b", "c"], scorer=scorer)
def test_it(scored):
    assert scored.score > 5
"""


@pytest.mark.parametrize("flag", ["", "--langasync-realtime", "--langasync-batch"])
def test_a_client_kept_from_case_to_case(suite: Suite, provider: Sandbox, flag: str) -> None:
    """Its connections belong to the event loop in which they were made."""
    suite.write(KEPT_CLIENT)
    suite.plain(*flag.split(), "--langasync-poll-interval=0.02").assert_outcomes(passed=3)


def test_a_runnable_that_is_asynchronous_only(suite: Suite) -> None:
    suite.write("""
from langchain_core.runnables import RunnableLambda

async def chain(text):
    return await aask("second " + await aask(text))

@pytest.mark.langasync(chain=RunnableLambda(ask) | RunnableLambda(chain), inputs=["a", "b"])
def test_it(scored):
    assert "second" in scored.output
""")
    suite.run().assert_outcomes(passed=2)
    assert [len(wave) for wave in suite.waves()] == [2, 2, 2]


def test_a_byte_order_mark_and_what_else_a_row_says(suite: Suite) -> None:
    (suite.path / "rows.csv").write_text("\ufeffinput,expected,level\na,b,3\n", encoding="utf-8")
    suite.write("""
from pytest_langasync.scoring.cases import load_cases
import pathlib

@pytest.mark.langasync(chain=str, inputs="rows.csv")
def test_it(scored):
    assert (scored.input, scored.expected) == ("a", "b")
    (case,) = load_cases("rows.csv", pathlib.Path(__file__).parent)
    assert case.metadata == {"level": "3"} and case.name == ""
""")
    suite.plain().assert_outcomes(passed=1)


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

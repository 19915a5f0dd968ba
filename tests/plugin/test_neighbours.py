"""Tests that look at other tests: their verdicts are those of real time."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from support.modules import module
from support.suite import BATCH, LATER, Suite, let_end, output, verdict

from pytest_langasync.sandbox import Sandbox

TWO_CALLS = """
RESULTS = []

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    RESULTS.append(ask(f"number {n}"))
    if n % 2:
        assert "judge" in ask(f"judge {n}")
"""


@pytest.mark.parametrize("mark", ["", "@pytest.mark.langasync"])
def test_the_last_test_adds_a_module_list_up(suite: Suite, mark: str) -> None:
    suite.write(f"""{TWO_CALLS}
{mark}
def test_sum():
    trace("sum")
    assert [text[-1] for text in RESULTS] == ["0", "1", "2", "3"]
""")
    assert verdict(suite.run()) == {"passed": 5}
    assert [len(wave) for wave in suite.waves()] == [4, 2]
    assert verdict(suite.run()) == {"passed": 5}, "warm"


def test_an_unmarked_test_that_adds_up(suite: Suite) -> None:
    """It runs once: its turn comes when the others have their verdicts."""
    suite.write(f"""{TWO_CALLS}
@pytest.fixture
def probe():
    trace("set up")

def test_all(probe):
    trace("sum")
    assert RESULTS and all(RESULTS)
    assert len(RESULTS) == 4

def test_after(probe): trace("after")
""")
    assert verdict(suite.run()) == {"passed": 6}
    assert suite.traced() == ["set up", "sum", "set up", "after"]


def test_green_is_not_enough_where_nothing_is_judged(suite: Suite) -> None:
    suite.write("""
SCORES = {}

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(3))
def test_it(n):
    SCORES[n] = "number" in ask(f"number {n}") and n != 1

@pytest.mark.langasync
def test_marked(): assert all(SCORES.values())

def test_unmarked(): assert all(SCORES.values())
""")
    result = suite.run()
    assert verdict(result) == {"failed": 2, "passed": 3}
    assert len(suite.ledger()) == 3


def test_what_waits_with_deferred_tests_is_deferred(suite: Suite) -> None:
    suite.write("""
SCORES = []

def test_before(): assert not SCORES

@pytest.mark.langasync
def test_it(): SCORES.append(ask("hello"))

def test_all(): assert all(SCORES)

def test_of_its_own(): assert 1 + 1 == 2
""")
    result = suite.run(*LATER, "-rs")
    assert verdict(result) == {"deferred": 2, "passed": 2}
    assert result.ret == 75
    result.stdout.fnmatch_lines([
        "  test_it.py::test_all: waiting for batch_* with 1 call: another test before it, which *",
    ])  # fmt: skip
    let_end(suite.provider)
    assert verdict(suite.run("--lf")) == {"passed": 2}


def test_a_parked_attempt_leaves_no_trace_in_plain_objects(suite: Suite) -> None:
    suite.write(
        """
import dataclasses

@dataclasses.dataclass
class Totals:
    calls: int = 0
    texts: list = dataclasses.field(default_factory=list)

COUNT = 0
TOTALS = Totals()
NESTED = {"texts": []}
CLIENTS = {}

class Client:
    def close(self): pass

@pytest.fixture(scope="module")
def bag(): return []

@pytest.mark.langasync
class TestIt:
    seen = set()

    @pytest.mark.parametrize("n", range(2))
    def test_chain(self, bag, n):
        global COUNT
        COUNT += 1
        TOTALS.calls += 1
        CLIENTS.setdefault("kept", Client())
        for turn in range(3):
            text = ask(f"{n} {turn}")
            for place in (TOTALS.texts, NESTED["texts"], bag):
                place.append(text)
            self.seen.add(text)
        assert COUNT == TOTALS.calls == n + 1
        assert len(TOTALS.texts) == len(NESTED["texts"]) == len(self.seen) == 3 * (n + 1)
        assert len(bag) == 3 * (n + 1)
        trace(id(CLIENTS["kept"]))
""".replace('trace(id(CLIENTS["kept"]))', "trace(str(id(CLIENTS['kept'])))")
    )
    assert verdict(suite.run()) == {"passed": 2}
    assert len(set(suite.traced())) == 1, "what is to be closed is kept"
    assert len(suite.ledger()) == 6


FIXTURE = """
@pytest.fixture(scope="module")
def results():
    found = []
    yield found
    trace("finalizer")
    assert len(found) == 4

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(results, n):
    text = ask(f"number {n}")
    if n % 2:
        text = ask(f"judge {n} {text}")
    assert len(results) == n
    results.append(text)
"""


def test_a_module_fixture_that_tests_fill(suite: Suite) -> None:
    """Alone in its pass, a test is red; with its whole module, it is not."""
    suite.write(
        FIXTURE
        + """
def test_all(results):
    assert len(results) == 4
"""
    )
    result = suite.run()
    assert verdict(result) == {"passed": 5}
    assert len(suite.ledger()) == 6, "confirming buys nothing"
    assert output(result).count("gathered") == 2


def test_red_is_red_once_confirmed(suite: Suite) -> None:
    suite.write(FIXTURE.replace("len(results) == n\n", "len(results) == n and n != 3\n"))
    result = suite.run("-v")
    assert verdict(result) == {"failed": 1, "passed": 3, "errors": 1}
    assert output(result).count("test_it[3] FAILED") == 1
    assert len(suite.ledger()) == 6


def test_where_nothing_is_shared_red_is_told_at_once(suite: Suite) -> None:
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    trace(str(n))
    ask(f"number {n}")
    if n < 2:
        ask(f"judge {n}")
    assert n != 2
""")
    result = suite.run("-x")
    assert verdict(result) == {"failed": 1}
    assert Counter(suite.traced()) == {"0": 2, "1": 2, "2": 2, "3": 1}, "it stopped in the wave"


def test_one_that_asks_about_what_others_left(suite: Suite) -> None:
    """Its first request is about an unfinished list: it is set aside, not called irreproducible."""
    suite.write("""
TEXTS = []

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(3))
def test_it(n):
    text = ask(f"number {n}")
    if n == 1:
        text = ask(f"again {n}")
    TEXTS.append(text[-1])

@pytest.mark.langasync
def test_summary():
    assert "0, 1, 2" in ask("summary of " + ", ".join(TEXTS))
""")
    result = suite.run()
    assert verdict(result) == {"passed": 4}
    assert "not reproducible" not in output(result)


def test_a_session_fixture_ties_modules(suite: Suite) -> None:
    suite.pytester.makeconftest("""
import pytest

@pytest.fixture(scope="session")
def results(): return {}

@pytest.fixture(scope="session", autouse=True)
def unrelated(): return {}
""")
    for name in "ab":
        suite.write(
            f"""
@pytest.mark.langasync
def test_it(results):
    results["{name}"] = ask("{name}")
    if "{name}" == "a":
        ask("again")
""",
            f"test_{name}",
        )
    suite.write("def test_all(results): assert sorted(results) == ['a', 'b']\n", "test_z")
    suite.write("def test_alone(): trace('alone')\n", "test_y")
    result = suite.run("-v")
    assert verdict(result) == {"passed": 4}
    assert suite.traced() == ["alone"]
    shown = output(result)
    assert shown.index("test_alone PASSED") < shown.index("test_all PASSED")


INCREMENTAL = """
import pytest

def pytest_runtest_makereport(item, call):
    if "incremental" in item.keywords and call.excinfo is not None:
        item.parent._previousfailed = item

def pytest_runtest_setup(item):
    if "incremental" in item.keywords:
        failed = getattr(item.parent, "_previousfailed", None)
        if failed is not None:
            pytest.xfail(f"previous test failed ({failed.name})")

def pytest_configure(config):
    config.addinivalue_line("markers", "incremental: one after the other")
"""


@pytest.mark.parametrize(("fails", "outcomes"), [
    (False, {"passed": 3}),
    (True, {"failed": 1, "passed": 0, "xfailed": 2}),
])  # fmt: skip
def test_incremental_tests(suite: Suite, fails: bool, outcomes: dict[str, int]) -> None:
    suite.pytester.makeconftest(INCREMENTAL)
    suite.write(f"""
@pytest.mark.incremental
@pytest.mark.langasync
class TestSteps:
    def test_one(self):
        assert "second" in ask("second " + ask("first"))
        assert not {fails}
    def test_two(self): assert ask("two")
    def test_three(self): pass
""")
    result = suite.run()
    assert verdict(result) == {name: count for name, count in outcomes.items() if count}


def test_reports_are_made_once_for_each_verdict(suite: Suite) -> None:
    suite.pytester.makeconftest("""
import pathlib
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    setattr(item, "rep_" + call.when, report)
    with pathlib.Path(__file__).with_name("trace.txt").open("a") as file:
        file.write(f"{item.name} {call.when} {report.outcome}\\n")
    report.sections.append(("theirs", call.when))
    return report
""")
    suite.write("""
@pytest.fixture
def after(request):
    yield
    assert request.node.rep_setup.passed and request.node.rep_call.passed

@pytest.mark.langasync
def test_chain(after): ask("two " + ask("one"))

@pytest.mark.langasync
def test_without_a_call(): pass

@pytest.mark.langasync
@pytest.mark.xfail(strict=True)
def test_expected(): assert ask("three") == "something else"

def test_unmarked(): pass
""")
    assert verdict(suite.run()) == {"passed": 3, "xfailed": 1}
    expected = {
        "test_chain": "passed passed passed",
        "test_without_a_call": "passed passed passed",
        "test_expected": "passed skipped passed",
        "test_unmarked": "passed passed passed",
    }
    seen: dict[str, list[str]] = {}
    for line in suite.traced():
        seen.setdefault(line.split()[0], []).append(line.split()[2])
    assert {name: " ".join(words) for name, words in seen.items()} == expected


LIVE = """
import logging

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(2))
def test_it(n, langasync):
    logging.getLogger("mine").warning("begins %s, attempt %s", n, langasync.attempt)
    ask(f"number {n}")
    logging.getLogger("mine").warning("ends %s", n)
"""


def test_live_logs(suite: Suite) -> None:
    suite.write(LIVE)
    shown = output(suite.run("-o", "log_cli=true", "--log-cli-format=%(name)s: %(message)s", "-v"))
    lines = [
        line.strip() for line in shown.splitlines() if line.startswith(("mine:", "test_it.py::"))
    ]
    assert lines == [
        "test_it.py::test_it[0]", "mine: begins 0, attempt 2", "mine: ends 0",
        "test_it.py::test_it[1]", "mine: begins 1, attempt 2", "mine: ends 1",
    ]  # fmt: skip


NUMBERLESS = """
import pytest

class Item(pytest.Item):
    def runtest(self):
        from llm import ask
        assert "hello" in ask("hello")

class File(pytest.File):
    def collect(self):
        yield Item.from_parent(self, name="case")

def pytest_collect_file(parent, file_path):
    if file_path.suffix == ".yaml":
        return File.from_parent(parent, path=file_path)
"""


def test_items_without_a_line_number_are_deferred(suite: Suite) -> None:
    suite.pytester.makeconftest(NUMBERLESS)
    suite.pytester.makefile(".yaml", case="question: hello")
    suite.pytester.makepyfile(
        documented="""
from llm import ask
__test__ = {"example": ">>> from llm import ask; 'hello' in ask('hello')\\nTrue"}
"""
    )
    args = ("--langasync-all", "--doctest-modules", "-p", "no:randomly")
    result = suite.run(*LATER, *args, "-rs", "--junitxml=report.xml")
    assert (result.ret, verdict(result)) == (75, {"deferred": 2}), output(result)
    let_end(suite.provider)
    assert verdict(suite.run(*args)) == {"passed": 2}


@pytest.mark.parametrize("seed", range(6))
def test_modules_made_at_random(suite: Suite, provider: Sandbox, seed: int) -> None:
    """Each test's verdict in batch mode is the one of a plain pytest run."""
    suite.write(module(seed))
    seen = []
    for mode in ((), BATCH):
        shown = output(suite.plain("-rA", "--tb=no", "-p", "no:cacheprovider", *mode))
        seen.append(sorted(re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\S+)", shown, re.MULTILINE)))
    assert seen[0] == seen[1] and len(seen[0]) >= 4

"""Other plugins beside ours, as they are installed (the extra ``plugins`` brings them)."""

from __future__ import annotations

import json

import pytest
from support.suite import Suite, output, verdict


def test_pytest_dependency(suite: Suite) -> None:
    pytest.importorskip("pytest_dependency")
    suite.use_all()
    suite.write("""
@pytest.mark.dependency()
@pytest.mark.langasync
def test_a(): ask("two " + ask("one"))

@pytest.mark.dependency(depends=["test_a"])
@pytest.mark.langasync
def test_b(): ask("three")

@pytest.mark.dependency(depends=["test_b"])
def test_c(): pass

@pytest.mark.dependency()
@pytest.mark.langasync
def test_fails(): assert ask("four") == "five"

@pytest.mark.dependency(depends=["test_fails"])
@pytest.mark.langasync
def test_needs_it(): ask("six")
""")
    suite.write(
        """
@pytest.mark.dependency(depends=["test_it.py::test_a"], scope="session")
def test_elsewhere(): pass
""",
        "test_later",
    )
    assert verdict(suite.run()) == {"passed": 4, "failed": 1, "skipped": 1}
    assert len(suite.ledger()) == 4


def test_pytest_harvest(suite: Suite) -> None:
    pytest.importorskip("pytest_harvest")
    suite.use_all()
    suite.write("""
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(3))
def test_it(n, results_bag):
    results_bag.text = ask(f"number {n}")
    if n:
        ask(f"again {n}")

def test_module(module_results_dct):
    bags = [one["fixtures"]["results_bag"] for one in module_results_dct.values()]
    assert ["text" in bag for bag in bags] == [True] * 3
""")
    suite.write(
        """
def test_session(session_results_dct):
    assert [one["status"] for one in session_results_dct.values()] == ["passed"] * 4
""",
        "test_zz",
    )
    assert verdict(suite.run()) == {"passed": 5}


def test_pytest_evals(suite: Suite) -> None:
    pytest.importorskip("pytest_evals")
    suite.use_all()
    suite.write("""
@pytest.mark.eval(name="numbers")
@pytest.mark.langasync
@pytest.mark.parametrize("n", range(3))
def test_it(n, eval_bag):
    eval_bag.right = "number" in ask(f"number {n}") and n != 2

@pytest.mark.eval_analysis(name="numbers")
def test_analysis(eval_results):
    assert [one.result.right for one in eval_results] == [True, True, False]
""")
    assert verdict(suite.run("--run-eval", "--run-eval-analysis")) == {"passed": 4}


def test_pytest_retry(suite: Suite) -> None:
    pytest.importorskip("pytest_retry")
    suite.use_all()
    suite.write("""
@pytest.mark.flaky(retries=2)
@pytest.mark.langasync
def test_it(): assert ask("hello") == "something else"
""")
    assert verdict(suite.run("-p", "no:rerunfailures")) == {"failed": 1, "retried": 1}


def test_pytest_benchmark(suite: Suite) -> None:
    pytest.importorskip("pytest_benchmark")
    suite.use_all()
    suite.write("""
@pytest.mark.langasync
def test_it(benchmark): assert benchmark.pedantic(ask, args=("hello",), rounds=3)
""")
    result = suite.run()
    assert verdict(result) == {"passed": 1}
    assert suite.waves() == [["hello"] * 3] and suite.ledger()[0]["job_id"] == ""
    said = "in real time: 1 test of pytest-benchmark, which calls the function until its time is up"
    assert said in output(result)


def test_allure_has_one_result_for_each_test(suite: Suite) -> None:
    pytest.importorskip("allure_pytest")
    suite.use_all()
    suite.write("""
RESULTS = []

@pytest.mark.langasync
def test_chain(): RESULTS.append(ask("two " + ask("one")))

@pytest.mark.langasync
def test_fails(): assert ask("three") == "something else"

def test_after(): assert RESULTS
""")
    assert verdict(suite.run("--alluredir=allure")) == {"passed": 2, "failed": 1}
    found = [json.loads(path.read_bytes()) for path in suite.path.glob("allure/*-result.json")]
    assert sorted((one["name"], one["status"]) for one in found) == [
        ("test_after", "passed"), ("test_chain", "passed"), ("test_fails", "failed"),
    ]  # fmt: skip

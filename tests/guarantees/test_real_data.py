"""Real input: what a real model answered to the 1,319 problems of GSM8K, judged through a batch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import openai
import pytest
from support.suite import Suite

assert openai  # imported here once, not anew by the run inside this process

DATA = Path(
    os.environ.get("LANGASYNC_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data"
).resolve()
MODEL = "175b_verification"

CONFTEST = """
import json, pathlib, pytest

SOLUTIONS = {
    one["question"]: one["MODEL"]["solution"]
    for one in map(json.loads, pathlib.Path(r"DATA/gsm8k_model_solutions.jsonl").open())
}

@pytest.hookimpl(optionalhook=True)
def pytest_langasync_sandbox_reply(request):
    return SOLUTIONS[request.prompt]
"""
EVALS = """
import json, pathlib, re
import openai, pytest

CASES = [json.loads(line) for line in pathlib.Path(r"DATA/gsm8k_test.jsonl").open()]
CLIENT = openai.OpenAI()

def number(text):
    found = re.findall(r"-?[\\d,]*\\.?\\d+", text)
    return float(found[-1].replace(",", "")) if found else None

@pytest.mark.langasync
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_problem(case):
    messages = [{"role": "user", "content": case["question"]}]
    answer = CLIENT.chat.completions.create(model="gpt-4o-mini", messages=messages)
    said = answer.choices[0].message.content.rpartition("A:")[2]
    assert number(said) == number(case["answer"].rpartition("####")[2])
"""


@pytest.mark.skipif(
    not (DATA / "gsm8k_test.jsonl").exists(), reason="needs GSM8K (see LANGASYNC_TEST_DATA)"
)
def test_gsm8k(suite: Suite) -> None:
    lines = (DATA / "gsm8k_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    right = [json.loads(line)[MODEL]["is_correct"] for line in lines]
    suite.pytester.makeconftest(CONFTEST.replace("MODEL", MODEL).replace("DATA", str(DATA)))
    suite.pytester.makepyfile(test_gsm8k=EVALS.replace("DATA", str(DATA)))
    result = suite.run("-q", "--tb=no", "--langasync-report=run.json")
    assert result.ret == 1
    tests = json.loads((suite.path / "run.json").read_text(encoding="utf-8"))["tests"]
    judged = {one["id"]: one["outcome"] == "passed" for one in tests}
    expected = {f"test_gsm8k.py::test_problem[{n}]": ok for n, ok in enumerate(right)}
    assert len(expected) == 1319 and judged == expected
    assert [len(wave) for wave in suite.waves()] == [1319]

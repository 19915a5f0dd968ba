"""Evaluators that others wrote, judging with a model: as they are, batched, bought once."""

from __future__ import annotations

import pytest
from support.suite import Suite

REPLY = """
import json
import pytest

@pytest.hookimpl(optionalhook=True)
def pytest_langasync_sandbox_reply(request):
    text = json.dumps(request.body)
    if "RUBRIC" not in text:
        return None
    return {reply}
"""
SUITE = """
{setup}

@pytest.mark.langasync(chain=ask, inputs=["a", "b", "c"], scorer=scorer)
def test_it(scored):
    assert {score}, scored.scores
    assert "because" in scored.reason
    assert scored.calls == [] or len(scored.calls) == 2
"""


def check(suite: Suite, setup: str, score: str, reply: str) -> None:
    """Expect the answers in one wave and the judge's verdicts in the next, in both modes alike."""
    suite.pytester.makeconftest(REPLY.format(reply=reply))
    suite.write(SUITE.format(setup=setup, score=score))
    suite.run("-W", "ignore").assert_outcomes(passed=3)
    assert [len(wave) for wave in suite.waves()] == [3, 3]
    suite.run("-W", "ignore").assert_outcomes(passed=3)
    assert len(suite.ledger()) == 6
    suite.run("-W", "ignore", "--langasync-realtime", "--langasync-refresh").assert_outcomes(
        passed=3
    )


def test_openevals(suite: Suite) -> None:
    pytest.importorskip("openevals", reason="openevals is not installed")
    setup = """
from langchain_openai import ChatOpenAI
from openevals.llm import create_llm_as_judge

scorer = create_llm_as_judge(
    prompt="RUBRIC {inputs} {outputs}", judge=ChatOpenAI(model="gpt-4o-mini"), continuous=True
)
"""
    reply = 'json.dumps({"reasoning": "because", "score": 0.75})'
    check(suite, setup, "scored.score == 0.75", reply)


def test_pydantic_evals(suite: Suite) -> None:
    pytest.importorskip("pydantic_evals", reason="pydantic-evals is not installed")
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    setup = """
from pydantic_evals.evaluators import LLMJudge

scorer = LLMJudge(
    rubric="RUBRIC", model="openai-chat:gpt-4o-mini", include_input=True,
    score={"evaluation_name": "quality", "include_reason": True}, assertion=False,
)
"""
    reply = 'tool_reply(request, {"reason": "because", "pass": True, "score": 0.75})'
    helper = """
from pytest_langasync.sandbox import Reply, ToolCall

def tool_reply(request, arguments):
    if request.tools:
        return Reply(tool_calls=(ToolCall(request.tools[0].name, arguments),))
    return json.dumps(arguments)
"""
    suite.pytester.makepyfile(helper=helper.replace("\nfrom", "\nimport json\nfrom", 1))
    check(suite, setup, "scored.score == 0.75", f"__import__('helper').{reply}")


def test_deepeval(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepeval", reason="deepeval is not installed")
    monkeypatch.setenv("DEEPEVAL_TELEMETRY_OPT_OUT", "YES")
    setup = """
from deepeval.metrics import GEval
from deepeval.test_case import LLMTestCaseParams

scorer = GEval(
    name="quality", model="gpt-4o-mini", evaluation_steps=["RUBRIC"], async_mode=False,
    evaluation_params=[LLMTestCaseParams.INPUT, LLMTestCaseParams.ACTUAL_OUTPUT],
)
"""
    check(suite, setup, "scored.score == 0.7", 'json.dumps({"reason": "because", "score": 7})')

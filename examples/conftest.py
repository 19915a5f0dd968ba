"""Options and data of the examples, and what the sandbox's model knows about them.

A suite of your own needs none of this: mark its tests with ``langasync``, that is all.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from cases import data_file, load_cases

if TYPE_CHECKING:
    from pytest_langasync.sandbox import Reply, ReplyRequest

# The first phrase that occurs in the last user message decides what the sandbox's model says.
ANSWERS = {
    "capital of France": "Paris",
    "capital of Japan": "Tokyo",
    "tallest mountain": "Mount Everest",
    "exceeded my hopes": "positive",
    "arrived broken": "negative",
    "does what it says": "neutral",
    "Berlin on 12 March": json.dumps(
        {"title": "PyData meetup", "city": "Berlin", "day": 12, "attendees": ["Ada", "Grace"]}
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the dataset grow: ``--cases 1000``. ``--prompt hasty`` plants a regression."""
    parser.addoption("--cases", type=int, default=20, help="dataset cases to rate (default 20)")
    parser.addoption("--prompt", choices=("careful", "hasty"), default="careful")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for a ``case`` one run for each case."""
    if "case" in metafunc.fixturenames:
        cases = load_cases(metafunc.config.getoption("--cases"))
        metafunc.parametrize("case", cases, ids=[str(n) for n, _ in enumerate(cases)])


@pytest.hookimpl(optionalhook=True)
def pytest_langasync_sandbox_reply(request: ReplyRequest) -> Reply | str | None:
    """Answer as a good model would; None leaves the reply to the sandbox."""
    if any(tool.name == "find_customer" for tool in request.tools):
        return support_agent(request)
    if "Rate the answer" in request.prompt:
        return json.dumps(rated(request.prompt))
    if found := re.fullmatch(r"Add (\d+) and (\d+)\.", request.prompt):
        return added_up(int(found[1]), int(found[2]), str(request.body["instructions"]))
    if "Where is my parcel" in request.prompt:
        please = request.attempt % 5 != 3
        return "Could you give me the order number, please?" if please else "Which order?"
    return next((text for key, text in ANSWERS.items() if key in request.prompt), None)


def rated(prompt: str) -> dict[str, Any]:
    """Rate an answer in the words that the judge was asked for."""
    score, reason = 9 if is_right(prompt) else 2, "Compared with what is known."
    if "from 0 to 1." in prompt:
        return {"reasoning": reason, "score": score / 10}
    return {"score": score, "reason": reason}


def is_right(prompt: str) -> bool:
    """Judge the question and answer in a judge's prompt."""
    if both := re.search(r"Actual Output:\s*(.+?)\s+Expected Output:\s*(.+?)\s*\n", prompt):
        return both[1] == both[2]
    known = any(key in prompt and f"Answer: {text}" in prompt for key, text in ANSWERS.items())
    return known or sum_is_right(prompt) or any(pair in prompt for pair in right_pairs())


def added_up(left: int, right: int, instructions: str) -> str:
    """Add up as a model does: a hasty one is often wrong, a careful one seldom."""
    seldom, often = left % 16 == 1, left % 3 != 0
    wrong = often if "Guess" in instructions else seldom
    return f"{left} + {right} = {left + right + wrong * (1 + left % 4)}"


def sum_is_right(prompt: str) -> bool:
    """Judge one of the generated sums."""
    found = re.search(r"What is (\d+) \+ (\d+)\?.*\nAnswer: (\d+)$", prompt, re.MULTILINE)
    return found is not None and int(found[1]) + int(found[2]) == int(found[3])


@cache
def right_pairs() -> list[str]:
    """The data file's correct cases, as they appear in a judge's prompt."""
    return [f"Question: {c.question}\nAnswer: {c.answer}" for c in data_file() if c.correct]


def support_agent(request: ReplyRequest) -> Reply:
    """Find the customer, then the orders, then refund the broken one, then say so."""
    from pytest_langasync.sandbox import Reply, ToolCall

    results = [m["content"] for m in request.body["messages"] if m["role"] == "tool"]
    match len(results):
        case 0:
            return Reply(tool_calls=(ToolCall("find_customer", {"email": "ada@example.com"}),))
        case 1:
            return Reply(tool_calls=(ToolCall("list_orders", json.loads(results[0])),))
        case 2:
            broken = next(o for o in json.loads(results[1]) if o["status"] == "broken")
            return Reply(tool_calls=(ToolCall("refund", {"order_id": broken["order_id"]}),))
        case _:
            return Reply(text="I have refunded your broken teapot, order 1002.")

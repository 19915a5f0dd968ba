"""Before a changed request is bought anew, the person sees what changed, in groups."""

from __future__ import annotations

import pytest
from support.suite import BATCH, Suite, output

from pytest_langasync.engine.differences import changed_paths
from pytest_langasync.sandbox import Sandbox

SUITE = """
import os
import uuid

def tool():
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    function = {"name": "weather", "parameters": parameters}
    if os.environ.get("STRICT"):
        function["strict"] = True
    return {"type": "function", "function": function}

@pytest.mark.langasync
@pytest.mark.parametrize("city", ["Rome", "Oslo", "Bern"])
def test_tools(city):
    ask(f"What is the weather in {city}?", tools=[tool(), tool()], tool_choice="none")

@pytest.mark.langasync
def test_edited():
    ask("Name a capital of " + os.environ.get("PLACE", "Spain"))

@pytest.mark.langasync
def test_two_steps():
    first = ask("Name any river, please, and nothing else")
    assert ask("judge " + first + os.environ.get("JUDGE", ""))

@pytest.mark.langasync
def test_generated():
    ask(f"Ticket {uuid.uuid4()}")

@pytest.mark.langasync
def test_same():
    ask("What is always the same?")
    if os.environ.get("MORE"):
        ask("Is this another question?")
"""
CHANGED = "langasync: changed since it was stored: "


def changes(result: pytest.RunResult) -> list[str]:
    return [line.removeprefix(CHANGED) for line in result.outlines if line.startswith(CHANGED)]


def test_changes_in_groups_before_the_purchase(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(SUITE)
    first = suite.plain(*BATCH)
    first.assert_outcomes(passed=7)
    assert changes(first) == [], "what is new has not changed"
    for name, value in {"STRICT": "1", "PLACE": "Peru", "JUDGE": " well", "MORE": "1"}.items():
        monkeypatch.setenv(name, value)
    estimate = suite.plain("--langasync-estimate")
    wanted = [
        "+tools[].function.strict in 3 calls",
        "~messages[].content in 2 calls",
        "generated identifiers in 1 call",
    ]
    assert changes(estimate) == wanted, output(estimate)
    bought = len(provider.ledger())
    second = suite.plain(*BATCH)
    second.assert_outcomes(passed=7)
    assert changes(second) == wanted, output(second)
    text = output(second)
    assert text.index(CHANGED) < text.index("langasync: submitted")
    assert len(provider.ledger()) == bought + 7
    anew = suite.plain(*BATCH, "--langasync-refresh", "-k", "not generated")
    assert changes(anew) == [], "the same, bought anew"


def test_told_although_it_costs_too_much(
    suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(SUITE)
    suite.plain(*BATCH).assert_outcomes(passed=7)
    monkeypatch.setenv("STRICT", "1")
    refused = suite.plain(*BATCH, "--langasync-max-cost=0")
    assert changes(refused)[0] == "+tools[].function.strict in 3 calls"
    assert len(provider.ledger()) == 8


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, ()),
        ({"a": 1}, {"a": 2, "b": None}, ("+b", "~a")),
        ({"seed": 1}, {}, ("-seed",)),
        ({"m": [{"c": "x"}]}, {"m": [{"c": "y"}, {"c": "z"}]}, ("+m[]", "~m[].c")),
        ({"t": [[1], [2]]}, {"t": [[3], [4]]}, ("~t[][]",)),
        ({"k": {"\x1b[2J": 1}}, {"k": {}}, ("-k.'\\x1b[2J'",)),
    ],
)
def test_changed_paths(old: object, new: object, expected: tuple[str, ...]) -> None:
    assert changed_paths(old, new) == expected

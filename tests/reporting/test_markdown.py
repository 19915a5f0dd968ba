"""The Markdown report, read by a renderer that others wrote."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from support.reports import HOSTILE, TOTALS

from pytest_langasync.reporting.markdown import LIMIT
from pytest_langasync.reporting.markdown import markdown as markdown_of
from pytest_langasync.reporting.model import read_report


def a_test(name: str, outcome: str = "failed", **more: Any) -> dict[str, Any]:
    """Return a test's part of an account."""
    scores = {name: {"value": 7, "reason": name}, "label": {"value": name, "reason": None}}
    return {"id": name, "group": name, "outcome": outcome, "scores": scores, "calls": [], **more}


def an_account(name: str, tests: int = 1) -> dict[str, Any]:
    """Return an account in which every text is ``name``."""
    figures = ("batched", "cached", "realtime", "failed", "deferred", "input_tokens")
    sums = ("list_price_usd", "paid_usd", "saved_usd")
    model = dict.fromkeys((*figures, "output_tokens"), 1) | dict.fromkeys(sums, 0.5)
    change = {"name": name, "n": 1, "before": 1.0, "after": 0.5, "change": -0.5}
    return {
        "totals": TOTALS,
        "settings": {},
        "models": [{**model, "provider": name, "model": name, "unknown_price": 0}],
        "gates": [
            {"gate": name, "group": name, "required": 0.5, "reached": None, "n": 0, "passed": False}
        ],
        "comparison": {
            "baseline": name, "paired": 1, "added": [], "removed": [], "newly_failing": [name],
            "newly_passing": [name], "p_value": None, "moves": [], "regressions": [name],
            "scores": [{**change, "low": None, "high": None, "p_value": None}],
        },
        "tests": [a_test(f"{name}{n}") for n in range(tests)],
    }  # fmt: skip


def markdown(account: dict[str, Any]) -> str:
    return markdown_of(read_report(account))


def tokens(text: str) -> list[Token]:
    """Return every token of a document, those inside paragraphs and cells included."""
    found = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    return [one for token in found for one in (token, *(token.children or ()))]


def check(name: str) -> str:
    text = markdown(an_account(name))
    kinds = {token.type for token in tokens(text)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "fence", "code_block"}
    headings = [token.tag for token in tokens(text) if token.type == "heading_open"]
    assert headings == ["h2", "h3", "h3"]
    return text


def test_hostile_names_stay_text() -> None:
    text = check(HOSTILE)
    shown = "".join(token.content for token in tokens(text) if token.type == "code_inline")
    assert "</td><script>x</script>" in shown


@given(st.text(st.sampled_from("`*_[]()<>!|~&@# \n\\a1.-"), min_size=1, max_size=30))
def test_no_name_is_markup(name: str) -> None:
    if name.strip():
        check(name)


def test_figures() -> None:
    text = markdown(an_account("quality"))
    assert "**1 failed** · saved $0.5000 (50.0 %), paid $0.5000" in text
    assert "| `quality0` | 0/1 | 0% (0% to 79%) | `quality0` 1 | 7 |" in text
    assert "| `quality` | 1 | 1 | 0.5 | -0.5 | too few |" in text
    assert "never recorded" in text and "**Worse:** quality" in text


def test_labels_are_counted() -> None:
    account = an_account("x")
    labels = ["good"] * 3 + ["bad", "b|d", "", "ugly" * 100, "rest", "rest 2"]
    account["tests"] = [
        a_test(f"x{n}", group="x") | {"scores": {"tone": {"value": label, "reason": None}}}
        for n, label in enumerate(labels)
    ]
    row = next(line for line in markdown(account).splitlines() if line.startswith("| `x` | 0/9"))
    assert row.endswith("| `good` 3, empty 1, `bad` 1, `b\\|d` 1, `rest` 1, 2 other labels |")
    account["tests"] = account["tests"][6:7]
    assert len(markdown(account)) < 1500


def test_the_headline_says_that_a_gate_failed() -> None:
    account = an_account("x")
    failed = account["gates"][0] | {"gate": "min_score", "group": "a*b", "reached": 0.25, "n": 4}
    account["gates"] = [failed | {"passed": True}]
    assert "gate failed" not in markdown(account)
    account["gates"] = [failed] * 5
    headline = markdown(account).splitlines()[2]
    assert headline.startswith("**gate failed:** `min_score a*b` 0.25, required 0.5 · ")
    assert headline.count("gate failed") == 3
    assert "**2 more gates failed** · **1 failed**" in headline


def test_unknown_prices_and_the_sandbox_are_told() -> None:
    account = an_account("x")
    account["totals"] = {**TOTALS, "unknown_price": 1200}
    account["models"][0].update(unknown_price=1200)
    account["models"][0].update(dict.fromkeys(("list_price_usd", "paid_usd", "saved_usd")))
    account["settings"] = {"sandbox": True}
    text = markdown(account)
    assert "the price of 1,200 requests is unknown" in text and "sandbox: nothing was paid" in text
    assert "unknown | unknown | unknown" in text


@pytest.mark.parametrize("name", ["x" * 5000, "🙂" * 5000])
def test_it_fits_a_comment(name: str) -> None:
    text = markdown(an_account(name, tests=3000))
    assert len(text) <= LIMIT + 20 < 65_536
    assert "more tests" in text or text.endswith("… cut short\n")


def test_no_answers() -> None:
    account = an_account("x")
    account["tests"][0]["calls"] = [{"request": {"prompt": "secret"}, "answer": "secret"}]
    account["tests"][0]["scores"]["x0"]["reason"] = "secret"
    assert "secret" not in markdown(account)

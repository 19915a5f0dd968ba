"""The account of a run as one self-contained page: no network, no code but its own.

The page's figures are written by the template, which escapes; the table of cases is made in the
browser from JSON, as text only. What a model wrote is therefore never markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from pytest_langasync.intervals import mean, t_interval, wilson
from pytest_langasync.report.charts import Chart, bars, lines
from pytest_langasync.report.text import answer_text, duration, last_message, money

__all__ = ["html_page"]

Run = Mapping[str, Any]

LONGEST = 20_000
"""Characters of a prompt or an answer that the page shows; the JSON report has all of it."""
_VERDICTS = ("passed", "failed", "error", "missed", "deferred", "skipped")


def html_page(run: Run, *, history: Sequence[Run] = ()) -> str:
    """Return the page of a run.

    Args:
        run: its account, with ``request`` and ``answer`` of each call where they are to be shown.
        history: the figures of earlier runs, oldest first (``jsonfile.figures``).
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("pytest_langasync.report"), autoescape=True, trim_blocks=True
    )
    environment.filters |= {"usd": _usd, "rate": _rate, "when": _when, "number": _number}
    style, script = (environment.loader.get_source(environment, name)[0] for name in _ASSETS)  # type: ignore[union-attr]
    verdicts = [_verdict(test) for test in run["tests"]]
    # ASCII, and no character that could end the element it stands in.
    cases = json.dumps([_case(test) for test in _with_change(run)]).replace("<", "\\u003c")
    return environment.get_template("report.html").render(
        run=run,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        cases=cases,
        verdicts=[(word, verdicts.count(word)) for word in _VERDICTS if word in verdicts],
        groups=list(_groups(run["tests"])),
        charts=_charts(run, history),
        took=duration(run["ended_at"] - run["started_at"]),
    )


_ASSETS = ("report.css", "report.js")


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _verdict(test: Run) -> str:
    return "missed" if test.get("missed") else str(test["outcome"])


# ---- filters of the template


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else money(Decimal(str(amount)))


def _rate(rate: float) -> str:
    return f"{rate:.0%}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


# ---- the table of cases


def _with_change(run: Run) -> Iterable[tuple[Run, Mapping[str, Any]]]:
    """Yield each test with how it differs from the baseline."""
    comparison = run.get("comparison") or {}
    changes: dict[str, dict[str, Any]] = {}
    for what in ("newly_failing", "newly_passing", "added"):
        for name in comparison.get(what, ()):
            changes.setdefault(name, {})["verdict"] = what.replace("_", " ")
    for move in comparison.get("moves", ()):
        scores = changes.setdefault(move["id"], {}).setdefault("scores", {})
        scores[move["name"]] = move["before"]
    for test in run["tests"]:
        yield test, changes.get(test["id"], {})


def _case(shown: tuple[Run, Mapping[str, Any]]) -> dict[str, Any]:
    test, change = shown
    costs = [call["paid_usd"] for call in test["calls"]]
    return {
        "id": test["id"],
        "verdict": _verdict(test),
        "group": test.get("group", ""),
        "scores": test.get("scores", {}),
        "change": change,
        "cost": None if None in costs else sum(costs),
        "case": test.get("case", {}),
        "waits": [waiting.get("job_id") or "" for waiting in test["deferred"]],
        "calls": [_call(call) for call in test["calls"]],
    }


def _call(call: Run) -> dict[str, Any]:
    names = ("served_model", "model", "source", "status", "job_id", "paid_usd", "age_seconds")
    usage = call["usage"] or {}
    request, answer = call.get("request"), call.get("answer")
    return {
        **{name: call[name] for name in names},
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
        "asked": _cut(last_message(request) if isinstance(request, Mapping) else ""),
        "answered": _cut(answer_text(answer) if answer is not None else ""),
    }


def _cut(text: str) -> str:
    # A lone surrogate cannot be written as UTF-8, but JSON has an escape for it.
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … (cut short)"


# ---- the tables of figures


def _groups(tests: Sequence[Run]) -> Iterable[dict[str, Any]]:
    groups: dict[str, list[Run]] = {}
    for test in tests:
        if "group" in test and _verdict(test) not in ("skipped", "deferred"):
            groups.setdefault(test["group"], []).append(test)
    for name, members in sorted(groups.items()):
        passed = sum(_verdict(test) == "passed" for test in members)
        yield {
            "name": name,
            "passed": passed,
            "count": len(members),
            "interval": wilson(passed, len(members)),
            "scores": list(_scores(members)),
        }


def _scores(tests: Sequence[Run]) -> Iterable[dict[str, Any]]:
    for name in sorted({name for test in tests for name in test.get("scores", {})}):
        values = [test["scores"][name]["value"] for test in tests if name in test.get("scores", {})]
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        if numbers and len(numbers) == len(values):
            yield {"name": name, "mean": mean(numbers), "interval": t_interval(numbers)}
        else:
            labels = sorted(map(str, values))
            yield {
                "name": name,
                "labels": [(one, labels.count(one)) for one in dict.fromkeys(labels)],
            }


# ---- the charts


def _charts(run: Run, history: Sequence[Run]) -> list[Chart]:
    from pytest_langasync.report.jsonfile import figures

    runs = [*history, figures(run)]
    if len(runs) < 2:
        return []
    names = [_when(one["started_at"]) for one in runs]
    series = {
        "paid": [one["paid_usd"] for one in runs],
        "saved": [one["saved_usd"] for one in runs],
    }
    charts = [bars("Cost of each run", "US dollars", names, series, _usd)]
    rates = {"pass rate": [one["pass_rate"] for one in runs]}
    charts.append(
        lines("Pass rate of each run", "share of tests", names, rates, _rate, low=0, high=1)
    )
    scores = sorted({name for one in runs for name in one["scores"]})
    means = {name: [one["scores"].get(name) for one in runs] for name in scores}
    if means:
        charts.append(lines("Mean scores of each run", "mean", names, means, _number))
    return charts

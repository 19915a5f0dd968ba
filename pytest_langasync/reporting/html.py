"""The account of a run as one self-contained page: no network, no code but its own.

The page's figures are written by the template, which escapes; the table of cases is made in the
browser from JSON, as text only. What a model wrote is therefore never markup. Names, labels and
reasons are isolated, and show as an escape what would reorder the text around them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pytest_langasync.providers import dialect
from pytest_langasync.reporting.charts import Chart, bars, lines
from pytest_langasync.reporting.groups import groups_of
from pytest_langasync.reporting.history import RunFigures, figures
from pytest_langasync.reporting.model import CallReport, RunReport, ScoreValue, TestReport
from pytest_langasync.reporting.text import duration, escape, money, shorten

__all__ = ["html_page"]

LONGEST = 20_000
"""Characters of a text that the page shows; the JSON report has all of it."""
_LABEL, _LABELS = 200, 12
"""Characters of a label that the page shows, and how many labels of a score it counts."""
_VERDICTS = (
    "passed", "failed", "error", "missed", "deferred", "xfailed", "xpassed", "skipped",
)  # fmt: skip


ORDER = ("failed", "error", "missed", "xpassed", "deferred", "passed", "xfailed", "skipped")


def html_page(run: RunReport, *, history: Sequence[RunFigures] = ()) -> str:
    """Return the page of a run.

    Args:
        run: its report, with ``request`` and ``answer`` of each call where they are to be shown.
        history: the figures of earlier runs, oldest first (``history.figures``).
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("pytest_langasync.reporting"), autoescape=True, trim_blocks=True
    )
    environment.filters |= {"usd": _usd, "rate": _rate, "when": _when, "number": _number}
    environment.filters["visible"] = _name
    style, script = (environment.loader.get_source(environment, name)[0] for name in _ASSETS)  # type: ignore[union-attr]
    verdicts = [test.verdict for test in run.tests]
    texts = _Texts()
    tests = sorted(_with_change(run), key=lambda pair: _rank(pair[0]))
    cases = [_case(test, change, texts) for test, change in tests]
    # ASCII, and no character that could end the element it stands in.
    data = json.dumps({"cases": cases, "texts": list(texts.numbers), "left_out": texts.left_out})
    return environment.get_template("report.html").render(
        run=run,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=data.replace("<", "\\u003c"),
        failed_gates=[gate for gate in run.gates if not gate.passed],
        verdicts=[(word, verdicts.count(word)) for word in _VERDICTS if word in verdicts],
        groups=sorted(groups_of(run.tests), key=lambda group: group.name),
        most_labels=_LABELS,
        charts=_charts(run, history),
        took=duration(run.ended_at - run.started_at),
    )


_ASSETS = ("report.css", "report.js")


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


# ---- filters of the template


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else money(Decimal(str(amount)))


def _rate(rate: float) -> str:
    return f"{rate:.0%}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _name(text: Any) -> str:
    """Return a name or a label, cut, with what controls the text around it escaped."""
    return shorten(escape(str(text)), _LABEL)


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


# ---- the table of cases


class _Texts:
    """The page's texts, each of them once: a system prompt is that of every case."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.left_out: dict[int, int] = {}

    def add(self, value: Any) -> int | None:
        """Return the number under which the page finds a text, or a value as JSON."""
        if value is None:
            return None
        text = value if isinstance(value, str) else _json(value)
        number = self.numbers.setdefault(shorten(text, LONGEST), len(self.numbers))
        if len(text) > LONGEST:
            self.left_out[number] = len(text) - LONGEST
        return number


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)


def _rank(test: TestReport) -> int:
    """Where a test stands: what needs a look comes first, each kind in the order of the run."""
    return ORDER.index(test.verdict) if test.verdict in ORDER else len(ORDER)


@dataclass
class _Change:
    """How a test differs from the baseline."""

    verdict: str = ""
    before: dict[str, ScoreValue] = field(default_factory=dict)
    """The scores that moved, as they were."""


def _with_change(run: RunReport) -> Iterable[tuple[TestReport, _Change]]:
    """Yield each test with how it differs from the baseline."""
    changes: dict[str, _Change] = {}
    if c := run.comparison:
        named = (("newly failing", c.newly_failing), ("newly passing", c.newly_passing))
        for what, names in (*named, ("added", c.added)):
            for name in names:
                changes.setdefault(name, _Change()).verdict = what
        for move in c.moves:
            changes.setdefault(move.id, _Change()).before[move.name] = move.before
    for test in run.tests:
        yield test, changes.get(test.id, _Change())


def _case(test: TestReport, change: _Change, texts: _Texts) -> dict[str, Any]:
    costs = [call.paid_usd for call in test.calls]
    known = [cost for cost in costs if cost is not None]
    case = {} if test.case is None else dict(test.case)
    return {
        "id": escape(test.id),
        "verdict": test.verdict,
        "group": escape(test.group or ""),
        "parameters": [(_name(k), _name(v)) for k, v in test.parameters.items()],
        "scores": [
            {
                "name": _name(name),
                "value": _value(score.value),
                "reason": texts.add(_escaped(score.reason)),
                **({"before": _value(change.before[name])} if name in change.before else {}),
            }
            for name, score in test.scores.items()
        ],
        "change": change.verdict,
        "cost": None if len(known) < len(costs) else sum(known),
        "failure": texts.add(_escaped(test.failure)),
        **{name: texts.add(case.get(name)) for name in ("input", "expected", "output")},
        "waits": [_name(waiting.job_id or "") for waiting in test.deferred],
        "calls": [_call(call, texts) for call in test.calls],
    }


def _escaped(text: Any) -> str | None:
    return escape(str(text)) if text else None


def _value(value: Any) -> Any:
    """Return a score as the page has it; JSON knows no NaN."""
    finite = isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))
    return value if finite else _name(value)


def _call(call: CallReport, texts: _Texts) -> dict[str, Any]:
    names = ("served_model", "model", "job_id", "source")
    shape = dialect(call.provider, call.endpoint)
    said = shape.messages(call.request) if isinstance(call.request, Mapping) else []
    return {
        **{name: _name(getattr(call, name) or "") for name in names},
        "status": call.status,
        "paid_usd": call.paid_usd,
        "age_seconds": call.age_seconds,
        "input_tokens": call.usage.input_tokens if call.usage else None,
        "output_tokens": call.usage.output_tokens if call.usage else None,
        "said": [(_name(who), texts.add(text)) for who, text in said],
        "answered": None if call.answer is None else texts.add(shape.answer_text(call.answer)),
    }


# ---- the charts


def _charts(run: RunReport, history: Sequence[RunFigures]) -> list[Chart]:
    runs = [*history, figures(run)]
    if len(runs) < 2:
        return []
    names = [_when(one.started_at) for one in runs]
    series = {"paid": [one.paid_usd for one in runs], "saved": [one.saved_usd for one in runs]}
    charts = [bars("Cost of each run", "US dollars", names, series, _usd)]
    rates = {"pass rate": [one.pass_rate for one in runs]}
    charts.append(
        lines("Pass rate of each run", "share of tests", names, rates, _rate, low=0, high=1)
    )
    scores = sorted({name for one in runs for name in one.scores})
    means = {_name(name): [one.scores.get(name) for one in runs] for name in scores}
    if means:
        charts.append(lines("Mean scores of each run", "mean", names, means, _number))
    return charts

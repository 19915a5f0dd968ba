"""The account of a run as Markdown: for a pull request, or the page of a CI run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from pytest_langasync.reporting.groups import Group, groups_of
from pytest_langasync.reporting.model import (
    Comparison,
    CostRow,
    RunReport,
    ScoreChange,
    TestReport,
)
from pytest_langasync.reporting.text import money, one_line, shorten
from pytest_langasync.scoring.gates import GateResult
from pytest_langasync.scoring.summary import ScoreSummary

__all__ = ["markdown"]

LIMIT = 60_000
"""Characters; a comment on GitHub takes 65,536, and the page of a run 1 MiB."""
LISTED = 25
_HEADLINED = 3
"""Failed gates that the headline names; the table below it has them all."""
_NAME = 160
_LABEL, _LABELS = 40, 5
"""Characters of a label in a table's cell, and how many labels are counted there."""
_VERDICTS = (
    "passed", "failed", "error", "missed", "deferred", "xfailed", "xpassed", "skipped",
)  # fmt: skip
_SPECIAL = re.compile(r"[\\`*_\[\]<>#!|~&@]")


def markdown(run: RunReport) -> str:
    """Return verdicts, scores, sums and changes of an account; no prompt and no answer in it."""
    blocks = ["## LLM evaluations", _headline(run)]
    blocks += _gates(run.gates)
    blocks += _costs(run)
    blocks += _groups(run.tests)
    blocks += _comparison(run.comparison)
    blocks += _failures(run.tests)
    text = "\n\n".join(filter(None, blocks)) + "\n"
    return text if len(text) <= LIMIT else text[:LIMIT].rpartition("\n")[0] + "\n\n… cut short\n"


def _headline(run: RunReport) -> str:
    words = [test.verdict for test in run.tests]
    parts = [*_failed_gates(run.gates)]
    parts += [f"**{words.count(word):,} {word}**" for word in _VERDICTS if words.count(word)]
    total = run.totals
    if total.requests:
        parts += _money(total)
    if run.freshness:
        parts.append(f"**{run.freshness}**")
    if total.unknown_price:
        parts.append(f"the price of {total.unknown_price:,} requests is unknown")
    if run.settings.get("sandbox"):
        parts.append("sandbox: nothing was paid")
    return " · ".join(parts)


def _money(total: CostRow) -> Iterator[str]:
    cost, listed = total.verdicts_cost_usd, total.verdicts_list_price_usd
    if cost is None or listed is None:  # a report of an earlier version
        percent = f"{total.saved_percent or 0:.1f} %"
        yield f"saved {_usd(total.saved_usd)} ({percent}), paid {_usd(total.paid_usd)}"
        return
    yield f"this run paid {_usd(total.paid_usd)}"
    percent = f" ({100 * (listed - cost) / listed:.1f} %)" if listed else ""
    yield (
        f"these verdicts: {_usd(cost)} when their answers were bought, {_usd(listed)} at list "
        f"price, saved {_usd(listed - cost)}{percent}"
    )


def _failed_gates(gates: Sequence[GateResult]) -> Iterator[str]:
    """Yield what the headline says of gates: verdicts alone may look fine where one failed."""
    failed = [gate for gate in gates if not gate.passed]
    for gate in failed[:_HEADLINED]:
        yield (
            f"**gate failed:** {_gate_name(gate)} {_reached(gate)}, required {gate.required:.3g}"
        )
    if len(failed) > _HEADLINED:
        yield f"**{len(failed) - _HEADLINED:,} more gates failed**"


def _gate_name(gate: GateResult) -> str:
    return _code(" ".join(filter(None, (gate.gate, gate.group))))


def _reached(gate: GateResult) -> str:
    return "never recorded" if gate.reached is None else f"{gate.reached:.3g}"


def _gates(gates: Sequence[GateResult]) -> Iterator[str]:
    if gates:
        yield _table(
            ("gate", "required", "reached", "tests", ""),
            (
                (
                    _gate_name(gate),
                    f"{gate.required:.3g}",
                    _reached(gate),
                    f"{gate.n:,}",
                    "passed" if gate.passed else "**failed**",
                )
                for gate in gates
            ),
        )


def _costs(run: RunReport) -> Iterator[str]:
    if run.models:
        counts = ("batch", "cache", "real time", "failed", "deferred", "tokens in", "tokens out")
        heads = ("provider", "model", *counts, "list price", "paid", "saved")
        yield _table(heads, (_cost(row) for row in run.models), right=2)


def _cost(row: CostRow) -> Sequence[str]:
    counts = (row.batched, row.cached, row.realtime, row.failed, row.deferred)
    numbers = [f"{number:,}" for number in (*counts, row.input_tokens, row.output_tokens)]
    amounts = map(_usd, (row.list_price_usd, row.paid_usd, row.saved_usd))
    return (_plain(row.provider), _code(row.model), *numbers, *amounts)


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else money(Decimal(str(amount)))


def _groups(tests: Sequence[TestReport]) -> Iterator[str]:
    scored = [group for group in groups_of(tests) if group.scores]
    if not scored:
        return
    names = sorted({name for group in scored for name in group.scores})
    yield _table(
        ("test", "passed", "rate (95 % interval)", *map(_code, names)),
        (_group(group, names) for group in scored[:LISTED]),
        right=1,
    )
    yield from _more(len(scored), "test functions")


def _group(group: Group, names: Iterable[str]) -> Sequence[str]:
    low, high = group.interval
    rate = f"{group.rate:.0%} ({low:.0%} to {high:.0%})"
    scores = (_score(group.scores[name]) if name in group.scores else "" for name in names)
    return (_code(group.name), f"{group.passed:,}/{group.count:,}", rate, *scores)


def _score(score: ScoreSummary) -> str:
    if score.mean is None:
        return _counts(score)
    if score.interval is None:
        return f"{score.mean:.3g}"
    low, high = score.interval
    if score.true is not None:
        return f"{score.mean:.0%} ({low:.0%} to {high:.0%})"
    return f"{score.mean:.3g} ({low:.3g} to {high:.3g})"


def _counts(score: ScoreSummary) -> str:
    others = len(score.labels[_LABELS:])
    counts = [f"{_code(label, _LABEL) or 'empty'} {n:,}" for label, n in score.labels[:_LABELS]]
    return ", ".join(counts + [f"{others:,} other labels"] * bool(others))


def _comparison(comparison: Comparison | None) -> Iterator[str]:
    if not comparison:
        return
    c = comparison
    yield f"### Compared with {_code(c.baseline)}"
    yield f"{c.paired:,} in both, {len(c.added):,} new, {len(c.removed):,} gone"
    for text in c.regressions:
        yield f"**Worse:** {_plain(text)}"
    for what, names in (("failing", c.newly_failing), ("passing", c.newly_passing)):
        if names:
            yield f"Newly {what}: {len(names):,}"
            yield _list(map(_code, names[:LISTED]))
            yield from _more(len(names), "tests")
    if c.scores:
        heads = ("score", "pairs", "before", "after", "change (95 % interval)", "p")
        yield _table(heads, map(_change, c.scores), right=1)


def _change(score: ScoreChange) -> Sequence[str]:
    change = f"{score.change:+.3g}"
    if score.low is not None:
        change += f" ({score.low:+.3g} to {score.high:+.3g})"
    p_value = "too few" if score.p_value is None else f"{score.p_value:.2g}"
    figures = (f"{score.n:,}", f"{score.before:.3g}", f"{score.after:.3g}")
    return (_code(score.name), *figures, change, p_value)


def _failures(tests: Sequence[TestReport]) -> Iterator[str]:
    bad = [test for test in tests if test.verdict in ("failed", "error", "missed")]
    if bad:
        yield "### Not passed"
        yield _list(f"{test.verdict}: {_code(test.id)}" for test in bad[:LISTED])
        yield from _more(len(bad), "tests")


def _more(count: int, what: str) -> Iterator[str]:
    if count > LISTED:
        yield f"… and {count - LISTED:,} more {what}"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: int | None = None) -> str:
    """Return a table; its columns from number ``right`` on are figures."""
    figures = len(heads) if right is None else right
    rule = ["---" if column < figures else "---:" for column in range(len(heads))]
    cells = ((cell.replace("|", "\\|") for cell in row) for row in (heads, rule, *rows))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _plain(text: str) -> str:
    """Return text that no Markdown, HTML or mention in it survives."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", shorten(one_line(text), _NAME))


def _code(text: str, limit: int = _NAME) -> str:
    """Return a name as code, in which nothing is Markdown but the marks that end it."""
    shown = shorten(one_line(text), limit)
    marks = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{marks}{space}{shown}{space}{marks}" if shown else ""

"""The account of a run as Markdown: for a pull request, or the page of a CI run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from pytest_langasync.reporting.text import counted, money, one_line, shorten
from pytest_langasync.scoring.statistics import mean, t_interval, wilson

__all__ = ["markdown"]

Run = Mapping[str, Any]

LIMIT = 60_000
"""Characters; a comment on GitHub takes 65,536, and the page of a run 1 MiB."""
LISTED = 25
_HEADLINED = 3
"""Failed gates that the headline names; the table below it has them all."""
_NAME = 160
_LABEL, _LABELS = 40, 5
"""Characters of a label in a table's cell, and how many labels are counted there."""
_VERDICTS = ("passed", "failed", "error", "missed", "deferred", "skipped")
_SPECIAL = re.compile(r"[\\`*_\[\]<>#!|~&@]")


def markdown(run: Run) -> str:
    """Return verdicts, scores, sums and changes of an account; no prompt and no answer in it."""
    blocks = ["## LLM evaluations", _headline(run)]
    blocks += _gates(run["gates"])
    blocks += _costs(run)
    blocks += _groups(run["tests"])
    blocks += _comparison(run.get("comparison"))
    blocks += _failures(run["tests"])
    text = "\n\n".join(filter(None, blocks)) + "\n"
    return text if len(text) <= LIMIT else text[:LIMIT].rpartition("\n")[0] + "\n\n… cut short\n"


def verdict(test: Run) -> str:
    """Return a test's outcome in a word."""
    return "missed" if test.get("missed") else str(test["outcome"])


def _headline(run: Run) -> str:
    words = [verdict(test) for test in run["tests"]]
    parts = [*_failed_gates(run["gates"])]
    parts += [f"**{words.count(word):,} {word}**" for word in _VERDICTS if words.count(word)]
    total = run["totals"]
    if total["requests"]:
        amounts = [Decimal(str(total[name])) for name in ("saved_usd", "paid_usd")]
        saved, paid = map(money, amounts)
        parts.append(f"saved {saved} ({total['saved_percent']:.1f} %), paid {paid}")
    if total["unknown_price"]:
        parts.append(f"the price of {total['unknown_price']:,} requests is unknown")
    if run["settings"].get("sandbox"):
        parts.append("sandbox: nothing was paid")
    return " · ".join(parts)


def _failed_gates(gates: Sequence[Run]) -> Iterator[str]:
    """Yield what the headline says of gates: verdicts alone may look fine where one failed."""
    failed = [gate for gate in gates if not gate["passed"]]
    for gate in failed[:_HEADLINED]:
        reached = f"{gate['reached']:.3g}" if gate["n"] else "never recorded"
        yield f"**gate failed:** {_gate_name(gate)} {reached}, required {gate['required']:.3g}"
    if len(failed) > _HEADLINED:
        yield f"**{len(failed) - _HEADLINED:,} more gates failed**"


def _gate_name(gate: Run) -> str:
    return _code(" ".join(filter(None, (gate["gate"], gate["group"]))))


def _gates(gates: Sequence[Run]) -> Iterator[str]:
    if gates:
        yield _table(
            ("gate", "required", "reached", "tests", ""),
            (
                (
                    _gate_name(gate),
                    f"{gate['required']:.3g}",
                    f"{gate['reached']:.3g}" if gate["n"] else "never recorded",
                    f"{gate['n']:,}",
                    "passed" if gate["passed"] else "**failed**",
                )
                for gate in gates
            ),
        )


def _costs(run: Run) -> Iterator[str]:
    if run["models"]:
        counts = ("batch", "cache", "real time", "failed", "deferred", "tokens in", "tokens out")
        heads = ("provider", "model", *counts, "list price", "paid", "saved")
        yield _table(heads, (_cost(row) for row in run["models"]), right=2)


def _cost(row: Run) -> Sequence[str]:
    counts = ("batched", "cached", "realtime", "failed", "deferred", "input_tokens")
    amounts = [row[f"{name}_usd"] for name in ("list_price", "paid", "saved")]
    sums = ["unknown" if one is None else money(Decimal(str(one))) for one in amounts]
    numbers = [f"{row[name]:,}" for name in (*counts, "output_tokens")]
    return (_plain(row["provider"]), _code(row["model"]), *numbers, *sums)


def _groups(tests: Sequence[Run]) -> Iterator[str]:
    groups: dict[str, list[Run]] = {}
    for test in tests:
        if "group" in test and verdict(test) not in ("skipped", "deferred"):
            groups.setdefault(test["group"], []).append(test)
    scored = {name: group for name, group in groups.items() if any("scores" in t for t in group)}
    if not scored:
        return
    names = sorted(
        {name for group in scored.values() for t in group for name in t.get("scores", {})}
    )
    yield _table(
        ("test", "passed", "rate (95 % interval)", *map(_code, names)),
        (_group(name, group, names) for name, group in list(scored.items())[:LISTED]),
        right=1,
    )
    yield from _more(len(scored), "test functions")


def _group(name: str, tests: Sequence[Run], scores: Iterable[str]) -> Sequence[str]:
    passed = sum(verdict(test) == "passed" for test in tests)
    low, high = wilson(passed, len(tests))
    rate = f"{passed / len(tests):.0%} ({low:.0%} to {high:.0%})"
    return (_code(name), f"{passed:,}/{len(tests):,}", rate, *(_mean(tests, s) for s in scores))


def _mean(tests: Sequence[Run], name: str) -> str:
    found = [test["scores"][name]["value"] for test in tests if name in test.get("scores", {})]
    numbers = [float(value) for value in found if isinstance(value, (int, float))]
    if not numbers or len(numbers) < len(found):
        return _counts(map(str, found))
    interval = t_interval(numbers)
    return f"{mean(numbers):.3g}" + (
        f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
    )


def _counts(labels: Iterable[str]) -> str:
    shown, others = counted(labels, _LABELS)
    counts = [f"{_code(label, _LABEL) or 'empty'} {count:,}" for label, count in shown]
    return ", ".join(counts + [f"{others:,} other labels"] * bool(others))


def _comparison(comparison: Run | None) -> Iterator[str]:
    if not comparison:
        return
    yield f"### Compared with {_code(comparison['baseline'])}"
    counts = (("paired", "in both"), ("added", "new"), ("removed", "gone"))
    sizes = [(comparison[key], words) for key, words in counts]
    yield ", ".join(f"{n if isinstance(n, int) else len(n):,} {words}" for n, words in sizes)
    for text in comparison["regressions"]:
        yield f"**Worse:** {_plain(text)}"
    for what in ("newly_failing", "newly_passing"):
        if names := comparison[what]:
            yield f"{what.replace('_', ' ').capitalize()}: {len(names):,}"
            yield _list(map(_code, names[:LISTED]))
            yield from _more(len(names), "tests")
    if scores := comparison["scores"]:
        heads = ("score", "pairs", "before", "after", "change (95 % interval)", "p")
        yield _table(heads, map(_change, scores), right=1)


def _change(score: Run) -> Sequence[str]:
    change = f"{score['change']:+.3g}"
    if score["low"] is not None:
        change += f" ({score['low']:+.3g} to {score['high']:+.3g})"
    p_value = "too few" if score["p_value"] is None else f"{score['p_value']:.2g}"
    figures = (f"{score['n']:,}", f"{score['before']:.3g}", f"{score['after']:.3g}")
    return (_code(score["name"]), *figures, change, p_value)


def _failures(tests: Sequence[Run]) -> Iterator[str]:
    bad = [test for test in tests if verdict(test) in ("failed", "error", "missed")]
    if bad:
        yield "### Not passed"
        yield _list(f"{verdict(test)}: {_code(test['id'])}" for test in bad[:LISTED])
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

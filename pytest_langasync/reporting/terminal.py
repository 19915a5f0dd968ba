"""What the terminal shows: the summary, the estimate, and the calls of a failing test."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from pytest_langasync.costs.ledger import LaneRow, Summary, SummaryRow, source_of
from pytest_langasync.costs.prices import ASSUMED_OUTPUT, Estimate, add_estimates
from pytest_langasync.models import Answer, Call
from pytest_langasync.providers import dialect_of
from pytest_langasync.reporting.text import (
    ages,
    duration,
    escape,
    money,
    nothing_bought,
    one_line,
    shorten,
)

__all__ = ["Line", "escape", "estimate_lines", "failure_section", "notice", "summary_lines"]

_LONGEST_TEXT = 600
_NARROWEST_NAME = 20
DAY = 86_400
WRAPPED = 60
"""Columns below which lines are wrapped between words."""
LEGEND = "counts are requests, by where their answers came from; paid: by this run"
_BOLD = {"bold": True}
_NOTICE = {"yellow": True}
_SOURCES = {"batch": "batch", "flex": "flex", "realtime": "real time", "cache": "cache"}


@dataclass(frozen=True)
class Line:
    """One line for ``TerminalReporter.write_line(line.text, **line.markup)``."""

    text: str
    markup: Mapping[str, bool] = field(default_factory=dict)


def notice(text: str) -> Line:
    """Return a line that should be noticed."""
    return Line(escape(text), _NOTICE)


def summary_lines(summary: Summary, verbose: bool = False, width: int = 80) -> list[Line]:
    """Return the end-of-run block: a row per provider and model, notes, and what was saved.

    Args:
        verbose: also name tests with changed requests, jobs, and replayed identifiers.
        width: columns of the terminal; model names are shortened to fit.
    """
    if not (summary.rows or summary.passed):
        return [Line(text, _NOTICE) for text in _warnings(summary)]
    table, total = _table(summary, width), summary.total
    lines = [Line(text) for text in table]
    if total.requests:
        lines.append(Line(LEGEND))
    if total.requests and "in" not in table[0].split():  # there was no room for these columns
        lines.append(Line(f"{total.input_tokens:,} tokens in, {total.output_tokens:,} out"))
    lines += [Line(text) for text in _notes(summary)]
    if freshness := _freshness(summary):
        lines.append(freshness)
    lines += [Line(text, _NOTICE) for text in _warnings(summary)]
    if verbose:
        lines += [Line(text) for text in _details(summary)]
    if summary.total.requests:
        lines.append(Line(_paid(total)))
        saved = total.verdicts_list_price > total.verdicts_cost
        lines.append(Line(_saved(total), {"bold": True, "green": saved}))
    bought = [row for row in summary.lanes if row.lane != "cache"]
    if len(bought) > 1 or any(row.lane == "flex" for row in bought):
        lines += [Line(_by_lane(row)) for row in bought]
    return lines if width >= WRAPPED else [part for line in lines for part in _wrapped(line, width)]


def _by_lane(row: LaneRow) -> str:
    return (
        f"  {_SOURCES[row.lane]}: {row.requests:,} request{'' if row.requests == 1 else 's'}, list "
        f"{money(row.list_price)}, paid {money(row.paid)}, saved {money(row.saved)}"
    )


def estimate_lines(estimates: Mapping[tuple[str, str], Estimate]) -> list[Line]:
    """Return what a run would send and cost.

    Args:
        estimates: per (provider, model), the sum of its requests' estimates.
    """
    if not estimates:
        return [Line("nothing to send: every call of the first wave has a stored answer")]
    head = ["provider", "model", "requests", "tokens in", "out at most", "list price", "as a batch"]
    body = [
        [
            one_line(provider),
            one_line(model),
            f"{one.requests:,}",
            f"~{one.input_tokens:,}",
            "unknown" if one.output_tokens_upper is None else f"{one.output_tokens_upper:,}",
            _between(one.list_price, one.list_upper),
            _between(one.batch_price, one.batch_upper),
        ]
        for (provider, model), one in sorted(estimates.items())
    ]
    lines = [Line(text) for text in _aligned([head, *body])]
    lines += [
        Line(_no_known(one.requests, model, what), _NOTICE)
        for (_, model), one in sorted(estimates.items())
        if (what := _missing(one))
    ]
    lines += [Line(text) for text in _lanes_side_by_side(estimates.values())]
    lines.append(Line(_least_and_most(estimates.values()), _BOLD))
    lines.append(
        Line(
            "first wave only: calls that depend on an answer are not in it. Input is estimated from"
            " the length of the text; output is the most that a limit or the model allows."
        )
    )
    return lines


def failure_section(calls: Iterable[tuple[Call, Answer]], *, started_at: float, now: float) -> str:
    """Describe the calls of a failing test, safe for any terminal.

    Args:
        started_at: when the run began, and ``now``, in seconds since the epoch. The age of a cached
            answer is that at the beginning, as in the summary.
    """
    return "\n".join(
        line
        for number, (call, answer) in enumerate(calls, 1)
        for line in _described(number, call, answer, started_at, now)
    )


def _described(
    number: int, call: Call, answer: Answer, started_at: float, now: float
) -> Iterable[str]:
    body = answer.body if isinstance(answer.body, Mapping) else {}
    source = source_of(answer, started_at)
    age = (started_at if source == "cache" else now) - (answer.bought_at or answer.received_at)
    asked, served = call.request.model, body.get("model")
    facts = [
        f"{asked} (served by {served})" if served and served != asked else asked,
        call.request.target.endpoint,
        "" if answer.ok else f"status {answer.status}",
        answer.job_id,
        _SOURCES[source],
        f"{duration(age)} old",
    ]
    yield f"[{number}] " + ", ".join(one_line(fact) for fact in facts if fact)
    dialect = dialect_of(call.request.target)
    yield from _quoted("asked   ", dialect.last_text(call.request.body))
    yield from _quoted("answered", dialect.answer_text(answer.body))


def _quoted(label: str, text: str) -> Iterable[str]:
    first, *rest = escape(shorten(text, _LONGEST_TEXT)).split("\n")
    yield f"    {label}  {first}"
    for line in rest:
        yield f"    {' ' * len(label)}  {line}"


def _table(summary: Summary, width: int) -> list[str]:
    shown = [*summary.rows, *([summary.total] if len(summary.rows) > 1 else [])]
    counts = [
        (title, name)
        for title, name in (
            ("batch", "batched"),
            ("flex", "flex"),
            ("cache", "cached"),
            ("real time", "realtime"),
            ("failed", "failed"),
            ("deferred", "deferred"),
        )
        if getattr(summary.total, name)
    ]
    head = [
        "provider",
        "model",
        *(title for title, _ in counts),
        "in",
        "out",
        "list",
        "paid",
        "saved",
        "",
    ]
    body = [
        [
            one_line(row.provider),
            one_line(row.model),
            *(f"{getattr(row, name):,}" for _, name in counts),
            f"{row.input_tokens:,}",
            f"{row.output_tokens:,}",
            *_prices(row),
        ]
        for row in shown
    ]
    rows = [head, *body]
    if not summary.total.requests:
        rows = [row[: 2 + len(counts)] for row in rows]  # nothing has a price yet
    else:
        # A line of its own tells the tokens in all, the last one what was saved.
        last, tokens = len(head) - 1, (2 + len(counts), 3 + len(counts))
        dropped = ((), (last,), (last, *tokens), (last, *tokens, last - 1))
        tables = [[_without(row, places) for row in rows] for places in dropped]
        fitting = [one for one in tables if _narrowest(one) <= width]
        if not fitting:
            return _stacked(tables[-1], width)
        rows = fitting[0]
    return _aligned(rows, width) if shown else []


def _stacked(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a table of which no form fits: two lines for each row."""
    head, *body = rows
    lines: list[str] = []
    for row in body:
        facts = (f"{what} {cell}" for what, cell in zip(head[2:], row[2:], strict=True) if cell)
        lines += [shorten_line(" ".join(row[:2]), width), f"  {', '.join(facts)}"]
    return lines


def shorten_line(text: str, width: int) -> str:
    """Cut a line at its end, so that it fits."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _without(row: Sequence[str], places: Sequence[int]) -> list[str]:
    return [cell for place, cell in enumerate(row) if place not in places]


def _narrowest(rows: Sequence[Sequence[str]]) -> int:
    """Return how narrow a table can be made: model names may be shortened."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1) - max(0, widths[1] - _NARROWEST_NAME)


def _prices(row: SummaryRow) -> tuple[str, str, str, str]:
    if row.unknown and row.unknown == row.requests:
        return "?", "?", "?", ""
    mark = "+?" if row.unknown else ""
    percent = f"{row.saved_percent:.0f} %" if row.list_price else ""
    return money(row.list_price) + mark, money(row.paid) + mark, money(row.saved), percent


def _aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Align columns: the first two (provider, model) to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        widths[1] = max(min(widths[1], _NARROWEST_NAME), widths[1] - max(0, excess))
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    for place, (cell, size) in enumerate(zip(row, widths, strict=True)):
        if len(cell) > size:
            cell = cell[: size - 1] + "…"
        yield cell.ljust(size) if place < 2 else cell.rjust(size)


def _notes(summary: Summary) -> Iterable[str]:
    for row in summary.rows:
        if row.served:
            names = ", ".join(one_line(name) for name in row.served)
            yield f"{one_line(row.model)} was served by {names}"
    if summary.cache_ages and not _bought_nothing(summary):
        yield f"cached answers are {ages(*summary.cache_ages)} old"
    for host, count, why in summary.passed:
        yield f"{_count(count, 'call')} to {one_line(host)} ran in real time: {one_line(why)}"


def _bought_nothing(summary: Summary) -> bool:
    return 0 < summary.total.requests == summary.total.cached


def _freshness(summary: Summary) -> Line | None:
    """Say that old answers alone were judged: loud where they are older than a day."""
    if not _bought_nothing(summary) or summary.cache_ages is None:
        return None
    loud = summary.cache_ages[1] >= DAY
    return Line(nothing_bought(summary.cache_ages), _NOTICE | _BOLD if loud else {})


def _warnings(summary: Summary) -> Iterable[str]:
    if summary.unseen:
        yield f"{_count(len(summary.unseen), 'marked test')} made no call to a model that was seen"
    for row in summary.rows:
        if row.unknown:
            yield _no_known(row.unknown, row.model, "price")
    for retry in summary.retries:
        what = _count(retry.count, "request")
        yield f"{what} of {one_line(retry.job_id)} sent again: {one_line(retry.reason)}"
    if summary.changed:
        what = _count(len(summary.changed), "test")
        yield f"{what} asked something else than the run before, and bought new answers"


def _details(summary: Summary) -> Iterable[str]:
    yield from (f"changed: {one_line(test)}" for test in summary.changed)
    yield from (f"no call seen: {one_line(test)}" for test in summary.unseen)
    yield from (f"job: {one_line(job)}" for job in summary.jobs)
    if summary.total.cached_input_tokens:
        yield f"{summary.total.cached_input_tokens:,} input tokens came from prompt caches"
    if summary.masked:
        what = _count(summary.masked, "answer")
        yield f"{what} replayed although generated identifiers in the request differed"


def _paid(total: SummaryRow) -> str:
    text = f"this run: paid {money(total.paid)} for {_count(total.requests, 'request')}"
    if total.cached:
        text += f", {total.cached:,} of them answered from the cache"
    if total.unknown:
        text += f", {_count(total.unknown, 'request')} of unknown price left out"
    return text


def _saved(total: SummaryRow) -> str:
    listed, cost = total.verdicts_list_price, total.verdicts_cost
    percent = float(100 * (listed - cost) / listed) if listed else 0.0
    return (
        f"these verdicts: saved {money(listed - cost)} ({percent:.1f} %) of {money(listed)} list "
        f"price; their answers cost {money(cost)} when they were bought"
    )


def _wrapped(line: Line, width: int) -> list[Line]:
    parts = textwrap.wrap(line.text, width, subsequent_indent="  ", break_on_hyphens=False)
    return [Line(part, line.markup) for part in parts if len(line.text) > width] or [line]


def _no_known(number: int, model: str, what: str) -> str:
    verb = "has" if number == 1 else "have"
    return f"{_count(number, 'request')} of model {one_line(model)} {verb} no known {what}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _between(least: Decimal | None, most: Decimal | None) -> str:
    if least is None:
        return "unknown"
    if most is None:
        return f"{money(least)} or more"
    return money(least) if least == most else f"{money(least)} to {money(most)}"


def _missing(one: Estimate) -> str:
    if one.batch_price is None:
        return "batch price" if one.list_price is not None else "price"
    return "upper bound" if one.batch_upper is None else ""


def _lanes_side_by_side(estimates: Iterable[Estimate]) -> list[str]:
    total = add_estimates(estimates)
    lanes = (
        ("batch", total.batch_likely, total.batch_upper, "minutes to 24 hours"),
        ("flex", total.batch_likely, total.batch_upper, "seconds to 15 minutes, where it is sold"),
        ("real time", total.list_likely, total.list_upper, "seconds"),
    )
    rows = [["lane", "likely", "at most", "answers in"]]
    rows += [[name, _amount(likely), _amount(most), time] for name, likely, most, time in lanes]
    known = total.requests - total.assumed
    told = f"{known:,} of {total.requests:,} by the length of earlier answers of the same test"
    if total.assumed:
        told += f", the others as if an answer had {ASSUMED_OUTPUT} tokens"
    return [*_aligned(rows), f"likely: {told}"]


def _amount(price: Decimal | None) -> str:
    return "unknown" if price is None else money(price)


def _least_and_most(estimates: Iterable[Estimate]) -> str:
    known = [one for one in estimates if one.batch_price is not None and one.list_price is not None]
    sums = [
        sum((getattr(one, name) or Decimal(0) for one in known), start=Decimal(0))
        for name in ("list_price", "list_upper", "batch_price", "batch_upper")
    ]
    bounded = all(one.list_upper is not None and one.batch_upper is not None for one in known)
    in_real_time = _between(sums[0], sums[1] if bounded else None)
    return (
        f"{in_real_time} in real time, {_between(sums[2], sums[3] if bounded else None)} as a batch"
    )

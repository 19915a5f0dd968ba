"""What the terminal shows of a comparison with an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_langasync.reporting.comparison import LEVEL
from pytest_langasync.reporting.model import Comparison, Move, ScoreChange, ScoreValue
from pytest_langasync.reporting.terminal import Line
from pytest_langasync.reporting.text import one_line

__all__ = ["comparison_lines"]

SHOWN = 5
_BAD = {"red": True}
_GOOD = {"green": True}


def comparison_lines(comparison: Comparison, verbose: bool = False) -> list[Line]:
    """Return what changed against the baseline.

    Args:
        verbose: name every test, not only the first few.
    """
    c = comparison
    some = None if verbose else SHOWN
    lines = [Line(f"{c.paired:,} tests in both, {len(c.added):,} new, {len(c.removed):,} not run")]
    lines += _named("newly failing", c.newly_failing, _BAD, some)
    lines += _named("newly passing", c.newly_passing, _GOOD, some)
    if c.p_value is not None:
        lines.append(Line(f"verdicts: {_told(c.p_value)} (McNemar)"))
    lines += [Line(_score(one)) for one in c.scores]
    lines += _named("scores that moved", [_move(move) for move in c.moves], {}, some)
    lines += [Line(f"worse: {one_line(text)}", _BAD) for text in c.regressions]
    return lines


def _named(
    what: str, names: Sequence[str], markup: Mapping[str, bool], some: int | None
) -> Iterable[Line]:
    if not names:
        return
    yield Line(f"{what}: {len(names):,}", markup)
    yield from (Line(f"  {one_line(name)}") for name in names[:some])
    if some is not None and len(names) > some:
        yield Line(f"  … and {len(names) - some:,} more (-v names them)")


def _told(p_value: float | None) -> str:
    if p_value is None:
        return "too few to tell"
    noise = "more than noise" if p_value < LEVEL else "no more than noise"
    return f"{noise}, p = {p_value:.2g}"


def _score(score: ScoreChange) -> str:
    text = (
        f"{one_line(score.name)}: mean {score.before:.3g} → {score.after:.3g}, {score.change:+.3g}"
    )
    if score.low is not None:
        text += f" (95 % interval {score.low:+.3g} to {score.high:+.3g})"
    return f"{text}, {score.n:,} pairs: {_told(score.p_value)}"


def _move(move: Move) -> str:
    return f"{move.id} {move.name} {_plain(move.before)} → {_plain(move.after)}"


def _plain(value: ScoreValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

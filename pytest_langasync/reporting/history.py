"""The few figures of each kept run that a chart over many of them shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_langasync.reporting.model import RunReport
from pytest_langasync.scoring.statistics import mean

__all__ = ["RunFigures", "figures"]

FAILED = ("failed", "error", "missed")


@dataclass(frozen=True)
class RunFigures:
    """What a run came to. Money is in USD, None where unknown."""

    started_at: float
    paid_usd: float | None
    saved_usd: float | None
    pass_rate: float | None
    """Of its marked tests; None where none was judged."""
    scores: Mapping[str, float]
    """The mean of each score, labels left out."""


def figures(run: RunReport) -> RunFigures:
    """Return the figures of a run; its many tests need not be kept in memory for a chart."""
    verdicts = [test.verdict for test in run.tests if test.group is not None]
    passed, failed = verdicts.count("passed"), sum(map(verdicts.count, FAILED))
    values: dict[str, list[float]] = {}
    for test in run.tests:
        for name, score in test.scores.items():
            if isinstance(score.value, (int, float)):
                values.setdefault(name, []).append(float(score.value))
    return RunFigures(
        run.started_at,
        run.totals.paid_usd,
        run.totals.saved_usd,
        passed / (passed + failed) if passed + failed else None,
        {name: mean(found) for name, found in values.items()},
    )

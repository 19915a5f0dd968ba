"""Scores: scorers, cases, evaluators of other libraries, gates, statistics, comparison of runs.

The public names are importable from here. A scorer is any callable ``(input, output, expected) ->
score``; a score is a number, a boolean or a label.

* May import: ``interception`` (to finish coroutines), and the files at the top of the package.
"""

from __future__ import annotations

from pytest_langasync.scoring.scorers import (
    Score,
    close_to,
    contains,
    exact,
    json_field,
    judge,
    number,
    plain_score,
    rating,
)

__all__ = [
    "Score",
    "close_to",
    "contains",
    "exact",
    "json_field",
    "judge",
    "number",
    "plain_score",
    "rating",
]

"""Question/answer pairs whose verdicts are known: a small file, then generated variations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent / "data" / "questions.jsonl"


@dataclass(frozen=True)
class Case:
    """A question, somebody's answer to it, and whether that answer is right."""

    question: str
    answer: str
    correct: bool


def data_file() -> list[Case]:
    """Return the pairs of the data file."""
    with DATA.open(encoding="utf-8") as lines:
        return [Case(**json.loads(line)) for line in lines]


def sums() -> Iterator[Case]:
    """Yield sums without end; every third one is wrong."""
    for n in count(1):
        left, right = 17 * n % 1009, 31 * n % 997
        correct = n % 3 != 0
        yield Case(f"What is {left} + {right}? ({n})", str(left + right + (not correct)), correct)


def load_cases(number: int) -> list[Case]:
    """Return the first ``number`` cases, always the same ones: the data file, then sums."""
    return list(islice(chain(data_file(), sums()), number))

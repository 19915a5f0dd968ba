"""Cases of a declarative evaluation: from a list, a file, a function or a Dataset."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_langasync.exceptions import ConfigurationError

__all__ = ["Case", "load_cases"]


@dataclass(frozen=True)
class Case:
    """One input, and what is known of it."""

    input: Any
    expected: Any = None
    name: str = ""


def load_cases(source: Any, folder: Path) -> list[Case]:
    """Return the cases of ``source``: a list, the path of a .jsonl, .json or .csv file (relative to
    ``folder``), a callable that returns one of these, or a pydantic-evals ``Dataset``.

    A row with ``input`` is a case with ``input``, ``expected`` and ``name`` (or ``id``); any other
    row is itself an input.

    Raises:
        ConfigurationError: there is no such file, it cannot be read, or there are no cases.
    """
    if callable(source):
        source = source()
    if isinstance(source, (str, Path)):
        rows: Iterable[Any] = _read(folder / source)
    else:
        rows = getattr(source, "cases", source)
    try:
        cases = [_case(row) for row in rows]
    except TypeError:
        raise ConfigurationError(f"inputs={source!r} is neither a list nor a file") from None
    if not cases:
        raise ConfigurationError(f"inputs={source!r} holds no case")
    return cases


def _read(path: Path) -> list[Any]:
    if path.suffix not in (".jsonl", ".json", ".csv"):
        raise ConfigurationError(f"inputs: {path.name!r} must end in .jsonl, .json or .csv")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                return [json.loads(line) for line in file if line.strip()]
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            rows = json.load(file)
            return rows if isinstance(rows, list) else [rows]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"inputs: {path} cannot be read: {error}") from None


def _case(row: Any) -> Case:
    if hasattr(row, "inputs"):  # a case of pydantic-evals
        return Case(row.inputs, getattr(row, "expected_output", None), row.name or "")
    if isinstance(row, Mapping) and "input" in row:
        name = row.get("name", row.get("id", ""))
        return Case(row["input"], row.get("expected"), str(name))
    return Case(row)

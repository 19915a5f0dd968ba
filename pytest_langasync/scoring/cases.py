"""Cases of a declarative evaluation: from a list, a file, a function or a Dataset."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
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
    metadata: Any = None
    """What else is known: a row's other fields, or the metadata of a pydantic-evals case."""
    evaluators: tuple[Any, ...] = ()
    """Those that a pydantic-evals Dataset brings along."""


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
    shared = tuple(getattr(source, "evaluators", ()))
    if isinstance(source, (str, Path)):
        rows: Iterable[Any] = _read(folder / source)
    else:
        rows = getattr(source, "cases", source)
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise ConfigurationError(f"inputs={source!r} is neither a list nor a file")
    cases = [_case(row, shared) for row in rows]
    if not cases:
        raise ConfigurationError(f"inputs={source!r} holds no case")
    return cases


def _read(path: Path) -> list[Any]:
    if path.suffix not in (".jsonl", ".json", ".csv"):
        raise ConfigurationError(f"inputs: {path.name!r} must end in .jsonl, .json or .csv")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin a file with a mark
        if path.suffix == ".jsonl":
            lines = enumerate(text.split("\n"), 1)
            return [_parsed(line, path, number) for number, line in lines if line.strip()]
        if path.suffix == ".csv":
            return list(_table(text, path))
        rows = json.loads(text)
        return rows if isinstance(rows, list) else [rows]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"inputs: {path} cannot be read: {error}") from None


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigurationError(f"inputs: {path}, line {number} is no JSON: {error}") from None


def _table(text: str, path: Path) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        if None in row or None in row.values():
            width = len(reader.fieldnames or ())
            raise ConfigurationError(
                f"inputs: {path}, line {reader.line_num} has not {width} fields as the first has"
            )
        yield row


def _case(row: Any, evaluators: tuple[Any, ...]) -> Case:
    if hasattr(row, "inputs"):  # a case of pydantic-evals
        own = tuple(getattr(row, "evaluators", ()))
        expected, metadata = getattr(row, "expected_output", None), getattr(row, "metadata", None)
        return Case(row.inputs, expected, row.name or "", metadata, evaluators + own)
    if isinstance(row, Mapping) and "input" in row:
        name = row.get("name") or row.get("id")
        more = {k: v for k, v in row.items() if k not in ("input", "expected", "name", "id")}
        name = "" if name is None else str(name)
        return Case(row["input"], row.get("expected"), name, more or None, evaluators)
    return Case(row, evaluators=evaluators)

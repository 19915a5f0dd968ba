"""The machine-readable account of a run: ``--langasync-report=run.json``."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from pytest_langasync.ledger import Entry, Ledger, SummaryRow

__all__ = ["SCHEMA", "run_json", "write"]

SCHEMA = 1

Loader = Callable[[str], Any]


def run_json(
    ledger: Ledger,
    *,
    tests: Mapping[str, Mapping[str, Any]],
    exit_status: int,
    now: float,
    settings: Mapping[str, Any] | None = None,
    gates: Sequence[Mapping[str, Any]] = (),
    request_body: Loader | None = None,
    answer_body: Loader | None = None,
) -> dict[str, Any]:
    """Return the account of a run as JSON values. Money is in USD, null where unknown.

    Args:
        tests: per node ID what is known of it (``outcome``, ``scores``, ``group``, …), as it is.
        now: the end of the run, in seconds since the epoch; ages are measured at it.
        settings: the run's options. They must hold no secret.
        gates: what was required of the run, and reached.
        request_body: returns the request of a key; left out where it is None.
        answer_body: returns the answer of a key; left out where it is None.
    """
    summary = ledger.summary()
    names = [*tests, *(name for name in ledger.tests() if name not in tests)]
    bodies = {"request": request_body, "answer": answer_body}
    loaders = {name: load for name, load in bodies.items() if load is not None}
    return {
        "schema": SCHEMA,
        "started_at": ledger.started_at,
        "ended_at": now,
        "exit_status": exit_status,
        "settings": dict(settings or {}),
        "totals": _row(summary.total),
        "models": [_row(row) for row in summary.rows],
        "jobs": list(summary.jobs),
        "passed": [{"host": h, "calls": count, "why": why} for h, count, why in summary.passed],
        "retries": [asdict(retry) for retry in summary.retries],
        "masked": summary.masked,
        "changed": list(summary.changed),
        "gates": [dict(gate) for gate in gates],
        "tests": [
            {
                "id": name,
                **tests.get(name, {}),
                "calls": [_call(entry, now, loaders) for entry in ledger.calls(name)],
                "deferred": [asdict(waiting) for waiting in ledger.waiting(name)],
            }
            for name in names
        ],
    }


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` to ``path``, whole or not at all. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        # A lone surrogate becomes its backslash escape, which is what JSON has for it.
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(document, file, ensure_ascii=False, indent=1, default=str)
            file.write("\n")
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def _row(row: SummaryRow) -> dict[str, Any]:
    return {
        "provider": row.provider,
        "model": row.model,
        "served": list(row.served),
        "requests": row.requests,
        "batched": row.batched,
        "cached": row.cached,
        "realtime": row.realtime,
        "failed": row.failed,
        "deferred": row.deferred,
        "input_tokens": row.input_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "output_tokens": row.output_tokens,
        "list_price_usd": float(row.list_price),
        "paid_usd": float(row.paid),
        "saved_usd": float(row.saved),
        "saved_percent": round(row.saved_percent, 2),
        "unknown_price": row.unknown,
    }


def _call(entry: Entry, now: float, loaders: Mapping[str, Loader]) -> dict[str, Any]:
    return {
        "key": entry.key,
        "provider": entry.provider,
        "endpoint": entry.endpoint,
        "model": entry.asked,
        "served_model": entry.served,
        "source": entry.source,
        "job_id": entry.job_id or None,
        "request_id": entry.request_id or None,
        "status": entry.status,
        "usage": None if entry.usage is None else asdict(entry.usage),
        "list_price_usd": _usd(entry.list_price),
        "paid_usd": _usd(entry.paid),
        "age_seconds": round(max(0.0, now - entry.bought_at), 3),
        **{name: load(entry.key) for name, load in loaders.items()},
    }


def _usd(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)

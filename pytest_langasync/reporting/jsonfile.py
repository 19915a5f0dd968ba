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

from pytest_langasync.costs.ledger import Entry, Ledger, SummaryRow
from pytest_langasync.scoring.statistics import mean

__all__ = [
    "SCHEMA", "figures", "run_json", "with_bodies", "without_calls", "without_texts", "write",
    "write_text",
]  # fmt: skip

SCHEMA = 1

Loader = Callable[[str], Any]


def run_json(
    ledger: Ledger,
    *,
    name: str = "",
    tests: Mapping[str, Mapping[str, Any]],
    exit_status: int,
    now: float,
    settings: Mapping[str, Any] | None = None,
    gates: Sequence[Mapping[str, Any]] = (),
    comparison: Mapping[str, Any] | None = None,
    calls: bool = True,
) -> dict[str, Any]:
    """Return the account of a run as JSON values. Money is in USD, null where unknown.

    Args:
        name: under which the run is kept.
        tests: per node ID what is known of it (``outcome``, ``scores``, ``group``, …), as it is.
        now: the end of the run, in seconds since the epoch; ages are measured at it.
        settings: the run's options. They must hold no secret.
        gates: what was required of the run, and reached.
        comparison: with an earlier run.
        calls: whether to list them; those of 10,000 tests take many megabytes.
    """
    summary, names = ledger.summary(), dict.fromkeys([*tests, *ledger.tests()])
    return {
        "schema": SCHEMA,
        "name": name,
        "started_at": ledger.started_at,
        "ended_at": now,
        "exit_status": exit_status,
        "settings": dict(settings or {}),
        "totals": {**_row(summary.total), **_money(summary.total)},
        "models": [_row(row) for row in summary.rows],
        "jobs": list(summary.jobs),
        "passed": [{"host": h, "calls": count, "why": why} for h, count, why in summary.passed],
        "retries": [asdict(retry) for retry in summary.retries],
        "masked": summary.masked,
        "changed": list(summary.changed),
        "gates": [dict(gate) for gate in gates],
        "comparison": comparison,
        "tests": [
            {
                "id": test,
                **tests.get(test, {}),
                "calls": [_call(entry, now) for entry in ledger.calls(test) if calls],
                "deferred": [asdict(waiting) for waiting in ledger.waiting(test)],
            }
            for test in names
        ],
    }


def with_bodies(
    run: Mapping[str, Any], *, request_body: Loader, answer_body: Loader
) -> dict[str, Any]:
    """Return an account with what each call asked and what was answered, by the call's key."""

    def told(call: Mapping[str, Any]) -> dict[str, Any]:
        key = call["key"]
        return {**call, "request": request_body(key), "answer": answer_body(key)}

    tests = ({**test, "calls": [told(call) for call in test["calls"]]} for test in run["tests"])
    return {**run, "tests": list(tests)}


def without_texts(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return an account without what a prompt or an answer stands in: cases, reasons, failures."""

    def told(test: Mapping[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in test.items() if k not in ("case", "failure")}
        if scores := test.get("scores"):
            kept["scores"] = {name: {"value": one["value"]} for name, one in scores.items()}
        return kept

    return {**run, "tests": [told(test) for test in run["tests"]]}


def without_calls(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of an account: verdicts, scores and sums; no prompt and no answer."""
    left_out = ("calls", "deferred")
    tests = without_texts(run)["tests"]
    return {**run, "tests": [{k: v for k, v in t.items() if k not in left_out} for t in tests]}


def figures(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the few figures of an account that a chart over many runs shows."""
    marked = [test for test in run["tests"] if "group" in test or test["outcome"] == "deferred"]
    outcomes = [test["outcome"] for test in marked]
    missed = sum(bool(test.get("missed")) for test in marked)
    passed, failed = outcomes.count("passed"), outcomes.count("failed") + outcomes.count("error")
    judged = passed + failed + missed
    scores: dict[str, list[float]] = {}
    for test in run["tests"]:
        for name, score in (test.get("scores") or {}).items():
            if isinstance(score["value"], (int, float)):
                scores.setdefault(name, []).append(float(score["value"]))
    totals = run["totals"]
    return {
        "name": run["name"],
        "started_at": run["started_at"],
        "exit_status": run["exit_status"],
        **{name: totals[name] for name in ("paid_usd", "list_price_usd", "saved_usd")},
        "unknown_price": totals["unknown_price"],
        "pass_rate": passed / judged if judged else None,
        "passed": passed,
        "failed": failed + missed,
        "deferred": outcomes.count("deferred"),
        "scores": {name: mean(values) for name, values in scores.items()},
    }


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` to ``path``, whole or not at all. Raises ``OSError``."""
    write_text(path, json.dumps(document, ensure_ascii=False, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        # A lone surrogate becomes its backslash escape, which is what JSON has for it.
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
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
        **dict.fromkeys(_money(row)),  # unknown
        **({} if 0 < row.requests == row.unknown else _money(row)),
        "unknown_price": row.unknown,
    }


def _money(row: SummaryRow) -> dict[str, float]:
    return {
        "list_price_usd": float(row.list_price),
        "paid_usd": float(row.paid),
        "saved_usd": float(row.saved),
        "saved_percent": round(row.saved_percent, 2),
    }


def _call(entry: Entry, now: float) -> dict[str, Any]:
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
    }


def _usd(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)

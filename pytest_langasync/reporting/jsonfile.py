"""From a run's books to its report, and the files that reports are written to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from pytest_langasync.costs.ledger import Entry, Ledger, SummaryRow
from pytest_langasync.reporting.model import (
    SCHEMA,
    CallReport,
    CostRow,
    PassedCalls,
    RetriedRequests,
    RunReport,
    TestReport,
    TokenUsage,
    WaitingCall,
)

__all__ = ["run_report", "write_text"]


def run_report(
    ledger: Ledger, tests: Sequence[TestReport], *, now: float, calls: bool = True, **run: Any
) -> RunReport:
    """Return the report of a run.

    Args:
        tests: what is known of each test (``outcome``, ``scores``, ``group``, …), without calls.
        now: the end of the run, in seconds since the epoch; ages are measured at it.
        calls: whether to list them; those of 10,000 tests take many megabytes.
        run: other fields of the report: ``name``, ``exit_status``, ``settings`` (which must hold no
            secret), ``gates``, ``comparison``.
    """
    summary, known = ledger.summary(), {test.id: test for test in tests}
    names = dict.fromkeys([*known, *ledger.tests()])
    given: dict[str, Any] = {
        "name": "", "settings": {}, "gates": [], "comparison": None, "exit_status": 0
    } | run  # fmt: skip
    return RunReport(
        version=SCHEMA,
        started_at=ledger.started_at,
        ended_at=now,
        totals=_row(summary.total).model_copy(update=_money(summary.total)),
        models=[_row(row) for row in summary.rows],
        jobs=list(summary.jobs),
        passed=[PassedCalls(host=h, calls=n, why=why) for h, n, why in summary.passed],
        retries=[RetriedRequests(**asdict(retry)) for retry in summary.retries],
        cache_ages_seconds=summary.cache_ages,
        masked=summary.masked,
        changed=list(summary.changed),
        tests=[
            known.get(name, TestReport(id=name)).model_copy(
                update={
                    "calls": [_call(entry, now) for entry in ledger.calls(name) if calls],
                    "deferred": [WaitingCall(**asdict(one)) for one in ledger.waiting(name)],
                }
            )
            for name in names
        ],
        **given,
    )


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


def _row(row: SummaryRow) -> CostRow:
    known = row.requests != row.unknown or not row.requests
    return CostRow(
        provider=row.provider,
        model=row.model,
        served=list(row.served),
        requests=row.requests,
        batched=row.batched,
        cached=row.cached,
        realtime=row.realtime,
        flex=row.flex,
        failed=row.failed,
        deferred=row.deferred,
        input_tokens=row.input_tokens,
        cached_input_tokens=row.cached_input_tokens,
        output_tokens=row.output_tokens,
        **(_money(row) if known else dict.fromkeys(_money(row))),
        unknown_price=row.unknown,
    )


def _money(row: SummaryRow) -> Mapping[str, float]:
    return {
        "list_price_usd": float(row.list_price),
        "paid_usd": float(row.paid),
        "saved_usd": float(row.saved),
        "saved_percent": round(row.saved_percent, 2),
        "verdicts_list_price_usd": float(row.verdicts_list_price),
        "verdicts_cost_usd": float(row.verdicts_cost),
    }


def _call(entry: Entry, now: float) -> CallReport:
    return CallReport(
        key=entry.key,
        provider=entry.provider,
        endpoint=entry.endpoint,
        model=entry.asked,
        served_model=entry.served,
        source=entry.source,
        job_id=entry.job_id or None,
        request_id=entry.request_id or None,
        status=entry.status,
        usage=None if entry.usage is None else TokenUsage(**asdict(entry.usage)),
        list_price_usd=_usd(entry.list_price),
        paid_usd=_usd(entry.paid),
        age_seconds=round(max(0.0, now - entry.bought_at), 3),
    )


def _usd(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)

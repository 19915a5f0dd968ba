"""``jobs``: the jobs in the cache."""

from __future__ import annotations

import argparse
from decimal import Decimal

from pytest_langasync.cli.context import Cli
from pytest_langasync.config import CLOCK
from pytest_langasync.costs.prices import PriceBook
from pytest_langasync.models import Job, JobState, is_success
from pytest_langasync.reporting.text import duration as spell
from pytest_langasync.reporting.text import money, one_line

__all__ = ["COLUMNS", "jobs", "row"]

COLUMNS = ("job", "age", "provider", "model", "status", "asked", "ok", "failed", "paid")


def jobs(cli: Cli, options: argparse.Namespace) -> int:
    """List jobs, oldest first."""
    rows = [COLUMNS, *(row(cli, job) for job in cli.store.jobs())]
    if len(rows) == 1:
        cli.write(f"no jobs in {cli.store.root}")
        return 0
    widths = [max(len(one[n]) for one in rows) for n in range(len(COLUMNS))]
    for one in rows:
        cells = (cell.ljust(w) for cell, w in zip(one, widths, strict=True))
        cli.write("  ".join(cells).rstrip())
    running = [job.id for job in cli.store.jobs() if job.state is JobState.RUNNING]
    if running:
        cli.write()
        cli.write(
            f"{len(running)} still running: the command that submitted them collects them, or "
            f"pytest --langasync-resume={running[-1]}"
        )
    return 0


def row(cli: Cli, job: Job) -> tuple[str, ...]:
    """Return a job's cells, as ``COLUMNS`` names them."""
    done = cli.store.outcome(job.id) if job.state is not JobState.RUNNING else None
    paid, unknown = _paid(cli, job)
    cost = money(paid) + (f" + {unknown} unknown" if unknown else "")
    return (
        job.id,
        spell(max(0.0, CLOCK.now() - job.created_at)),
        job.provider,
        one_line(job.model or "several"),
        one_line(job.word),
        str(job.requests),
        str(done.ok) if done else "",
        str(done.failed) if done else "",
        cost if done else "",
    )


def _paid(cli: Cli, job: Job) -> tuple[Decimal, int]:
    """Return what a job's answers cost in USD, and how many have no known price."""
    prices, paid, unknown = PriceBook(), Decimal(0), 0
    models = {r.custom_id: r.meta.model for r in cli.store.requests_in(job.id)}
    for custom_id, status, body in cli.store.answers_in(job.id):
        model = models.get(custom_id, job.model)
        if is_success(status):
            cost = prices.cost(job.provider, job.endpoint, model, body, at=job.created_at)
            paid += cost.batch_price or Decimal(0)
            unknown += cost.batch_price is None
    return paid, unknown

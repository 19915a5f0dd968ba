"""``show``: a job's requests and answers."""

from __future__ import annotations

import argparse

from pytest_langasync import providers
from pytest_langasync.cache import redaction
from pytest_langasync.cache.chain_jobs import JobRecord
from pytest_langasync.cli.context import Cli
from pytest_langasync.cli.jobs import COLUMNS, row
from pytest_langasync.models import Job
from pytest_langasync.reporting.text import one_line, shorten

__all__ = ["show"]


def show(cli: Cli, options: argparse.Namespace) -> int:
    """Show a job, a provider's or a chain's, and what was asked and answered in it."""
    record, jobs = cli.known(options.job_id)
    if record is not None:
        cli.write(_chain(record))
    for job in jobs:
        _show(cli, job)
    return 0


def _chain(record: JobRecord) -> str:
    state = "going on"
    if record.completed:
        state = record.ended or "completed"
    elif record.cancelled_at is not None:
        state = "being cancelled"
    batches = ", ".join(record.provider_jobs) or "none"
    count = f"{record.count} input{'' if record.count == 1 else 's'}"
    return f"{record.id}: chain {one_line(record.name)}, {count}, {state}, provider jobs: {batches}"


def _show(cli: Cli, job: Job) -> None:
    cells = zip(COLUMNS, row(cli, job), strict=True)
    cli.write(", ".join(f"{name} {cell}" for name, cell in cells if cell))
    cli.write(f"at {job.base_url}{job.endpoint}" + (f": {job.reason}" if job.reason else ""))
    dialect = providers.dialect_of(job)
    for request in cli.store.requests_in(job.id):
        answer = cli.store.answer(request.key)
        body = request.body()
        stored = isinstance(body, dict) and not redaction.is_digests(body)
        asked = one_line(dialect.last_text(body)) if stored else "(not stored)"
        cli.write(f"{request.owner}")
        cli.write(f"    asked     {shorten(asked, 100)}")
        if answer is not None and answer.job_id == job.id:
            text = shorten(one_line(dialect.answer_text(answer.body)), 100)
            cli.write(f"    answered  {'' if answer.ok else f'({answer.status}) '}{text}")
        else:
            cli.write("    no answer from this job")

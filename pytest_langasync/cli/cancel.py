"""``cancel``: ask the provider to cancel a job."""

from __future__ import annotations

import argparse
from dataclasses import replace

from pytest_langasync.cli.context import Cli
from pytest_langasync.config import CLOCK
from pytest_langasync.models import Job, JobState

__all__ = ["cancel"]


def cancel(cli: Cli, options: argparse.Namespace) -> int:
    """Ask for cancellation of a provider's job, or of all that a chain's job has there.

    The next run collects what was done by then.
    """
    record, jobs = cli.known(options.job_id)
    if record is not None and not record.completed:
        # So that its process, or the next one, buys nothing more for it.
        replace(record, cancelled_at=CLOCK.now()).save(cli.store)
    if not jobs:
        cli.write(f"{options.job_id} has nothing at a provider")
    for job in jobs:
        _cancel(cli, job)
    return 0


def _cancel(cli: Cli, job: Job) -> None:
    if job.state is not JobState.RUNNING:
        cli.write(f"{job.id} has ended already ({job.word})")
        return
    client = cli.client(job.provider, job.base_url, job.headers)
    try:
        client.cancel(job.id)
    finally:
        client.close()
    cli.write(f"{job.id} is being cancelled; the next run collects what was done by then")

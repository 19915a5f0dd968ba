"""``prune``: remove old answers and runs."""

from __future__ import annotations

import argparse

from pytest_langasync.cli.context import Cli
from pytest_langasync.config import CLOCK, duration
from pytest_langasync.models import JobState

__all__ = ["prune"]

HOUR = 3600.0


def prune(cli: Cli, options: argparse.Namespace) -> int:
    """Remove what ended long ago."""
    limit = CLOCK.now() - duration(options.older_than)
    old = [job for job in cli.store.jobs() if job.created_at < limit]
    ended = [job for job in old if job.state is not JobState.RUNNING]
    for job in ended:
        cli.store.forget_job(job.id)
    answers = cli.store.forget_realtime(limit)
    with cli.store.lock():  # a text is written shortly before the request that has it
        cli.store.forget_texts(min(limit, CLOCK.now() - HOUR))
    runs = cli.store.history.forget(limit)
    cli.write(
        f"removed {len(ended)} jobs and their answers, {answers} answers obtained at list "
        f"price, and {runs} accounts of runs"
    )
    if len(ended) < len(old):
        cli.write(f"kept {len(old) - len(ended)} that still run")
    return 0

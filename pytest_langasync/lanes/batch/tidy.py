"""Files at the provider that nobody needs any more: a later run removes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_langasync.exceptions import JobNotFoundError, LangasyncError
from pytest_langasync.lanes.batch import Clients, Policy
from pytest_langasync.models import Job, JobState
from pytest_langasync.providers import Client

if TYPE_CHECKING:
    from pytest_langasync.lanes import RunContext

MOST = 20
"""How many jobs one run tidies up after: nobody waits long for it."""
NEEDED = 86400.0
"""Seconds after its end for which another cache (a copy that CI made, a colleague's) may still have
to collect a job."""


def tidy(context: RunContext, policy: Policy, clients: Clients) -> None:
    """Delete the files of old jobs that this cache submitted, at the providers in use.

    A job whose answers a test still waits to be judged on keeps them: with them alone a lost cache
    can be rebuilt. Trouble is left to the next run.
    """
    if not policy.tidy:
        return
    store, before = context.store, context.clock() - NEEDED
    waiting = {key for entry in store.owners.read().values() for key in entry.waiting}
    old = [
        job
        for job in store.jobs()
        if job.input_ref
        and not job.files
        and job.state is not JobState.RUNNING
        and job.ended_at is not None
        and job.ended_at < before
        and store.submitted_here(job)
        and clients.at(job.host)
        and waiting.isdisjoint(request.key for request in store.requests_in(job.id))
    ]
    try:
        for job in old[:MOST]:
            files = _delete(job, context.suite, clients.at(job.host))
            store.update_job(replace(job, files=files))
    except LangasyncError:
        return


def _delete(job: Job, suite: str, clients: Iterable[Client]) -> str:
    """Delete a job's files through the client whose account has them; say what became of them.

    Which files these are, and that they are this suite's, the provider says: a cache may come from
    a stranger, who would have any file of the account deleted.
    """
    for client in clients:
        try:
            status = client.status(job.id)
        except JobNotFoundError:
            continue
        if not status.nonce or (status.nonce, status.suite) != (job.nonce, suite):
            return "not ours"
        client.delete_files([ref for ref in (status.input_ref, *status.output_refs) if ref])
        return "deleted"
    return "not found"

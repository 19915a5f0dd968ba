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


def tidy(context: RunContext, policy: Policy, clients: Clients) -> None:
    """Delete the files of old jobs that are stored here, at the providers in use.

    A job whose answers a test still waits to be judged on keeps them: with them alone a lost cache
    can be rebuilt. Trouble is left to the next run.
    """
    store, ended_before = context.store, policy.tidy_before
    if not ended_before:
        return
    waiting = {key for entry in store.owners.read().values() for key in entry.waiting}
    old = [
        job
        for job in store.jobs()
        if job.input_ref
        and not job.files
        and job.state is not JobState.RUNNING
        and (job.ended_at or ended_before) < ended_before
        and clients.at(job.host)
        and waiting.isdisjoint(request.key for request in store.requests_in(job.id))
    ]
    try:
        for job in old[:MOST]:
            files = _delete(job, clients.at(job.host))
            store.update_job(replace(job, files=files))
    except LangasyncError:
        return


def _delete(job: Job, clients: Iterable[Client]) -> str:
    """Delete a job's files through the client whose account has them; say what became of them."""
    for client in clients:
        try:
            refs = client.status(job.id).output_refs
        except JobNotFoundError:
            continue
        client.delete_files([job.input_ref, *refs])
        return "deleted"
    return "not found"

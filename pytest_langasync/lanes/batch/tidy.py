"""Files at the provider that nobody needs any more: a later run removes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pytest_langasync.cache.store import Store
from pytest_langasync.exceptions import JobNotFoundError, LangasyncError
from pytest_langasync.models import Job, JobState
from pytest_langasync.providers import Client

MOST = 20
"""How many jobs one run tidies up after: nobody waits long for it."""


def tidy(
    store: Store, clients: Mapping[tuple[str, str], Iterable[Client]], ended_before: float
) -> None:
    """Delete the files of jobs that ended before then (since the epoch) and are stored here.

    A job whose answers a test still waits to be judged on keeps them: with them alone a lost cache
    can be rebuilt. ``clients`` are by provider and base URL. Trouble is left to the next run.
    """
    waiting = {key for entry in store.owners.read().values() for key in entry.waiting}
    old = [
        job
        for job in store.jobs()
        if job.input_ref
        and not job.files
        and job.state is not JobState.RUNNING
        and (job.ended_at or ended_before) < ended_before
        and (job.provider, job.base_url) in clients
        and waiting.isdisjoint(request.key for request in store.requests_in(job.id))
    ]
    try:
        for job in old[:MOST]:
            files = _delete(job, clients[job.provider, job.base_url])
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

"""What a test that was not judged waits for, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_langasync import masks
from pytest_langasync.config import Settings
from pytest_langasync.models import Job, JobStatus, Pending
from pytest_langasync.store import Store

__all__ = ["reason"]


def reason(
    missing: Sequence[Pending],
    why: str,
    settings: Settings,
    store: Store,
    status: Callable[[str], JobStatus | None],
) -> str:
    """Say in one line (offline: with the nearest stored request) what a test waits for.

    ``why`` is what ended the run, where anything did; ``status`` the last poll of a job.
    """
    count = f"{len(missing):,} call{'' if len(missing) == 1 else 's'}"
    if not missing:
        return why or "parked without a call of its own"
    if settings.estimate:
        return f"estimate only: nothing was sent ({count})"
    jobs = {job.id: job for p in missing if (job := store.in_flight(p.key)) is not None}
    if jobs:
        shown = ", ".join(_standing(job, status(job.id)) for job in jobs.values())
        return f"{why + ': ' if why else ''}waiting for {shown} with {count}"
    if settings.offline:
        return f"offline: {count} without a stored answer; {_nearest(missing[0], store)}"
    return why or f"{count} not answered yet"


def _standing(job: Job, status: JobStatus | None) -> str:
    if status is None:
        return f"{job.id} ({job.word}, {job.requests} requests)"
    done = status.completed + status.failed
    return f"{job.id} ({status.word} {done}/{status.total or job.requests})"


def _nearest(pending: Pending, store: Store) -> str:
    stored = [
        (row.job_id or "real time", body)
        for row in store.requests_of(pending.owner)
        if (body := row.body()) is not None
    ]
    asked = store.spooled(pending.key)
    index = masks.nearest(asked, [body for _, body in stored])
    if index is None:
        return "no request of this test is stored"
    where, body = stored[index]
    if body == asked:
        return f"its answer from {where} is too old, or an error that has served its verdict"
    return f"the nearest stored request ({where}) differs:\n{masks.difference(body, asked)}"

"""What a test that was not judged waits for, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_langasync.engine import differences
from pytest_langasync.models import Job, JobStatus, MissingCall

if TYPE_CHECKING:
    from pytest_langasync.cache.store import RequestMeta, Store
    from pytest_langasync.config import Settings
    from pytest_langasync.lanes.batch.batcher import Batcher

__all__ = ["reason"]


def reason(
    missing: Sequence[MissingCall],
    why: str,
    settings: Settings,
    store: Store,
    batcher: Batcher,
) -> str:
    """Say in one line (offline: with the nearest stored request) what a test waits for.

    ``why`` is what ended the run, where anything did.
    """
    count = f"{len(missing):,} call{'' if len(missing) == 1 else 's'}"
    if not missing:
        return why or "parked without a call of its own"
    if settings.estimate:
        return f"estimate only: nothing was sent ({count})"
    jobs = {job.id: job for p in missing if (job := store.in_flight(p.key)) is not None}
    if jobs:
        shown = ", ".join(_standing(job, batcher.status(job.id)) for job in jobs.values())
        return f"{why + ': ' if why else ''}waiting for {shown} with {count}"
    if settings.offline:
        return f"offline: {count} without a stored answer; {_nearest(missing[0], store)}"
    return why or f"{count} {_held_back({p.key for p in missing}, store, batcher)}"


def _held_back(keys: set[str], store: Store, batcher: Batcher) -> str:
    """Say why nothing was sent of what is under way nowhere."""
    if any(keys & store.intents.keys(intent.nonce) for intent in store.intents):
        return "in a submission whose outcome is open: python -m pytest_langasync doctor"
    return batcher.why_queued(keys) or "not answered yet"


def _standing(job: Job, status: JobStatus | None) -> str:
    if status is None:
        noun = "request" if job.requests == 1 else "requests"
        return f"{job.id} ({job.word}, {job.requests:,} {noun})"
    done = status.completed + status.failed
    return f"{job.id} ({status.word} {done}/{status.total or job.requests})"


def _nearest(pending: MissingCall, store: Store) -> str:
    stored = [
        (row, body) for row in store.requests_of(pending.owner) if (body := row.body()) is not None
    ]
    asked = store.spooled(pending.key)
    own = [number for number, (row, _) in enumerate(stored) if row.key == pending.key]
    index = own[-1] if own else differences.nearest(asked, [body for _, body in stored])
    if index is None:
        return "no request of this test is stored"
    row, body = stored[index]
    where = row.job_id or "real time"
    if own:
        return f"its answer from {where} is too old, or an error that has served its verdict"
    if body == asked:
        return f"the same request is stored ({where}), but {_elsewhere(row.meta, pending)}"
    return f"the nearest stored request ({where}) differs:\n{differences.difference(body, asked)}"


def _elsewhere(stored: RequestMeta, pending: MissingCall) -> str:
    """Say what else than the body tells a stored request from a call."""
    if stored.base_url != pending.target.base_url:
        return f"sent to {stored.base_url}, not to {pending.target.base_url}"
    if stored.endpoint != pending.target.endpoint:
        return f"sent to {stored.endpoint}, not to {pending.target.endpoint}"
    names = sorted({name for name, _ in {*stored.headers} ^ {*pending.target.headers}})
    return f"sent with another {' and '.join(names)}" if names else "for another sample"

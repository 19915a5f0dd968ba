"""What is remembered of a chain's job between processes: ``<cache>/chains/<job ID>.json``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter

from pytest_langasync.cache import files
from pytest_langasync.cache.records import FINITE, validated
from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import CacheError

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Store

__all__ = ["JobRecord", "load_record", "load_records", "new_record"]

SCHEMA = 1


@dataclass(frozen=True)
class JobRecord:
    """One logical job. Times are seconds since the epoch. Answers are not in it: they lie in the
    cache, under the IDs of the provider's jobs."""

    __pydantic_config__: ClassVar = FINITE

    id: str
    name: str
    """What the chain calls itself, for people."""
    created_at: float
    count: int
    """How many inputs there are."""
    inputs: tuple[Any, ...] | None
    """The inputs, where all of them are plain JSON and may be kept."""
    urgent: tuple[int, ...] = ()
    """Places of the inputs that are sent in real time."""
    priority: str = "normal"
    max_retries: int | None = None
    refresh: bool = False
    retried_at: float | None = None
    """When failed inputs were last tried again."""
    provider_jobs: tuple[str, ...] = ()
    completed: bool = False
    names: tuple[str, ...] = ()
    """A digest of each input that is data: what tells that other inputs are given later on."""
    renewed: tuple[tuple[int, float], ...] = ()
    """Places of the inputs whose answers were bought anew, and since when only new ones count."""
    cancelled_at: float | None = None
    ended: str = ""
    """How a completed job ended: ``completed``, ``failed``, ``cancelled`` or ``expired``."""

    def save(self, store: Store) -> None:
        """Write the record. Raises ``CacheError``."""
        path = store.folder("chains") / f"{files.safe_name(self.id)}.json"
        files.write_document(path, {"schema": SCHEMA, **vars(self)})


def new_record(name: str, inputs: Sequence[Any], *, keep_inputs: bool = True) -> JobRecord:
    """Return the record of a job that begins now, sent as by default."""
    return JobRecord(
        id=f"batch_{secrets.token_hex(12)}",
        name=name,
        created_at=CLOCK.now(),
        count=len(inputs),
        inputs=tuple(inputs) if keep_inputs and _is_json(inputs) else None,
    )


def load_record(root: Path, job_id: str) -> JobRecord | None:
    """Return the job of this ID, or the newest one that a provider's job of this ID belongs to.

    Raises:
        CacheError: its file is damaged, or was written by a newer version.
    """
    path = root / "chains" / f"{files.safe_name(job_id)}.json"
    if path.exists():
        return _read(path)
    owners = [record for record in load_records(root) if job_id in record.provider_jobs]
    return owners[-1] if owners else None


def load_records(root: Path) -> list[JobRecord]:
    """Return all jobs, oldest first. Raises ``CacheError`` as ``load_record`` does."""
    found = [_read(path) for path in (root / "chains").glob("*.json")]
    return sorted(found, key=lambda record: (record.created_at, record.id))


def _read(path: Path) -> JobRecord:
    try:
        document = files.read_document(path, files.LARGE)
        if document.get("schema", 0) > SCHEMA:
            text = f"{path} was written by a newer version of pytest-langasync: upgrade it"
            raise CacheError(text)
        return validated(TypeAdapter(JobRecord).validate_python, document)
    except (OSError, TypeError, ValueError) as error:
        raise CacheError(f"{path} cannot be read ({error}): remove it, or restore it") from None


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == list(value))
    except (TypeError, ValueError, RecursionError):
        return False

"""The life of a batch: it runs for a while, then its rows are executed, all at once."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_langasync.sandbox.errors import error_body
from pytest_langasync.sandbox.exchange import visible
from pytest_langasync.sandbox.faults import fault_of
from pytest_langasync.sandbox.questions import body_digest, read_request
from pytest_langasync.sandbox.replies import directives
from pytest_langasync.sandbox.state import Bought, State

if TYPE_CHECKING:
    from pytest_langasync.sandbox.model import Model

__all__ = ["Batches", "Outcome", "Shape"]

_PATIENCE = 2.0
_WORKERS = 8
CANCELLING = 1.0
"""Longest time from a cancellation to its end, in seconds."""


@dataclass(frozen=True)
class Outcome:
    """What became of a row. ``kind``: done, expired, cancelled or missing."""

    custom_id: str
    kind: str
    status: int = 0
    body: Any = None
    copies: int = 1


Row = tuple[str, Mapping[str, Any]]
Finished = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A provider's part: reads the input, and writes results to blobs.

    ``finish`` returns the fields that the ended batch gets.
    """

    provider: str
    rows: Callable[[Path], list[Row]]
    finish: Callable[[State, dict[str, Any], Sequence[Outcome]], Finished]


class Batches:
    """Runs batches lazily: nothing happens until somebody looks."""

    def __init__(self, state: State, model: Model, latency: float) -> None:
        self.state = state
        self._model = model
        self._latency = latency
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="sandbox-batch")
        self._running: dict[str, Future[None]] = {}

    def close(self) -> None:
        """Start no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def create(self, provider: str, prefix: str, **fields: Any) -> dict[str, Any]:
        """Store a new batch with the provider's own ``fields``; its ID starts with ``prefix``."""
        fault = self.state.batch_fault(provider)
        now = time.time()
        latency = self._latency if fault.latency is None else fault.latency
        batch = {
            "id": prefix + uuid.uuid4().hex[:24],
            "provider": provider,
            "phase": "running",
            "end": fault.end,
            "created": now,
            "due": now + latency,
            "done": fault.done,
            "fault": dict(vars(fault)),
            **fields,
        }
        self.state.add_batch(batch)
        return batch

    def cancel(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to cancel; the rows whose time had come stay done."""

        def change(fresh: dict[str, Any]) -> None:
            if fresh["phase"] == "ended" or fresh.get("cancelled_at"):
                return
            now = time.time()
            span = fresh["due"] - fresh["created"]
            part = min(1.0, (now - fresh["created"]) / span) if span > 0 else 0.0
            done = int(fresh["total"] * part)
            due = min(fresh["due"], now + min(span / 4, CANCELLING))
            fresh |= {"end": "cancelled", "done": done, "cancelled_at": now, "due": due}

        return self.state.update_batch(batch["id"], change)

    def look(self, batch: dict[str, Any], shape: Shape) -> dict[str, Any]:
        """Return the batch as it is now, ending it if its time has come.

        Waits a moment for the rows; a slow model leaves the batch running for now.
        """
        if batch["phase"] == "ended" or time.time() < batch["due"]:
            return batch
        future = self._running.get(batch["id"])
        if future is None:
            future = self._pool.submit(self._finish, batch["id"], shape)
            self._running[batch["id"]] = future
        wait([future], _PATIENCE)
        if future.done():
            self._running.pop(batch["id"], None)
            future.result()
        return self.state.batch(batch["id"], shape.provider) or batch

    def _finish(self, batch_id: str, shape: Shape) -> None:
        from filelock import FileLock, Timeout

        try:
            # The lock of a killed process is free again, and nothing of its work was entered.
            with FileLock(self.state.directory / f"{batch_id}.lock", timeout=0):
                batch = self.state.batch(batch_id, shape.provider)
                if batch is not None and batch["phase"] != "ended":
                    self._execute(batch, shape)
        except Timeout:
            return

    def _execute(self, batch: dict[str, Any], shape: Shape) -> None:
        rows = shape.rows(self.state.blob(batch["input"]))
        ran = self._outcomes(batch, rows)
        fields = shape.finish(self.state, batch, _spoil(batch, [outcome for outcome, _ in ran]))

        def change(fresh: dict[str, Any]) -> None:
            fresh |= {**fields, "phase": "ended", "ended_at": time.time(), "end": batch["end"]}

        self.state.update_batch(batch["id"], change, [entry for _, entry in ran if entry])

    def _outcomes(
        self, batch: dict[str, Any], rows: Sequence[Row]
    ) -> list[tuple[Outcome, Bought | None]]:
        """Execute the rows that get their turn; the others expire or are cancelled."""
        halves = {"expired": len(rows) // 2, "cancelled": len(rows) // 2, "failed": 0}
        done = halves.get(batch["end"], len(rows)) if batch["done"] is None else batch["done"]
        attempts = self.state.attempts([body_digest(body) for _, body in rows[:done]])
        headers = json.dumps(visible(batch["headers"]))
        fault = fault_of(batch)
        orders = {**dict.fromkeys(map(str, range(fault.missing)), "missing"), **fault.rows}

        def run(index: int) -> tuple[Outcome, Bought | None]:
            custom_id, body = rows[index]
            order = orders.get(str(index))
            return self._row(batch, custom_id, body, attempts[index], order, headers)

        indices = range(min(done, len(rows)))
        if self._model.forwards:
            with ThreadPoolExecutor(_WORKERS) as pool:
                ran = list(pool.map(run, indices))
        else:
            ran = [run(index) for index in indices]
        kind = "cancelled" if batch["end"] == "cancelled" else "expired"
        kind = "missing" if batch["end"] == "failed" else kind
        return ran + [(Outcome(custom_id, kind), None) for custom_id, _ in rows[done:]]

    def _row(
        self,
        batch: Mapping[str, Any],
        custom_id: str,
        body: Mapping[str, Any],
        attempt: int,
        order: int | str | None,
        headers: str,
    ) -> tuple[Outcome, Bought | None]:
        provider, endpoint = batch["provider"], batch["endpoint"]
        text = json.dumps(body)
        found = _directives(provider, endpoint, body, attempt) if "[[" in text else {}
        if order in ("missing", "expire") or {"missing", "expire"} & set(found):
            kind = "missing" if order == "missing" or "missing" in found else "expired"
            return Outcome(custom_id, kind), None
        if isinstance(order, int):
            status, answer = order, error_body(provider, order, f"Row told to end with {order}.")
        else:
            status, answer = self._model.answer(
                provider, endpoint, body, attempt=attempt, batch=True, headers=batch["headers"]
            )
        outcome = Outcome(custom_id, "done", status, answer, 2 if "duplicate" in found else 1)
        entry = (
            time.time(),
            provider,
            endpoint,
            batch["id"],
            custom_id,
            attempt,
            status,
            text,
            headers,
        )
        return outcome, entry


def _directives(
    provider: str, endpoint: str, body: Mapping[str, Any], attempt: int
) -> dict[str, str]:
    try:
        return directives(read_request(provider, endpoint, body).prompt, attempt)
    except (AttributeError, KeyError, TypeError, IndexError):
        return {}


def _spoil(batch: Mapping[str, Any], outcomes: list[Outcome]) -> list[Outcome]:
    """Shuffle, repeat and invent rows, as the batch was told."""
    fault = fault_of(batch)
    kept = [outcome for outcome in outcomes if outcome.kind != "missing"]
    rows = [copy for outcome in kept for copy in [outcome] * outcome.copies]
    rows += kept[: fault.duplicate]
    rows += [
        Outcome(f"unknown-{number}", "done", outcome.status, outcome.body)
        for number, outcome in enumerate(kept[: fault.unknown])
    ]
    random.Random(batch["id"]).shuffle(rows)
    return rows

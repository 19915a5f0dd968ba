"""Anthropic's Message Batches."""

from __future__ import annotations

import json
import math
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_langasync.models import digest
from pytest_langasync.sandbox.batches import Outcome, Row, Shape
from pytest_langasync.sandbox.errors import ApiError
from pytest_langasync.sandbox.exchange import Exchange, Wire, visible
from pytest_langasync.sandbox.faults import fault_of
from pytest_langasync.sandbox.state import State, dumps

__all__ = ["SHAPE", "cancel", "create", "delete", "get", "list_all", "results"]

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_BYTES = 256_000_000
_MAX_ROWS = 100_000
_DAY = 86_400


def create(exchange: Exchange) -> Wire:
    """POST /messages/batches: checks the IDs now; the params of each request when it runs."""
    if len(exchange.data) > _MAX_BYTES:
        raise ApiError(413, "Request exceeds the maximum size")
    requests = exchange.json().get("requests")
    if not isinstance(requests, list):
        raise ApiError(400, "requests: Field required")
    if not requests:
        raise ApiError(400, "requests: List should have at least 1 item after validation, not 0")
    if len(requests) > _MAX_ROWS:
        raise ApiError(400, f"requests: List should have at most {_MAX_ROWS} items")
    _check_ids(requests)
    _check_queue(exchange, len(requests))
    blob = f"input-{uuid.uuid4().hex}"
    exchange.state.write_blob(blob, b"\n".join(dumps(request) for request in requests))
    batch = exchange.batches.create(
        "anthropic",
        "msgbatch_",
        endpoint="/messages",
        input=blob,
        headers=visible(exchange.headers),
        total=len(requests),
    )
    return Wire(_show(batch, exchange))


def _check_ids(requests: Sequence[Any]) -> None:
    seen: set[str] = set()
    for index, request in enumerate(requests):
        where = f"requests.{index}"
        if not isinstance(request, dict):
            raise ApiError(400, f"{where}: Input should be a valid dictionary")
        for key in ("custom_id", "params"):
            if request.get(key) is None:
                raise ApiError(400, f"{where}.{key}: Field required")
        if extra := set(request) - {"custom_id", "params"}:
            raise ApiError(400, f"{where}.{min(extra)}: Extra inputs are not permitted")
        if not isinstance(request["params"], dict):
            raise ApiError(400, f"{where}.params: Input should be a valid dictionary")
        custom_id = request["custom_id"]
        if not isinstance(custom_id, str) or not _ID.fullmatch(custom_id):
            text = "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
            raise ApiError(400, f"{where}.custom_id: {text}")
        if custom_id in seen:
            text = "custom_id's must be unique within a batch. Duplicate custom_id found:"
            raise ApiError(400, f"{text} {custom_id}")
        seen.add(custom_id)


def _check_queue(exchange: Exchange, count: int) -> None:
    limit = exchange.state.limits().queued_requests
    waiting = sum(batch["total"] for batch in exchange.state.running("anthropic"))
    if limit and waiting + count > limit:
        text = f"This request would exceed the limit of {limit} batch requests in the queue."
        raise ApiError(429, text)


def _look(exchange: Exchange, batch_id: str) -> dict[str, Any]:
    batch = exchange.state.batch(batch_id, "anthropic")
    if batch is None:
        raise ApiError(404, f"Message batch {batch_id} not found.")
    return exchange.batches.look(batch, SHAPE)


def get(exchange: Exchange) -> Wire:
    """GET /messages/batches/{id}."""
    batch = _look(exchange, exchange.path["id"])
    left = math.floor(batch["due"] - time.time())
    wait = {"retry-after": str(min(left, 10))} if batch["phase"] != "ended" and left > 0 else {}
    return Wire(_show(batch, exchange), headers=wait)


def list_all(exchange: Exchange) -> Wire:
    """GET /messages/batches: newest first."""
    ids, limit = exchange.state.batch_ids("anthropic"), exchange.limit(20, 1000)
    after, before = exchange.query.get("after_id"), exchange.query.get("before_id")
    if after in ids:
        ids = ids[ids.index(after) + 1 :]
    page = ids[:limit]
    if before in ids:
        ids = ids[: ids.index(before)]
        page = ids[-limit:]
    return Wire(
        {
            "data": [_show(_look(exchange, batch_id), exchange) for batch_id in page],
            "has_more": len(ids) > limit,
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
    )


def cancel(exchange: Exchange) -> Wire:
    """POST /messages/batches/{id}/cancel."""
    batch = _look(exchange, exchange.path["id"])
    if batch["phase"] == "ended":
        raise ApiError(400, f"Batch {batch['id']} cannot be canceled: it has already ended.")
    return Wire(_show(exchange.batches.cancel(batch), exchange))


def delete(exchange: Exchange) -> Wire:
    """DELETE /messages/batches/{id}."""
    batch = _look(exchange, exchange.path["id"])
    if batch["phase"] != "ended":
        text = "In progress batches cannot be deleted. Consider canceling the batch instead."
        raise ApiError(400, text)
    exchange.state.delete_batch(batch["id"])
    return Wire({"id": batch["id"], "type": "message_batch_deleted"})


def results(exchange: Exchange) -> Wire:
    """GET /messages/batches/{id}/results."""
    batch = _look(exchange, exchange.path["id"])
    if batch["phase"] != "ended":
        raise ApiError(404, f"Batch {batch['id']} has no available results.")
    return Wire(file=exchange.state.blob(batch["results"]), media_type="application/x-jsonl")


def _read_rows(path: Path) -> list[Row]:
    rows = map(json.loads, path.read_bytes().split(b"\n"))
    return [(row["custom_id"], row["params"]) for row in rows]


def _finish(state: State, batch: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    counts = dict.fromkeys(("succeeded", "errored", "canceled", "expired"), 0)
    lines = []
    for outcome in outcomes:
        result = _result(batch, outcome)
        counts[result["type"]] += 1
        lines.append(dumps({"custom_id": outcome.custom_id, "result": result}) + b"\n")
    blob = f"results-{uuid.uuid4().hex}"
    state.write_blob(blob, b"".join(lines))
    return {"results": blob, "counts": counts}


def _result(batch: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    if outcome.kind != "done":
        return {"type": "canceled" if outcome.kind == "cancelled" else "expired"}
    if 200 <= outcome.status < 300:
        return {"type": "succeeded", "message": outcome.body}
    request_id = f"workerreq_{digest([batch['id'], outcome.custom_id])[:20]}"
    error = {"type": "error", **outcome.body, "request_id": request_id}
    return {"type": "errored", "error": error}


SHAPE = Shape("anthropic", _read_rows, _finish)


def _show(batch: Mapping[str, Any], exchange: Exchange) -> dict[str, Any]:
    """Return the batch object of the API; the results' URL is on the sandbox's own host."""
    fault, ended = fault_of(batch), batch["phase"] == "ended"
    counts = dict.fromkeys(("succeeded", "errored", "canceled", "expired"), 0)
    counts = {"processing": 0 if ended else batch["total"], **counts, **batch.get("counts", {})}
    word = "canceling" if batch.get("cancelled_at") else "in_progress"
    status = (fault.final_word or "ended") if ended else (fault.word or word)
    url = f"{exchange.origin}/v1/messages/batches/{batch['id']}/results"
    return {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": status,
        "request_counts": {**counts, **fault.counts},
        "created_at": _moment(batch["created"]),
        "expires_at": _moment(batch["created"] + _DAY),
        "ended_at": _moment(batch.get("ended_at")),
        "cancel_initiated_at": _moment(batch.get("cancelled_at")),
        "archived_at": None,
        "results_url": url if ended else None,
    }


def _moment(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

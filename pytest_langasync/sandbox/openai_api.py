"""OpenAI's Files and Batches."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_langasync.models import digest
from pytest_langasync.sandbox.batches import Outcome, Row, Shape
from pytest_langasync.sandbox.errors import ApiError
from pytest_langasync.sandbox.exchange import Exchange, Wire, visible
from pytest_langasync.sandbox.faults import fault_of
from pytest_langasync.sandbox.state import State, dumps
from pytest_langasync.sandbox.validation import validate

__all__ = [
    "SHAPE", "cancel_batch", "create_batch", "delete_file", "file_content", "get_batch",
    "get_file", "list_batches", "list_files", "upload_file",
]  # fmt: skip

_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
_PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
_MAX_BYTES = 209_715_200
_DAY = 86_400
_NEVER_RAN = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": (
        "batch_cancelled",
        "This request was not executed because the batch was cancelled.",
    ),
}


# Files


def upload_file(exchange: Exchange) -> Wire:
    """POST /files."""
    form = exchange.upload
    if form is None or not form.filename:
        raise ApiError(400, "'file' is a required property")
    purpose = form.fields.get("purpose")
    if not purpose:
        raise ApiError(400, "'purpose' is a required property", param="purpose")
    if purpose not in _PURPOSES:
        text = f"'{purpose}' is not one of {list(_PURPOSES)} - 'purpose'"
        raise ApiError(400, text, param="purpose")
    if purpose == "batch" and not form.filename.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")
    if len(form.content) > _MAX_BYTES:
        raise ApiError(400, "File is too large.")
    seconds = form.fields.get("expires_after[seconds]", str(30 * _DAY))
    anchor = form.fields.get("expires_after[anchor]", "created_at")
    if anchor != "created_at" or not seconds.isdecimal() or not 3600 <= int(seconds) <= 30 * _DAY:
        raise ApiError(400, "Invalid 'expires_after'.", param="expires_after")
    return Wire(_add_file(exchange.state, form.filename, purpose, form.content, int(seconds)))


def _add_file(
    state: State, filename: str, purpose: str, content: bytes, seconds: int = 30 * _DAY
) -> dict[str, Any]:
    now = int(time.time())
    data = {
        "id": f"file-{uuid.uuid4().hex[:24]}",
        "object": "file",
        "bytes": len(content),
        "created_at": now,
        "expires_at": now + seconds,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }
    state.add_file(data, content)
    return data


def list_files(exchange: Exchange) -> Wire:
    """GET /files."""
    purpose = exchange.query.get("purpose")
    files = [f for f in exchange.state.files() if purpose in (None, f["purpose"])]
    if exchange.query.get("order") == "asc":
        files.reverse()
    return Wire(_page(files, exchange, 10_000, 10_000))


def _page(
    items: Sequence[dict[str, Any]], exchange: Exchange, default: int, most: int
) -> dict[str, Any]:
    limit, after = exchange.limit(default, most), exchange.query.get("after")
    start = next((n + 1 for n, item in enumerate(items) if item["id"] == after), 0)
    data = list(items[start : start + limit])
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    none = {"first_id": None, "last_id": None}
    more = start + limit < len(items)
    return {"object": "list", "data": data, **none, **ends, "has_more": more}


def _file(exchange: Exchange) -> dict[str, Any]:
    file_id = exchange.path["id"]
    data = exchange.state.file(file_id)
    if data is None:
        raise ApiError(404, f"No such File object: {file_id}", param="id")
    return data


def get_file(exchange: Exchange) -> Wire:
    """GET /files/{id}."""
    return Wire(_file(exchange))


def file_content(exchange: Exchange) -> Wire:
    """GET /files/{id}/content."""
    path = exchange.state.blob(_file(exchange)["id"])
    return Wire(file=path, media_type="application/octet-stream")


def delete_file(exchange: Exchange) -> Wire:
    """DELETE /files/{id}."""
    file_id = _file(exchange)["id"]
    exchange.state.delete_file(file_id)
    return Wire({"id": file_id, "object": "file", "deleted": True})


# Batches


def create_batch(exchange: Exchange) -> Wire:
    """POST /batches: checks the call, not yet the file."""
    body = exchange.json()
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(body.get(name), str) or not body[name]:
            text = f"Missing required parameter: '{name}'."
            raise ApiError(400, text, param=name, code="missing_required_parameter")
    if body["completion_window"] != "24h":
        text = "Invalid value: the completion window must be '24h'."
        raise ApiError(400, text, param="completion_window", code="invalid_value")
    if body["endpoint"] not in _ENDPOINTS:
        text = f"Invalid value: '{body['endpoint']}'. Supported: {', '.join(_ENDPOINTS)}."
        raise ApiError(400, text, param="endpoint", code="invalid_value")
    _check_metadata(body.get("metadata") or {})
    batch = exchange.batches.create(
        "openai",
        "batch_",
        phase="validating",
        endpoint=body["endpoint"].removeprefix("/v1"),
        input=body["input_file_id"],
        metadata=body.get("metadata"),
        headers=visible(exchange.headers),
        total=0,
    )
    return Wire(_show(batch))


def _check_metadata(metadata: Any) -> None:
    fits = (
        isinstance(metadata, dict)
        and len(metadata) <= 16
        and all(
            isinstance(value, str) and len(key) <= 64 and len(value) <= 512
            for key, value in metadata.items()
        )
    )
    if not fits:
        text = "Invalid 'metadata': at most 16 strings, keys up to 64, values up to 512 characters."
        raise ApiError(400, text, param="metadata", code="invalid_value")


def _look(exchange: Exchange, batch_id: str) -> dict[str, Any]:
    """Validate the batch if that was not done yet; end it if its time has come."""
    batch = exchange.state.batch(batch_id, "openai")
    if batch is None:
        raise ApiError(404, f"No batch found with id '{batch_id}'.")
    if batch["phase"] == "validating":
        found = validate(exchange.state, batch)

        def change(fresh: dict[str, Any]) -> None:
            if fresh["phase"] == "validating":
                fresh |= found

        batch = exchange.state.update_batch(batch_id, change)
    return exchange.batches.look(batch, SHAPE)


def get_batch(exchange: Exchange) -> Wire:
    """GET /batches/{id}."""
    return Wire(_show(_look(exchange, exchange.path["id"])))


def list_batches(exchange: Exchange) -> Wire:
    """GET /batches."""
    page = _page([{"id": i} for i in exchange.state.batch_ids("openai")], exchange, 20, 100)
    page["data"] = [_show(_look(exchange, entry["id"])) for entry in page["data"]]
    return Wire(page)


def cancel_batch(exchange: Exchange) -> Wire:
    """POST /batches/{id}/cancel."""
    batch = _look(exchange, exchange.path["id"])
    if batch["phase"] == "ended":
        word = _show(batch)["status"]
        raise ApiError(409, f"Cannot cancel a batch with status '{word}'.")
    return Wire(_show(exchange.batches.cancel(batch)))


# Results


def _read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    lines = path.read_bytes().rstrip(b"\n").split(b"\n")
    return [(row["custom_id"], row["body"]) for row in map(json.loads, lines)]


def _finish(state: State, batch: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Write the output and the error file, each only if it has a line."""
    good = [o for o in outcomes if 200 <= o.status < 300]
    bad = [o for o in outcomes if not 200 <= o.status < 300]
    fields: dict[str, Any] = {}
    for key, name, rows in (("output", "output", good), ("error", "error", bad)):
        if rows:
            content = b"".join(_line(batch, number, row) for number, row in enumerate(rows))
            filename = f"{batch['id']}_{name}.jsonl"
            fields[f"{key}_file_id"] = _add_file(state, filename, "batch_output", content)["id"]
    failed = len([o for o in bad if o.kind == "done"])
    return {**fields, "completed": len(good), "failed": failed, "usage": _usage(good)}


def _line(batch: Mapping[str, Any], number: int, row: Outcome) -> bytes:
    ident = digest([batch["id"], row.custom_id, number])
    line: dict[str, Any] = {"id": f"batch_req_{ident[:24]}", "custom_id": row.custom_id}
    if row.kind == "done":
        answer = {"status_code": row.status, "request_id": ident[:32], "body": row.body}
        return dumps({**line, "response": answer, "error": None}) + b"\n"
    code, message = _NEVER_RAN[row.kind]
    error = {"code": code, "message": message}
    return dumps({**line, "response": None, "error": error}) + b"\n"


def _usage(rows: Iterable[Outcome]) -> dict[str, Any]:
    """Sum the usage of successful rows, in the words of the Responses API."""
    sums = dict.fromkeys(("input", "output", "cached", "reasoning"), 0)
    for row in rows:
        usage = _mapping(row.body.get("usage"))
        for key, old in (("input", "prompt"), ("output", "completion")):
            sums[key] += _count(usage.get(f"{key}_tokens", usage.get(f"{old}_tokens")))
            detail = "cached" if key == "input" else "reasoning"
            details = usage.get(f"{key}_tokens_details", usage.get(f"{old}_tokens_details"))
            sums[detail] += _count(_mapping(details).get(f"{detail}_tokens"))
    return {
        "input_tokens": sums["input"],
        "input_tokens_details": {"cached_tokens": sums["cached"]},
        "output_tokens": sums["output"],
        "output_tokens_details": {"reasoning_tokens": sums["reasoning"]},
        "total_tokens": sums["input"] + sums["output"],
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


SHAPE = Shape("openai", _read_rows, _finish)


def _show(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the batch object of the API."""
    fault, ended = fault_of(batch), batch["phase"] == "ended"
    status, moments = _status(batch)
    absent = "" if fault.empty_ids else None
    counts = {"total": batch["total"], "completed": 0, "failed": 0}
    if ended and batch["end"] != "failed":
        counts |= {"completed": batch.get("completed", 0), "failed": batch.get("failed", 0)}
    elif batch["phase"] == "running":
        counts["completed"] = _progress(batch)
    output, error = batch.get("output_file_id"), batch.get("error_file_id")
    return {
        "id": batch["id"],
        "object": "batch",
        "endpoint": f"/v1{batch['endpoint']}",
        "model": batch.get("model"),
        "errors": batch.get("errors"),
        "input_file_id": batch["input"],
        "completion_window": "24h",
        "status": (fault.final_word if ended else fault.word) or status,
        "output_file_id": output or (absent if ended else None),
        "error_file_id": error or (absent if ended else None),
        "created_at": int(batch["created"]),
        "expires_at": int(batch["created"]) + _DAY,
        **moments,
        "request_counts": {**counts, **fault.counts},
        "usage": batch.get("usage"),
        "metadata": batch["metadata"],
    }


def _status(batch: Mapping[str, Any]) -> tuple[str, dict[str, int | None]]:
    """Return the status word, and when each state was reached."""
    cancelled, started = batch.get("cancelled_at"), batch.get("in_progress_at")
    moments = {
        "in_progress_at": started, "cancelling_at": cancelled, "finalizing_at": None,
        "completed_at": None, "failed_at": None, "expired_at": None, "cancelled_at": None,
    }  # fmt: skip
    if batch["phase"] == "ended":
        word = batch["end"]
        moments[f"{word}_at"] = batch["ended_at"]
        moments["finalizing_at"] = batch["ended_at"] if word == "completed" else None
    elif cancelled:
        word = "cancelling"
    else:
        due = batch["phase"] == "running" and time.time() >= batch["due"]
        word = {"running": "finalizing" if due else "in_progress"}.get(batch["phase"], "validating")
    return word, {key: None if at is None else int(at) for key, at in moments.items()}


def _progress(batch: Mapping[str, Any]) -> int:
    span = batch["due"] - batch["created"]
    part = (time.time() - batch["created"]) / span if span > 0 else 1.0
    return int(batch["total"] * min(max(part, 0.0), 1.0))

"""What OpenAI finds out about a batch's file after the batch was created."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_langasync.sandbox import replies
from pytest_langasync.sandbox.checks import unknown_model
from pytest_langasync.sandbox.faults import fault_of
from pytest_langasync.sandbox.state import State

__all__ = ["validate"]

_MAX_ROWS = 50_000
_ENVELOPE = ("custom_id", "method", "url", "body")


def validate(state: State, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what validation changes in a batch: it stops at the first bad line."""
    fault, problem = fault_of(batch), None
    if fault.failure:
        text = fault.message or f"The batch failed: {fault.failure}."
        problem = _problem(fault.failure, text)
    data = state.file(batch["input"])
    facts: dict[str, Any] = {}
    if problem is None and (data is None or data["purpose"] != "batch"):
        text = f"Cannot find file {batch['input']}, or its purpose is not 'batch'."
        problem = _problem("invalid_request", text, "file_id")
    if problem is None:
        problem, facts = _validate_lines(state.blob(batch["input"]), batch["endpoint"])
    if problem is None:
        problem = _over_limit(state, facts)
    if problem is None:
        return {"phase": "running", "in_progress_at": time.time(), **facts}
    now = time.time()
    return {"phase": "ended", "end": "failed", "ended_at": now, "errors": problem, "total": 0}


def _validate_lines(path: Path, endpoint: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    seen: set[str] = set()
    model, number, spent = "", 0, 0
    for number, line in enumerate(path.read_bytes().rstrip(b"\n").split(b"\n"), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        problem = _line_problem(row, endpoint, model, seen)
        if problem is None and number > _MAX_ROWS:
            problem = ("too_many_tasks", f"The batch holds more than {_MAX_ROWS} requests.", None)
        if problem is not None:
            return _problem(*problem, number), {}
        model = row["body"]["model"]
        seen.add(row["custom_id"])
        spent += replies.prompt_tokens(row["body"])
    return None, {"total": number, "model": model, "tokens": spent}


def _line_problem(
    row: Any, endpoint: str, model: str, seen: set[str]
) -> tuple[str, str, str | None] | None:
    if not isinstance(row, dict):
        return "invalid_json_line", "This line is not parseable as valid JSON.", None
    for key in _ENVELOPE:
        if not row.get(key):
            return "missing_required_parameter", f"Missing required parameter: '{key}'.", key
    if extra := set(row) - set(_ENVELOPE):
        return "unknown_parameter", f"Unknown parameter: '{min(extra)}'.", min(extra)
    if row["method"] != "POST":
        return "invalid_method", "The method must be 'POST'.", "method"
    if not isinstance(row["custom_id"], str) or row["custom_id"] in seen:
        return "duplicate_custom_id", f"Duplicate custom_id: {row['custom_id']}.", "custom_id"
    if row["url"] != f"/v1{endpoint}":
        return "invalid_url", "The URL does not match the batch's endpoint.", "url"
    asked = row["body"].get("model") if isinstance(row["body"], dict) else None
    if not asked:
        return "invalid_request", "Model is required.", "body.model"
    if model and asked != model:
        return "mismatched_model", "All requests of a batch must name one model.", "body.model"
    if unknown_model(asked):
        text = f"The provided model '{asked}' is not supported by the Batch API."
        return "model_not_found", text, "body.model"
    if row["body"].get("stream"):
        return "streaming_unsupported", "Streaming is not supported in batches.", "body.stream"
    return None


def _problem(
    code: str, message: str, param: str | None = None, line: int | None = None
) -> dict[str, Any]:
    entry = {"code": code, "message": message, "param": param, "line": line}
    return {"object": "list", "data": [entry]}


def _over_limit(state: State, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    limit = state.limits().enqueued_tokens
    others = [b for b in state.running("openai") if b.get("model") == facts["model"]]
    waiting = sum(b.get("tokens", 0) for b in others)
    if not limit or waiting + facts["tokens"] <= limit:
        return None
    text = (
        f"Enqueued token limit reached for {facts['model']} in organization org-sandbox. "
        f"Limit: {limit:,} enqueued tokens. Please try again once some in_progress batches "
        "have been completed."
    )
    return _problem("token_limit_exceeded", text)

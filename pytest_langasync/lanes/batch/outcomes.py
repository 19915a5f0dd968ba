"""What the end of a job means for the requests in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_langasync.models import JobStatus

if TYPE_CHECKING:
    from pytest_langasync.cache.store import StoredRequest

CAPACITY_CODES = frozenset({"token_limit_exceeded"})
LINE_CODES = frozenset(
    {
        "duplicate_custom_id",
        "invalid_json_line",
        "invalid_url",
        "missing_required_parameter",
        "streaming_unsupported",
    }
)
RETRIED_CODES = frozenset(
    {"internal_error", "internal_server_error", "rate_limit_exceeded", "server_error"}
)
"""Why a whole batch may be refused for no fault of its requests."""
WORDS = {
    429: "rate limit",
    500: "server error",
    503: "cancelled or unavailable",
    504: "expired or timed out",
    529: "overloaded",
}


def guilty(
    status: JobStatus, requests: Sequence[StoredRequest], *, again: bool
) -> tuple[Sequence[StoredRequest], int]:
    """Return the requests that a rejection is the answer of, and its HTTP status.

    The others are sent again, where they may be (``again``): when the rejection names a request by
    its line (counted from 1), or is no fault of any of them.
    """
    if status.reason_code in RETRIED_CODES:
        return ((), 500) if again else (requests, 500)
    code = 404 if status.reason_code == "model_not_found" else 400
    found = re.search(r"\bline (\d+)", status.reason)
    number = int(found[1]) if found and status.reason_code in LINE_CODES else 0
    if again and 0 < number <= len(requests) and len(requests) > 1:
        return [requests[number - 1]], code
    return requests, code


def why_again(status: int) -> str:
    """Say in words why a request that failed for no fault of its own is sent again."""
    return f"{WORDS.get(status, 'failed')} ({status})"

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


def names_a_line(status: JobStatus) -> bool:
    """Return whether a rejection names the request that it is about."""
    return status.reason_code in LINE_CODES and re.search(r"\bline \d+", status.reason) is not None


KEY_REFUSED = re.compile(r"\b(401|403)\b|unauthori[sz]ed|invalid api key", re.IGNORECASE)
"""What a server says in its rows that was itself refused where it asks."""


def in_vain(complaints: Sequence[tuple[int, str]], depth: int) -> bool:
    """Return whether to send a job again cannot help: all of it failed, with one message.

    ``complaints`` are the status and the message of each request. Limits and times that have run
    out pass by themselves.
    """
    if len(set(complaints)) != 1 or complaints[0][0] != 500 or not complaints[0][1]:
        return False
    return bool(KEY_REFUSED.search(complaints[0][1])) or (depth > 0 and len(complaints) > 1)


def why_again(status: int) -> str:
    """Say in words why a request that failed for no fault of its own is sent again."""
    return f"{WORDS.get(status, 'failed')} ({status})"

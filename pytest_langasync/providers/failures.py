"""What went wrong in one exchange."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from pytest_langasync.config import CLOCK
from pytest_langasync.providers.dialects.base import is_out_of_money

__all__ = ["Failure", "from_error", "from_response", "retry_after"]

LONGEST_RETRY_AFTER = 120.0
NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
)
"""Transport errors after which no server has seen the request."""


class Failure(Exception):  # noqa: N818  (never leaves this package)
    """One failed exchange.

    ``status`` is 0 where no response came, and 2xx where it could not be read. ``sent`` is False
    when no server can have seen the request.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        body: Any = None,
        retry_after: float | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.sent = sent

    @property
    def error(self) -> Mapping[str, Any]:
        """The provider's error object, or an empty mapping."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return error if isinstance(error, dict) else {}

    @property
    def out_of_money(self) -> bool:
        """Whether the account, not the load, is the reason."""
        return self.status == 402 or is_out_of_money(self.error)

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed a little later."""
        if self.out_of_money:
            return False
        return self.status < 300 or self.status in (408, 409, 429) or self.status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds, at most 120, that a ``Retry-After`` header asks for, or None."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - CLOCK.now()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None


def from_error(error: Exception) -> Failure:
    """Return the failure behind an exception of the HTTP library, or of reading what came."""
    if isinstance(error, ValueError):
        return Failure("the answer could not be read", status=200)
    sent = NOT_SENT.isdisjoint(base.__name__ for base in type(error).__mro__)
    return Failure(f"{type(error).__name__}: {error}", sent=sent)


def from_response(response: Any) -> Failure:
    """Return the failure that an error response, already read, stands for."""
    try:
        body = response.json()
    except ValueError:
        body = None
    failure = Failure(
        f"the server sent {response.headers.get('content-type') or 'nothing'}",
        status=response.status_code,
        body=body,
        retry_after=retry_after(response.headers),
    )
    if message := failure.error.get("message"):
        failure.message = str(message)
    elif body is not None:
        failure.message = json.dumps(body)
    return failure

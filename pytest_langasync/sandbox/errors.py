"""Error bodies in each provider's own shape."""

from __future__ import annotations

import uuid
from typing import Any

from pytest_langasync.providers.dialects.base import openai_error
from pytest_langasync.providers.dialects.messages import MESSAGES


class ApiError(Exception):
    """A request that the provider refuses: an HTTP status and a message in its words."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self, provider: str) -> dict[str, Any]:
        """Return the error body that ``provider`` (``openai`` or ``anthropic``) would send."""
        if provider == "anthropic":
            return MESSAGES.error_body(self.status, self.message)
        return openai_error(self.status, self.message, code=self.code, param=self.param)


def error_body(provider: str, status: int, message: str) -> dict[str, Any]:
    """Return the provider's error body for a status, with its usual type and code."""
    return ApiError(status, message).body(provider)


def stamped(provider: str, body: Any) -> tuple[dict[str, str], Any]:
    """Return the header with a new request ID, and the body: Anthropic's errors name it too."""
    ident = f"req_{uuid.uuid4().hex}"
    if provider != "anthropic":
        return {"x-request-id": ident}, body
    if isinstance(body, dict) and body.get("type") == "error":
        body = {**body, "request_id": ident}
    return {"request-id": ident}, body

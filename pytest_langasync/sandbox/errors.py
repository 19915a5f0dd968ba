"""Error bodies in each provider's own shape."""

from __future__ import annotations

import uuid
from typing import Any

_OPENAI_TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


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
            return anthropic_error(self.status, self.message)
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


def openai_error(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's error body; all four keys are always there."""
    fallback = ("server_error" if status >= 500 else "invalid_request_error", None)
    kind, usual_code = _OPENAI_TYPES.get(status, fallback)
    error = {"message": message, "type": kind, "param": param, "code": code or usual_code}
    return {"error": error}


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """Return Anthropic's error envelope; whoever sends it fills in the request's ID."""
    usual = "api_error" if status >= 500 else "invalid_request_error"
    error = {"type": _ANTHROPIC_TYPES.get(status, usual), "message": message}
    return {"type": "error", "error": error, "request_id": None}

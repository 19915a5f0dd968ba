"""A server of the user's own behind the sandbox: its answers, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_langasync.providers.dialects import dialect_of
from pytest_langasync.sandbox.errors import error_body
from pytest_langasync.sandbox.questions import ReplyRequest

__all__ = ["forward"]

_SECONDS = 600.0
_PASSED_ON = ("anthropic-version", "anthropic-beta", "openai-beta")


def forward(
    base_url: str, request: ReplyRequest, headers: Mapping[str, str]
) -> tuple[int, dict[str, Any]]:
    """Ask the server the same thing at the same path; no key of the caller is passed on.

    Nothing is translated: Anthropic's calls need a server that has ``/v1/messages`` too.
    """
    import httpx

    def failure(status: int, text: str) -> tuple[int, dict[str, Any]]:
        return status, error_body(request.provider, status, f"The server behind the sandbox {text}")

    body = dialect_of(request.endpoint).strip_stream(request.body)
    kept = {name: headers[name] for name in _PASSED_ON if name in headers}
    try:
        response = httpx.post(
            base_url + request.endpoint, json=body, headers=kept, timeout=_SECONDS
        )
    except httpx.HTTPError as error:
        return failure(502, f"failed: {type(error).__name__}: {error}")
    status = response.status_code
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if status >= 400 and _is_error(request.provider, answer):
        return status, answer
    if status in (404, 405):
        text = f"does not serve POST {request.endpoint}; the sandbox translates nothing for it"
        return failure(404, text)
    if status >= 400:
        return failure(status, f"answered {status}: {response.text[:200]}")
    if not isinstance(answer, dict) or status >= 300:
        return failure(502, f"answered {status} without a JSON object")
    return status, answer


def _is_error(provider: str, answer: Any) -> bool:
    """Whether the provider's SDK can read it: to others of its calls a server may be a stranger."""
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), dict):
        return False
    return provider != "anthropic" or answer.get("type") == "error"

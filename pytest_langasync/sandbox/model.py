"""One request in, one answer out: checks, directives, hook or forward server, default reply."""

from __future__ import annotations

import contextvars
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from pytest_langasync.sandbox.bodies import build
from pytest_langasync.sandbox.checks import check
from pytest_langasync.sandbox.errors import ApiError, error_body
from pytest_langasync.sandbox.forward import forward
from pytest_langasync.sandbox.questions import Reply, ReplyRequest, read_request
from pytest_langasync.sandbox.replies import default_reply, directives

__all__ = ["Hook", "Model"]

Hook = Callable[[ReplyRequest], Reply | str | dict[str, Any] | None]


def _hook_error(what: str) -> ApiError:
    return ApiError(500, f"The sandbox_reply hook {what}")


class Model:
    """Answers requests. ``hook`` may answer first; ``forward_url`` replaces the default reply.

    Both are asked in the context in which the model was made, whichever thread the request came in
    by: what they send themselves is thereby told from what the tests send.
    """

    def __init__(self, hook: Hook | None = None, forward_url: str | None = None) -> None:
        self._hook = hook
        self._forward_url = (forward_url or "").rstrip("/")
        self._context = contextvars.copy_context()

    @property
    def instant(self) -> bool:
        """True when an answer takes no time worth a thread."""
        return self._hook is None and not self._forward_url

    @property
    def forwards(self) -> bool:
        """True when another server is asked."""
        return bool(self._forward_url)

    def answer(
        self,
        provider: str,
        endpoint: str,
        body: Mapping[str, Any],
        *,
        attempt: int,
        batch: bool,
        headers: Mapping[str, str],
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the answer."""
        try:
            check(endpoint, body, batch=batch, headers=headers)
            request = read_request(provider, endpoint, body, attempt)
            status = directives(request.prompt, attempt).get("status")
            if status:
                raise ApiError(int(status), f"The prompt asked for status {status}.")
            return self._context.copy().run(self._ask, request, batch, headers)
        except ApiError as error:
            return error.status, error.body(provider)
        except (AttributeError, KeyError, TypeError, IndexError):
            return 400, error_body(provider, 400, "We could not parse the body of your request.")

    def _ask(
        self, request: ReplyRequest, batch: bool, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        said = []
        for choice in range(int(request.body.get("n") or 1)):
            asked = dataclasses.replace(request, choice=choice) if choice else request
            reply = self._consult(asked)
            if isinstance(reply, dict):
                return _whole(reply)
            if reply is None and self._forward_url:
                return forward(self._forward_url, request, headers)
            said.append(default_reply(asked) if reply is None else reply)
        return 200, build(request, said, batch=batch)

    def _consult(self, request: ReplyRequest) -> Reply | dict[str, Any] | None:
        if self._hook is None:
            return None
        try:
            reply: Any = self._hook(request)
        except BaseException as error:  # the user's code; pytest.fail() raises no Exception
            raise _hook_error(f"raised {type(error).__name__}: {error}") from error
        if reply is not None and not isinstance(reply, str | dict | Reply):
            kind = type(reply).__name__
            raise _hook_error(f"returned a value of type {kind}: no str, dict, Reply or None")
        return Reply(reply) if isinstance(reply, str) else reply


def _whole(reply: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the status and the body in a hook's reply that is a whole response."""
    try:
        json.dumps(reply)
        status = int(reply.get("status") or 500)
    except (TypeError, ValueError) as error:
        raise _hook_error(f"returned a reply that cannot be sent: {error}") from error
    if "error" not in reply:
        return 200, reply
    return status, {key: value for key, value in reply.items() if key != "status"}

"""One request in, one answer out: checks, directives, hook or forward server, default reply."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from pytest_langasync.sandbox.bodies import build
from pytest_langasync.sandbox.checks import check
from pytest_langasync.sandbox.errors import ApiError, error_body
from pytest_langasync.sandbox.questions import Reply, ReplyRequest, read_request
from pytest_langasync.sandbox.replies import DIRECTIVE, default_reply

__all__ = ["Hook", "Model"]

Hook = Callable[[ReplyRequest], Reply | str | dict[str, Any] | None]
_FORWARD_SECONDS = 600.0


class Model:
    """Answers requests. ``hook`` may answer first; ``forward_url`` replaces the default reply."""

    def __init__(self, hook: Hook | None = None, forward_url: str | None = None) -> None:
        self._hook = hook
        self._forward_url = (forward_url or "").rstrip("/")

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
        except ApiError as error:
            return error.status, error.body(provider)
        except (AttributeError, KeyError, TypeError, IndexError):
            return 400, error_body(provider, 400, "We could not parse the body of your request.")
        status = directives(request.prompt, attempt).get("status")
        if status:
            text = f"The prompt asked for status {status}."
            return int(status), error_body(provider, int(status), text)
        return self._ask(request, batch)

    def _ask(self, request: ReplyRequest, batch: bool) -> tuple[int, dict[str, Any]]:
        said = []
        for choice in range(int(request.body.get("n") or 1)):
            asked = dataclasses.replace(request, choice=choice) if choice else request
            try:
                reply = self._hook(asked) if self._hook else None
            except Exception as error:  # the user's code: its failure is the model's answer
                text = f"The reply hook raised {type(error).__name__}: {error}"
                return 500, error_body(request.provider, 500, text)
            if isinstance(reply, dict):
                body = {key: value for key, value in reply.items() if key != "status"}
                return (int(reply.get("status", 500)), body) if "error" in reply else (200, reply)
            if reply is None and self._forward_url:
                return self._forward(request)
            reply = default_reply(asked) if reply is None else reply
            said.append(Reply(reply) if isinstance(reply, str) else reply)
        return 200, build(request, said, batch=batch)

    def _forward(self, request: ReplyRequest) -> tuple[int, dict[str, Any]]:
        """Ask the OpenAI-compatible server; no key of the caller is passed on."""
        import httpx

        if request.provider != "openai":
            text = "The server behind the sandbox speaks OpenAI's protocol only."
            return 400, error_body(request.provider, 400, text)
        body = {k: v for k, v in request.body.items() if k not in ("stream", "stream_options")}
        try:
            response = httpx.post(
                self._forward_url + request.endpoint, json=body, timeout=_FORWARD_SECONDS
            )
            answer = response.json()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            text = f"The server behind the sandbox failed: {type(error).__name__}: {error}"
            return 502, error_body("openai", 502, text)
        if isinstance(answer, dict):
            return response.status_code, answer
        return 502, error_body("openai", 502, "The server behind the sandbox sent no JSON object.")


def directives(prompt: str, attempt: int) -> dict[str, str]:
    """Return the directives in a prompt that hold for this attempt: name to value."""
    found = {}
    for name, value, times in DIRECTIVE.findall(prompt) if "[[" in prompt else ():
        if not times or attempt < int(times):
            found[name] = value
    return found

"""Hooks that a conftest or another plugin may implement."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookspec(firstresult=True)
def pytest_langasync_sandbox_reply(request: Any) -> Any:
    """Return the embedded sandbox's reply to a request, or None for its default.

    Args:
        request: a ``pytest_langasync.sandbox.ReplyRequest``: provider, endpoint, model, ``prompt``
            (the last user text), the whole ``body``, and how often this body was bought before.

    Returns:
        A ``str`` (the assistant's text), a ``dict`` (the whole response body, or ``{"error": …,
        "status": …}``), or None.
    """

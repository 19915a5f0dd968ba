"""Hooks that a conftest or another plugin may implement."""

from __future__ import annotations

from collections.abc import Mapping
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


@pytest.hookspec
def pytest_langasync_score(item: pytest.Item, name: str, value: Any, reason: str | None) -> None:
    """Learn of a score that a test records. A batched test records again in each attempt.

    Args:
        item: the test.
        name: of the score.
        value: a number, a boolean or a label.
        reason: why, as far as the scorer says.
    """


@pytest.hookspec
def pytest_langasync_run_finished(config: pytest.Config, run: Mapping[str, Any]) -> None:
    """Learn what a run in batch mode did and cost, once it is over.

    Called once per run, after its record was kept and its reports were written.

    Args:
        config: of the run.
        run: what ``--langasync-report`` writes as JSON (see the README), without prompts and
            answers. Money is in USD.
    """

"""Coroutines finished by synchronous code, all of them in one event loop for each thread.

A client that is kept from one case to the next holds connections of the loop that it was first
used in: with a loop for each case, every other case would meet a closed one.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from typing import Any

__all__ = ["close", "finish"]

_local = threading.local()


def finish(result: Any) -> Any:
    """Await what a coroutine function returned; anything else is returned as it is."""
    if not inspect.isawaitable(result):
        return result

    async def main() -> Any:
        return await result

    runner: asyncio.Runner | None = getattr(_local, "runner", None)
    if runner is None:
        # A factory of its own, so that it does not become the thread's current loop.
        runner = _local.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    try:
        return runner.run(main(), context=contextvars.copy_context())
    finally:
        runner.run(_cancel_what_is_left())


async def _cancel_what_is_left() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def close() -> None:
    """Close the loop of this thread."""
    runner: asyncio.Runner | None = getattr(_local, "runner", None)
    if runner is not None:
        _local.runner = None
        runner.close()

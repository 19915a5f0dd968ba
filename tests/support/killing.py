"""Runs pytest in children that kill themselves at a chosen step. A program of its own.

Started once, it imports the SDKs, and then forks a child for each run, which saves it the imports.
Reads one JSON object a line: ``directory``, ``arguments``, ``kill_at`` (the step to die at; 0 for
none), ``log``. Writes one a line: ``status`` (of the child) and ``names`` (of the steps that it
came past, where it was not killed).

A step is the moment before, or after, a durable change of a file (fsync, rename, removal) or an
HTTP exchange. All of them are found by wrapping the functions of the standard library and of the
HTTP library that every write and every exchange goes through.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

CHANGES = ("fsync", "replace", "rename", "unlink", "mkdir")


class Steps:
    """Counts steps, and kills this process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.names: list[str] = []

    def step(self, name: str) -> None:
        """Pass one step, or die there."""
        self.names.append(name)
        if len(self.names) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner: Any, name: str, concerns: Callable[..., bool]) -> None:
        """Make each call of ``owner.name`` two steps: before and after it."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not concerns(*args):
                return original(*args, **kwargs)
            self.step(f"before {name}")
            result = original(*args, **kwargs)
            self.step(f"after {name}")
            return result

        setattr(owner, name, wrapper)


def in_cache(*args: Any) -> bool:
    """Whether a path lies in the cache; a file descriptor is taken to."""
    return isinstance(args[0], int) or ".langasync" in os.fspath(args[0])


def run(order: dict[str, Any]) -> None:
    """Be the child: run pytest, and leave what was counted in ``log``."""
    import httpx
    import httpx2
    import pytest

    output = os.open(order["log"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(order["directory"])
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # other plugins import for seconds
    steps = Steps(order["kill_at"])
    for name in CHANGES:
        steps.wrap(os, name, in_cache)
    for library in (httpx, httpx2):  # batches go by the one, calls of the SDKs by the other
        steps.wrap(library.HTTPTransport, "handle_request", lambda *_: True)
    status = pytest.main(order["arguments"])
    sys.stdout.flush()
    with open(order["log"], "w") as file:
        json.dump(steps.names, file)
    os._exit(int(status))


def main() -> None:
    """Serve one order after the other."""
    from libraries import warm_up  # this folder is on the path of a program that lies in it

    warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run(order)
        _, status = os.waitpid(child, 0)
        names: list[str] = []
        if os.WIFEXITED(status):
            with open(order["log"]) as file:
                names = json.load(file)
        code = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps({"status": code, "names": names}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

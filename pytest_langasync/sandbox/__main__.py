"""``python -m pytest_langasync.sandbox --dir D --port P --latency S``: a sandbox of its own."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from pytest_langasync.sandbox.server import Sandbox


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the first line of the output is the URL."""
    parser = argparse.ArgumentParser(prog="python -m pytest_langasync.sandbox")
    parser.add_argument("--dir", type=Path, required=True, help="where the state lies")
    parser.add_argument("--port", type=int, default=0, help="loopback port (default: a free one)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that a batch takes")
    parser.add_argument("--forward-url", help="base URL of an OpenAI-compatible server")
    given = parser.parse_args(arguments)
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with Sandbox(
        given.dir, latency=given.latency, forward_url=given.forward_url, port=given.port
    ) as sandbox:
        sys.stdout.write(f"{sandbox.url}\n")
        sys.stdout.flush()
        done.wait()


if __name__ == "__main__":
    main()

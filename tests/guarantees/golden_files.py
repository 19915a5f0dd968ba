"""What ``test_golden.py`` and the script that made the golden files have in common.

Nothing here knows a module of the package: everything goes the way of a user's, by the command
line, a conftest or the documented names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

GOLDEN = Path(__file__).with_name("golden")
OPENAI_URL = "http://openai.golden.test/v1"
ANTHROPIC_URL = "http://anthropic.golden.test"
"""Where the golden cache was bought. The names exist nowhere: nothing can be sent by mistake."""
ALONE = ("-p", "langasync", "-p", "no:cacheprovider")
"""No other plugin is loaded: what is seen is the plugin's own, and a run takes half the time."""


def environment(
    proxy: str = "http://127.0.0.1:9", *, keys: bool = False, official: bool = False
) -> dict[str, str]:
    """Return the environment of a run.

    Args:
        proxy: what stands between it and all providers; nobody is at the usual one. Empty for none.
        keys: whether the SDKs find a key.
        official: whether the SDKs' own base URLs are used, as the embedded sandbox's users do.
    """
    theirs = ("OPENAI_", "ANTHROPIC_", "GITHUB_", "PYTEST_ADDOPTS", "PYTEST_PLUGINS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
    kept |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "100"}
    if proxy:
        kept |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    if not official:
        kept |= {"OPENAI_BASE_URL": OPENAI_URL, "ANTHROPIC_BASE_URL": ANTHROPIC_URL}
    if keys:
        kept |= {"OPENAI_API_KEY": "sk-golden", "ANTHROPIC_API_KEY": "sk-ant-golden"}
    return kept


def unpack(folder: Path, *names: str) -> Path:
    """Write modules of the golden suite to ``folder``; as they are kept, they are no tests here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pytest.ini", "conftest.py", "llm.py", *names):
        text = (GOLDEN / "suite" / f"{name}.kept").read_text("utf-8")
        (folder / name).write_text(text, "utf-8")
    return folder


# ---- reports

LONGEST = 200
"""Characters of a text that a golden report keeps."""
VOLATILE = {
    **dict.fromkeys(("started_at", "ended_at", "age_seconds"), 1.5),
    **dict.fromkeys(("request_id", "failure", "answer"), "told"),
}
"""What differs from run to run, or with the version of pytest, and what stands for it."""
IDS = (
    (re.compile(r"\b(msgbatch|batch)_[0-9a-zA-Z]+"), r"\1_0"),
    (re.compile(r"\b\d{8}T\d{6}(?:\.\d{3})?Z-[0-9a-f]{4}\b"), "20260101T000000Z-0000"),
)
"""IDs of jobs and of runs."""


def normal(value: Any, key: str = "") -> Any:
    """Return a report as it always is: without times, IDs, answers, and the sums that depend on the
    prices of the day, in an order that does not depend on which job ended first.

    What is null stays null.
    """
    if value is None:
        return None
    if key in VOLATILE:
        return VOLATILE[key]
    if isinstance(value, Mapping):
        return {name: normal(one, name) for name, one in value.items()}
    if isinstance(value, list):
        order = {"tests": "id", "gates": "group"}.get(key)
        found = sorted(value, key=lambda one: one[order]) if order else value
        return [normal(one, key) for one in found]
    if key.endswith("_usd") or key == "saved_percent":
        return 0.5 if isinstance(value, float) else value
    if isinstance(value, str):
        for pattern, stand_in in IDS:
            value = pattern.sub(stand_in, value)
        return value if len(value) <= LONGEST else value[:LONGEST] + "…"
    return value


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of everything in a JSON document that holds nothing itself."""
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            yield from flat(one, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for number, one in enumerate(value):
            yield from flat(one, f"{path}[{number}]")
    else:
        yield path, value


def load(path: Path) -> Any:
    """Return a JSON document."""
    return json.loads(path.read_text("utf-8"))


# ---- runs that the script and the tests make alike

LIVE = (
    "--deselect=test_evals.py::test_embeddings",
    "--langasync-sandbox",
    "--langasync-min-pass-rate=0.5",
    "--langasync-min-score=length=1",
)
"""On the embedded sandbox, with gates. Whether embeddings have a batch price depends on the day."""
OFFLINE = ("--langasync-offline", "--langasync-report=report.json,report.md")
"""On the cache alone."""
PRIVATE_INI = "[pytest]\nlangasync_store_prompts = false\n"


def restore(kept: Path, cache: Path) -> None:
    """Copy a golden cache to where a run looks for it."""
    shutil.copytree(kept, cache)
    (cache / "gitignore").rename(cache / ".gitignore")


# ---- whoever plays the provider


@dataclass(frozen=True)
class Asked:
    """A request as it came, by a proxy's way or straight."""

    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    data: bytes


Answer = tuple[int, Mapping[str, str], bytes]
Handle = Callable[[Asked], Answer]


@contextmanager
def behind(handle: Handle) -> Iterator[int]:
    """Answer whatever is asked of any host, as a proxy or as that host itself; give the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            parts = urlsplit(self.path)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked = Asked(self.command, target, dict(self.headers), data)
            try:
                status, headers, content = handle(asked)
            except ConnectionError:  # it did not come through: no answer is the answer
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = respond  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

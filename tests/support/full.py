"""A disk that is really full, in a process of its own: no file may grow beyond a limit.

``python full.py FOLDER`` lives through everything a store writes, with each limit in turn, and
prints how each life ended.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from pytest_langasync.cache.store import Intent, OwnerState, RequestMeta, Store
from pytest_langasync.exceptions import CacheError
from pytest_langasync.models import Answer, Call, MissingCall, Request, ResultRow, Target

NONCE, KEY, URL = "abcdefghijkl", "a" * 40, "https://api.openai.com/v1"
LARGE = "x" * 20_000
"""A text with a file of its own."""


def limit_files(size: int) -> None:
    """Let no file of this process grow beyond ``size`` bytes; 0 lifts the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size or hard, hard))


def live(root: Path) -> None:
    """Write one of everything that a cache holds, the larger the later."""
    store = Store(root)
    store.open()
    pending = MissingCall(KEY, "t", 0, Target("openai", URL, "/responses"), "m", 10)
    store.spool(pending, {"model": "m"})
    meta = RequestMeta("openai", URL, "/responses", (), "m")
    with store.lock():
        intent = store.write_intent(Intent(NONCE, meta, 1.0, 1), [pending])
        job = store.promote(NONCE, intent.job("batch_1", "file-1"))
    store.finish(job, [ResultRow(f"{NONCE}-{KEY}", 200, "y" * 1000)])
    store.owners.update({"t": OwnerState(waiting=("w" * 3000,))})
    store.history.add("run", {"text": "r" * 5000})
    for text, answer in (("short", "z" * 7000), (LARGE, "z")):
        call = Call(Request(pending.target, {"text": text}), "t", 0)
        store.add_realtime(call, "t", Answer(call.key, 200, answer))
    store.close()


def main(folder: Path) -> None:
    ends = {}
    for size in [1, *range(100, 900, 40), *range(1000, 22_000, 1000)]:
        root = folder / str(size)
        limit_files(size)
        try:
            live(root)
        except CacheError as error:
            end = str(error)
        else:
            end = ""
        finally:
            limit_files(0)
        drafts = [str(path) for path in root.rglob("*.tmp")]
        live(root)
        store = Store(root)
        store.open()
        ends[size] = {"end": end, "drafts": drafts, "problems": store.problems}
    sys.stdout.write(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

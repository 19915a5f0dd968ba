"""What tests keep at their providers: files, conversations, vector stores, containers.

Each attempt of a test makes such an object anew, and its last lines delete it. The calls that make,
read and delete it are recorded and replayed like a model's answers, so that all attempts speak of
the same object, and it lives until the verdict: a batch may read a file a day after its upload.

An answer that is not final (``queued``, ``in_progress``) is kept in memory only, and replaced when
a later look at the same object shows it done.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.interception.wire import Reply
from pytest_langasync.models import Answer, Call, Request, Target

__all__ = ["Kept", "deletion_of", "identifier", "is_final", "pretended_deletion"]

NOT_FINAL = frozenset({"queued", "in_progress", "processing", "starting", "pending"})


def is_final(body: Any) -> bool:
    """Return whether nothing more will happen to what an answer speaks of."""
    status = body.get("status") if isinstance(body, Mapping) else None
    return not (isinstance(status, str) and status.lower() in NOT_FINAL)


def identifier(body: Any) -> str:
    """Return the ID of the object that an answer speaks of, or an empty string."""
    if not isinstance(body, Mapping):
        return ""
    if isinstance(inner := body.get("file"), Mapping):  # Gemini's
        body = inner
    found = body.get("id") or body.get("name")
    return found.rpartition("/")[2] if isinstance(found, str) else ""


def deletion_of(call: Call, object_id: str) -> Call:
    """Return the call that deletes what ``call`` made; its key tells whether that was done."""
    to = call.request.target
    path = to.endpoint.partition(" ")[2]
    target = Target(to.provider, to.base_url, f"DELETE {path}/{object_id}")
    return Call(Request(target, {}), "", 0)


def pretended_deletion(url: str) -> Reply:
    """Return what a provider says of a deletion that waits for the verdict."""
    object_id = urlsplit(url).path.rpartition("/")[2]
    body = f'{{"id": "{object_id}", "object": "deleted", "type": "deleted", "deleted": true}}'
    return Reply(200, {"content-type": "application/json"}, body.encode("utf-8", "replace"))


class Kept:
    """What is known of kept objects in one run."""

    def __init__(self) -> None:
        self.makers: dict[str, str] = {}
        """Who made the objects that this run knows of, by their IDs."""
        self.gone: set[str] = set()
        """Those of them that an earlier run deleted."""
        self.waiting: set[str] = set()
        """Owners that are parked: their batches may need what others made."""
        self._unfinished: dict[str, Answer] = {}
        self._made_by: dict[str, tuple[Call, str]] = {}
        self._not_before: dict[str, float] = {}
        self._lock = threading.Lock()

    def unfinished(self, key: str) -> Answer | None:
        """Return the answer of a key that is not final, where this run got one."""
        return self._unfinished.get(key)

    def hold(self, call: Call, owner: str, answer: Answer) -> None:
        """Keep an answer that is not final until it is, or until the run ends."""
        with self._lock:
            self._unfinished[call.key] = answer
            if object_id := identifier(answer.body):
                self._made_by[object_id] = (call, owner)
                self.makers[object_id] = owner

    def finished(self, object_id: str) -> tuple[Call, str] | None:
        """Return the call (and its owner) whose answer was not final, once its object is done."""
        with self._lock:
            found = self._made_by.pop(object_id, None)
            if found is not None:
                self._unfinished.pop(found[0].key, None)
            return found

    def note(self, object_id: str, owner: str, *, gone: bool) -> None:
        """Take note of an object that ``owner`` made, and whether an earlier run deleted it."""
        with self._lock:
            self.makers[object_id] = owner
            if gone:
                self.gone.add(object_id)

    def make_anew(self, object_id: str, now: float) -> None:
        """Let the owner of an object, which is deleted by now, make its objects again."""
        with self._lock:
            self.gone.discard(object_id)
            self._not_before[self.makers[object_id]] = now

    def counts(self, answer: Answer, owner: str) -> bool:
        """Return whether a stored answer may still speak for an object."""
        return answer.received_at >= self._not_before.get(owner, 0.0)

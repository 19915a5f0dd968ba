"""A server of somebody else's that speaks OpenAI's chat, files and batches, in a way of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from support.loopback import Loopback, Say, Seen, loopback

Body = dict[str, Any]


def completion(body: Mapping[str, Any], text: str = "") -> Body:
    """Return a chat completion that repeats what was asked."""
    said = text or body["messages"][-1]["content"]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": f"[{said}]"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def row(line: Mapping[str, Any], body: Any = None, status: int = 200) -> Body:
    """Return a line of results as OpenAI writes it."""
    made = completion(line["body"]) if body is None else body
    response = {"status_code": status, "request_id": "r", "body": made}
    return {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}


def missing(seen: Seen) -> Say:
    """Refuse as a server does that has no such route."""
    return Say({"detail": f"no {seen.path}"}, 404)


@dataclass
class OddHost:
    """Its ways are attributes: each may be replaced. What it sold stands in ``batched`` and
    ``live``, as the texts that were asked."""

    row: Callable[[Body], Body | None] = row
    live_answer: Callable[[Body], Say] = lambda body: Say(completion(body))
    batch: Callable[[Body, int], Body] = lambda batch, polls: batch
    """Returns a batch as it is told, from what it is and how often it was asked for."""
    job_id: Callable[[int], str] = "batch_{:024x}".format
    closed: tuple[str, ...] = ()
    """Routes that it does not have, such as ``POST /v1/files``."""
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Body] = field(default_factory=dict)
    batched: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    polls: Counter[str] = field(default_factory=Counter)
    server: Loopback = field(default_factory=Loopback)

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1"

    def __call__(self, seen: Seen) -> Say:
        if f"{seen.method} {seen.path}" in self.closed:
            return missing(seen)
        parts = seen.path.strip("/").split("/")[1:]
        match (seen.method, *parts):
            case ("POST", "chat", "completions"):
                self.live.append(seen.json["messages"][-1]["content"])
                return self.live_answer(seen.json)
            case ("POST", "files"):
                name = f"file-{len(self.files)}"
                self.files[name] = seen.parts["file"].get_payload(decode=True)
                return Say({"id": name, "object": "file"})
            case ("DELETE", "files", name):
                self.files.pop(name, None)
                return Say({"id": name, "deleted": True})
            case ("GET", "files", name, "content") if name in self.files:
                return Say(self.files[name])
            case ("POST", "batches"):
                return Say(self.batch(self._create(seen.json), 0))
            case ("GET", "batches"):
                told = [self.batch(b, 0) for b in reversed(self.batches.values())]
                return Say({"object": "list", "data": told, "has_more": False})
            case ("GET", "batches", job_id) if job_id in self.batches:
                self.polls[job_id] += 1
                return Say(self.batch(self.batches[job_id], self.polls[job_id]))
        error = {"message": "not found", "type": "x", "param": None, "code": None}
        return Say({"error": error}, 404)

    def _create(self, asked: Body) -> Body:
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        self.batched += [line["body"]["messages"][-1]["content"] for line in lines]
        rows = [made for line in lines if (made := self.row(line)) is not None]
        output = f"file-out-{len(self.batches)}"
        self.files[output] = b"".join(json.dumps(made).encode() + b"\n" for made in rows)
        job_id = self.job_id(len(self.batches))
        self.batches[job_id] = {
            **asked,
            "id": job_id,
            "object": "batch",
            "status": "completed",
            "created_at": 2_000_000_000,
            "output_file_id": output,
            "error_file_id": None,
            "request_counts": {"total": len(lines), "completed": len(rows), "failed": 0},
            "errors": None,
        }
        return self.batches[job_id]


@contextmanager
def odd_host(**ways: Any) -> Iterator[OddHost]:
    """Run one on a free port."""
    with loopback() as server:
        host = OddHost(server=server, **ways)
        server.other = host
        yield host

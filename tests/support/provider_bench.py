"""Both providers' clients against a scripted server, with one vocabulary for the two protocols."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pytest_langasync.models import Credentials, JobState, JobStatus
from pytest_langasync.providers import Client, Provider, Submission
from pytest_langasync.providers.anthropic import Anthropic
from pytest_langasync.providers.http import Policy
from pytest_langasync.providers.openai import OpenAI
from support.loopback import Loopback, Say

KEY = "sk-secret-0123456789"
KINDS = ("openai", "anthropic")
COUNTS = {"processing": 0, "succeeded": 1, "errored": 0, "canceled": 0, "expired": 0}


@dataclass
class Bench:
    """One provider's client against the scripted server."""

    kind: str
    server: Loopback
    timeout: float = 5.0
    slept: list[float] = field(default_factory=list)

    @property
    def provider(self) -> Provider:
        policy = Policy(timeout=self.timeout, create_timeout=self.timeout, sleep=self.slept.append)
        return OpenAI(policy) if self.kind == "openai" else Anthropic(policy)

    def client(self, headers: dict[str, str] | None = None, base: str = "") -> Client:
        credentials = Credentials(headers or {"authorization": f"Bearer {KEY}"})
        return self.provider.client(base or f"{self.server.url}/v1", credentials, ())

    @property
    def path(self) -> str:
        return "/v1/batches" if self.kind == "openai" else "/v1/messages/batches"

    @property
    def results(self) -> str:
        return "/v1/files/file-o/content" if self.kind == "openai" else f"{self.path}/b1/results"

    @property
    def batch(self) -> dict[str, Any]:
        if self.kind == "openai":
            return {"id": "b1", "object": "batch", "status": "completed", "created_at": 1.0} | {
                "output_file_id": "file-o"
            }
        return {"id": "b1", "type": "message_batch", "processing_status": "ended"} | {
            "created_at": "1970-01-01T00:00:01Z",
            "request_counts": COUNTS,
            "results_url": f"{self.server.url}{self.results}",
        }

    @property
    def listing(self) -> dict[str, Any]:
        page = {"data": [self.batch], "has_more": False, "last_id": "b1"}
        return {"object": "list", **page} if self.kind == "openai" else page

    def row(self, custom_id: str) -> bytes:
        message = {"answer": custom_id}
        if self.kind == "openai":
            line: dict[str, Any] = {"response": {"status_code": 200, "body": message}}
        else:
            line = {"result": {"type": "succeeded", "message": message}}
        return json.dumps({"custom_id": custom_id, **line}).encode() + b"\n"

    def error(self, message: str = "no", **fields: Any) -> dict[str, Any]:
        if self.kind == "openai":
            return {
                "error": {"message": message, "type": "t", "param": None, "code": None} | fields
            }
        return {"type": "error", "error": {"type": "t", "message": message} | fields}

    def create(self) -> Any:
        self.server.on("POST /v1/files", Say({"id": "file-i"}))
        self.server.on("DELETE /v1/files/file-i", Say({"id": "file-i", "deleted": True}))
        endpoint = self.provider.dialects[0].endpoint
        lines = [("n-1", {"model": "m"})]
        return self.client().create(Submission("n", endpoint, (), lines, len(lines)))

    def rows(self, counted: int = 0) -> list[str]:
        """Return the IDs of the rows of a batch in which so many were counted."""
        ref = "file-o" if self.kind == "openai" else f"{self.server.url}{self.results}"
        status = JobStatus(JobState.ENDED, "completed", counted, counted, 0, output_refs=(ref,))
        return [row.custom_id for row in self.client().rows("b1", status)]

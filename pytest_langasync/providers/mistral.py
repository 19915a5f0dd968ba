"""Mistral's batch jobs, with their requests inline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import CreateUnknownError, JobNotFoundError
from pytest_langasync.models import (
    Credentials,
    Headers,
    JobState,
    JobStatus,
    ResultRow,
    to_json,
)
from pytest_langasync.providers.base import Created, Found, Limits, Provider, Submission
from pytest_langasync.providers.dialects import CHAT_COMPLETIONS, EMBEDDINGS
from pytest_langasync.providers.failures import retry_after
from pytest_langasync.providers.http import BatchClient, Channel, Policy, Reply, lines, segment
from pytest_langasync.providers.openai import NONCE, SUITE, to_result
from pytest_langasync.providers.wire import Lenient, Moment, Objects, Row

__all__ = ["MISTRAL", "Mistral"]

JOBS = "/batch/jobs"
ENDED = frozenset({"success", "timeout_exceeded", "cancelled"})


class Mistral(Provider):
    """The provider ``mistral``, called through its own SDK or OpenAI's."""

    name = "mistral"
    title = "Mistral"
    dialects = (CHAT_COMPLETIONS, EMBEDDINGS)
    # Inline requests are fewer than 10,000; how many bytes they may have is not published.
    limits = Limits(requests=9_999, bytes=20_000_000, one_model=True)
    hosts = ("api.mistral.ai",)
    base_url = "https://api.mistral.ai/v1"
    key_variables: Mapping[str, str] = MappingProxyType({"MISTRAL_API_KEY": "placeholder"})

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()

    def line_bytes(self, custom_id: str, body_bytes: int) -> int:
        """Return an upper bound of what a request adds to the batch, in bytes."""
        return len(to_json({"custom_id": custom_id, "body": {}})) + body_bytes + 1

    def client(
        self, base_url: str, credentials: Credentials, job_headers: Headers
    ) -> MistralClient:
        """Return a client of the batch API, made from what the intercepted call carried."""
        return MistralClient(Channel(self.title, base_url, credentials, job_headers, self.policy))


class Problem(Lenient):
    """Why requests of a job failed."""

    message: str = ""


class Batch(Lenient):
    """A job, as Mistral describes it."""

    id: str = ""
    status: str = ""
    model: str = ""
    endpoint: str = ""
    created_at: Moment = 0.0
    total_requests: int = 0
    succeeded_requests: int = 0
    failed_requests: int = 0
    output_file: str = ""
    error_file: str = ""
    outputs: Objects = Field(default_factory=list)
    errors: Objects = Field(default_factory=list)
    metadata: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def refs(self) -> tuple[str, ...]:
        """The files that hold its rows."""
        return tuple(ref for ref in (self.output_file, self.error_file) if ref)

    @property
    def state(self) -> JobState:
        """What its status word means."""
        word = self.status.lower()
        if word == "failed":
            ran = self.refs or self.outputs or self.succeeded_requests
            return JobState.ENDED if ran else JobState.REJECTED
        return JobState.ENDED if word in ENDED else JobState.RUNNING

    def to_status(self, headers: Mapping[str, str]) -> JobStatus:
        """Return the answer to a poll that came with these headers."""
        problem = Problem.model_validate(self.errors[0]) if self.errors else Problem()
        ended = self.state is JobState.ENDED
        return JobStatus(
            state=self.state,
            word=self.status.lower(),
            total=self.total_requests,
            completed=self.succeeded_requests,
            failed=self.failed_requests,
            reason=problem.message,
            retry_after=retry_after(headers),
            output_refs=self.refs,
            unready=ended
            and bool(self.succeeded_requests)
            and not (self.outputs or self.output_file),
            nonce=str(self.metadata.get(NONCE) or ""),
            suite=str(self.metadata.get(SUITE) or ""),
        )

    def to_found(self) -> Found:
        """Return it as an entry of the provider's list."""
        return Found(
            job_id=self.id,
            created_at=self.created_at,
            total=self.total_requests,
            nonce=str(self.metadata.get(NONCE) or ""),
            suite=str(self.metadata.get(SUITE) or ""),
            endpoint=self.endpoint.removeprefix("/v1"),
            model=self.model,
            running=self.state is JobState.RUNNING,
        )


class Page(Lenient):
    """A page of a list."""

    data: Objects = Field(default_factory=list)


class MistralClient(BatchClient):
    """``Client`` for one base URL and one account."""

    def create(self, submission: Submission) -> Created:
        """Create the job, once. See ``Client.create``."""
        rows = [{"custom_id": custom_id, "body": body} for custom_id, body in submission.lines]
        models = {str(body.get("model") or "") for _, body in submission.lines}
        metadata = {NONCE: submission.nonce}
        if submission.suite:
            metadata[SUITE] = submission.suite[:512]
        job = {
            "requests": rows,
            "model": next(iter(models), ""),
            "endpoint": f"/v1{submission.endpoint}",
            "timeout_hours": 24,
            "metadata": metadata,
        }
        reply = self._channel.create(
            lambda: self._channel.call(
                "POST",
                JOBS,
                content=to_json(job),
                headers={"content-type": "application/json"},
                timeout=self._channel.policy.create_timeout,
            )
        )
        made = Batch.model_validate(reply.body)
        if not made.id:
            raise CreateUnknownError("the answer to a batch creation names no batch")
        return Created(made.id, made.created_at or CLOCK.now())

    def _retrieve(self, job_id: str) -> Reply:
        path = f"{JOBS}/{segment(job_id)}"
        return self._channel.ask(
            f"polling {job_id}",
            lambda: self._channel.call("GET", path, params={"inline": "true"}),
            missing=f"Mistral does not know the batch {job_id}",
        )

    def status(self, job_id: str) -> JobStatus:
        """Poll once. Raises ``JobNotFoundError`` when Mistral does not know the job."""
        reply = self._retrieve(job_id)
        return Batch.model_validate(reply.body).to_status(reply.headers)

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield the rows of an ended job: those in it, else those in its files."""
        inside = Batch.model_validate(self._retrieve(job_id).body).outputs
        for line in inside or self._in_files(job_id, status):
            row = Row.model_validate(line)
            if row.custom_id:
                yield to_result(row)

    def _in_files(self, job_id: str, status: JobStatus) -> Iterator[Mapping[str, Any]]:
        missing = f"the results of {job_id} are no longer at Mistral"
        for ref in status.output_refs:
            yield from lines(self._channel.download(f"/files/{segment(ref)}/content", missing))

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation; a job that has already ended is no error."""
        missing = f"Mistral does not know the batch {job_id}"
        self._channel.cancel(f"{JOBS}/{segment(job_id)}/cancel", job_id, missing)

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        """Yield batches created in the second of ``since`` or later, newest first."""
        for page in range(-(-limit // 100)):
            jobs = [one for one in map(Batch.model_validate, self._list(page).data) if one.id]
            for job in jobs:
                if job.created_at + 1 > since:
                    yield job.to_found()
            if len(jobs) < 100 or jobs[-1].created_at + 1 <= since:
                return

    def _list(self, page: int) -> Page:
        query = {"page": page, "page_size": 100, "order_by": "-created"}
        reply = self._channel.ask(
            "listing batches", lambda: self._channel.call("GET", JOBS, params=query)
        )
        return Page.model_validate(reply.body)

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return the custom IDs in the results; None while the job runs, or once they are gone."""
        status = self.status(job_id)
        if status.state is JobState.RUNNING:
            return None
        try:
            return frozenset(row.custom_id for row in self.rows(job_id, status)) or None
        except JobNotFoundError:
            return None


MISTRAL = Mistral()

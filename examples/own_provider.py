"""A provider of one's own: what another package needs to add one, in its ``pyproject.toml`` too.

    [project.entry-points."pytest_langasync.providers"]
    toy = "own_provider:Toy"

The provider of this example answers ``POST /ask`` at once, and ``POST /jobs`` later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_langasync.models import Credentials, Headers, JobState, JobStatus, ResultRow
from pytest_langasync.providers import Created, Found, Limits, Provider, Submission
from pytest_langasync.providers.dialects import Dialect
from pytest_langasync.providers.http import BatchClient, Channel, Policy, segment


class Ask(Dialect):
    """The shape of its one endpoint: ``{"model", "question"}`` and ``{"answer"}``."""

    endpoint = "/ask"
    conversation = ("question",)

    def said(self, body: Mapping[str, Any]) -> str:
        """Return what an answer says, for reports."""
        return str(body.get("answer", ""))


class ToyClient(BatchClient):
    """Its batch API, for one base URL and one account."""

    def create(self, submission: Submission) -> Created:
        """Create a job, once; its name makes it possible to find it again after a crash."""
        questions = [{"id": custom_id, "body": body} for custom_id, body in submission.lines]
        job = {"name": submission.nonce, "suite": submission.suite, "questions": questions}
        made = self._channel.create(lambda: self._channel.call("POST", "/jobs", json=job)).body
        return Created(str(made["id"]), float(made["created"]))

    def _job(self, job_id: str) -> Mapping[str, Any]:
        path, missing = f"/jobs/{segment(job_id)}", f"Toy does not know the job {job_id}"
        asked = self._channel.ask(
            f"polling {job_id}", lambda: self._channel.call("GET", path), missing=missing
        )
        return asked.body

    def status(self, job_id: str) -> JobStatus:
        """Poll once."""
        job = self._job(job_id)
        state = JobState.ENDED if job["done"] else JobState.RUNNING
        return JobStatus(state, "done" if job["done"] else "working", total=job["count"])

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield what came back."""
        for answer in self._job(job_id)["answers"]:
            came = Toy.dialects[0].outcome(answer["status"], answer["body"])
            yield ResultRow(answer["id"], came.status, came.body, retryable=came.retryable)

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation."""
        path = f"/jobs/{segment(job_id)}"
        self._channel.ask("cancelling", lambda: self._channel.call("DELETE", path))

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        """Yield the jobs since then, newest first."""
        jobs = self._channel.ask("listing jobs", lambda: self._channel.call("GET", "/jobs")).body
        for job in jobs["jobs"][:limit]:
            if job["created"] >= since:
                facts = (job["id"], job["created"], job["count"], job["name"], job["suite"])
                yield Found(*facts, endpoint="/ask", running=not job["done"])


class Toy(Provider):
    """The provider."""

    name = "toy"
    title = "Toy"
    dialects = (Ask(),)
    limits = Limits(requests=1_000, bytes=1_000_000, one_model=False)
    hosts = ("api.toy.example",)
    spoken_elsewhere = True
    job_id_prefix = "toy_"

    def client(self, base_url: str, credentials: Credentials, job_headers: Headers) -> ToyClient:
        """Return a client of its batch API."""
        return ToyClient(Channel(self.title, base_url, credentials, job_headers, Policy()))

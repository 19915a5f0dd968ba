"""Gemini's batches: jobs with their requests inline, whose answers stand in the job itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import CreateUnknownError
from pytest_langasync.models import (
    Credentials,
    Headers,
    JobState,
    JobStatus,
    Request,
    ResultRow,
    to_json,
)
from pytest_langasync.providers.base import Created, Found, Limits, Provider, Submission
from pytest_langasync.providers.dialects import GENERATE_CONTENT
from pytest_langasync.providers.dialects.generate_content import CALL, status_of
from pytest_langasync.providers.failures import Failure, retry_after
from pytest_langasync.providers.http import BatchClient, Channel, Policy, Reply, segment
from pytest_langasync.providers.wire import Lenient, Moment, Objects

__all__ = ["GOOGLE", "Google"]

NAMED = "langasync"
"""How the display names of our jobs begin; the submission and the suite follow."""


class Google(Provider):
    """The provider ``google``: the Gemini API, not Vertex AI."""

    name = "google"
    title = "Gemini"
    dialects = (GENERATE_CONTENT,)
    # Inline requests may have 20 MB together; a file could have more, in a form that reports
    # contradict each other about.
    limits = Limits(requests=10_000, bytes=19_000_000, one_model=True)
    hosts = ("generativelanguage.googleapis.com",)
    base_url = "https://generativelanguage.googleapis.com/v1beta"
    base_url_variables = ("GOOGLE_GEMINI_BASE_URL",)
    key_variables: Mapping[str, str] = MappingProxyType(
        {"GEMINI_API_KEY": "placeholder", "GOOGLE_API_KEY": "placeholder"}
    )
    account_headers = frozenset({"authorization", "x-goog-api-key", "x-goog-user-project"})
    # What kind of stream it is says the path, too.
    empty_query = frozenset({("alt", "sse"), ("alt", "json")})
    query_keys: Mapping[str, str] = MappingProxyType({"key": "x-goog-api-key"})
    job_id_prefix = "batches/"
    free = (":countTokens",)

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()

    def key_headers(self, key: str) -> Mapping[str, str]:
        """Return the headers by which this key lets a request in."""
        return {"x-goog-api-key": key}

    def lacks_key(self, error: BaseException) -> bool:
        """Return whether this is the SDK's complaint that it was given no key."""
        return isinstance(error, ValueError) and "api_key" in str(error) and "key" in str(error)

    def usual_base_url(self) -> str:
        """Return where its SDK, which adds the version itself, sends to in this environment."""
        url = super().usual_base_url().rstrip("/")
        return url if url.rpartition("/")[2].startswith("v1") else f"{url}/v1beta"

    def rejected(self, request: Request) -> str:
        """Return why this request can never be batched, or an empty string."""
        for name in ("generationConfig", "generation_config"):
            config = request.body.get(name)
            if isinstance(config, Mapping) and {"responseJsonSchema", "response_json_schema"} & (
                config.keys()
            ):
                # Of 502 answers in a batch none fitted such a schema, and no error told of it.
                return "Gemini ignores responseJsonSchema inside a batch"
        return ""

    def in_flex(self, request: Request) -> Mapping[str, Any] | None:
        """See ``Provider``. A tier that the request itself names stays."""
        if {"serviceTier", "service_tier"} & request.body.keys():
            return None
        return {**request.body, "serviceTier": "flex"}

    def refuses_flex(self, status: int, body: Any) -> bool:
        """See ``Provider``."""
        said = str(GENERATE_CONTENT.error_of(body).get("message") or "")
        words = said.lower().replace("_", " ").replace("servicetier", "service tier")
        return status == 400 and ("service tier" in words or "flex" in words)

    def line_bytes(self, custom_id: str, body_bytes: int) -> int:
        """Return an upper bound of what a request adds to the batch, in bytes."""
        return len(to_json(_line(custom_id, {}))) + body_bytes + 1

    def client(self, base_url: str, credentials: Credentials, job_headers: Headers) -> GoogleClient:
        """Return a client of the batch API, made from what the intercepted call carried."""
        return GoogleClient(Channel(self.title, base_url, credentials, job_headers, self.policy))


class Stats(Lenient):
    """The counters of a job: texts, and absent where they are zero."""

    requestCount: int = 0  # noqa: N815
    successfulRequestCount: int = 0  # noqa: N815
    failedRequestCount: int = 0  # noqa: N815


class Rows(Lenient):
    """A list in a list: the rows of a job."""

    inlinedResponses: Objects = Field(default_factory=list)  # noqa: N815


class Output(Lenient):
    """Where the rows of a job stand."""

    inlinedResponses: Rows = Rows()  # noqa: N815


class Metadata(Lenient):
    """What is told of a job."""

    state: str = ""
    model: str = ""
    displayName: str = ""  # noqa: N815
    createTime: Moment = 0.0  # noqa: N815
    batchStats: Stats = Stats()  # noqa: N815
    output: Output = Output()


class Problem(Lenient):
    """Why a job, or a request in it, failed."""

    code: int = 13
    message: str = ""


class Operation(Lenient):
    """A job, as the service tells of it."""

    name: str = ""
    done: bool = False
    metadata: Metadata = Metadata()
    response: Output = Output()
    error: Problem | None = None

    @property
    def word(self) -> str:
        """The state in lower case, without its prefix."""
        return self.metadata.state.removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_").lower()

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The rows, which stand at two places."""
        here = self.response.inlinedResponses.inlinedResponses
        return here or self.metadata.output.inlinedResponses.inlinedResponses

    @property
    def named(self) -> tuple[str, str]:
        """The submission and the suite, where it is ours."""
        mark, _, rest = self.metadata.displayName.partition("-")
        nonce, _, suite = rest.partition("-")
        return (nonce, suite) if mark == NAMED else ("", "")

    @property
    def state(self) -> JobState:
        """What its state means."""
        if self.word in ("succeeded", "cancelled", "expired"):
            return JobState.ENDED
        if self.word == "failed" or (self.done and self.error is not None):
            return JobState.ENDED if self.rows else JobState.REJECTED
        return JobState.ENDED if self.done else JobState.RUNNING

    def to_status(self, headers: Mapping[str, str]) -> JobStatus:
        """Return the answer to a poll that came with these headers."""
        stats, (nonce, suite) = self.metadata.batchStats, self.named
        problem = self.error or Problem()
        return JobStatus(
            state=self.state,
            word=self.word,
            total=stats.requestCount,
            completed=stats.successfulRequestCount,
            failed=stats.failedRequestCount,
            reason=problem.message,
            reason_code="" if self.error is None else _code(problem.code),
            retry_after=retry_after(headers),
            # The end is told before the answers are there.
            unready=self.word == "succeeded" and not self.rows,
            nonce=nonce,
            suite=suite,
        )

    def to_found(self) -> Found:
        """Return it as an entry of the service's list."""
        nonce, suite = self.named
        return Found(
            job_id=self.name,
            created_at=self.metadata.createTime,
            total=self.metadata.batchStats.requestCount,
            nonce=nonce,
            suite=suite,
            endpoint=f"/{self.metadata.model}{CALL}",
            model=self.metadata.model.rpartition("/")[2],
            running=self.state is JobState.RUNNING,
        )


class Page(Lenient):
    """A page of a list."""

    operations: Objects = Field(default_factory=list)
    nextPageToken: str = ""  # noqa: N815


class Mark(Lenient):
    """What comes back with a row as it was sent."""

    key: str = ""


class Row(Lenient):
    """What became of a request."""

    metadata: Mark = Mark()
    response: Mapping[str, Any] | None = None
    error: Any = None
    status: Any = None


class GoogleClient(BatchClient):
    """``Client`` for one base URL and one account."""

    def create(self, submission: Submission) -> Created:
        """Create the job, once. See ``Client.create``."""
        named = f"{NAMED}-{submission.nonce}-{submission.suite}"
        rows = [_line(custom_id, body) for custom_id, body in submission.lines]
        batch = {"displayName": named, "inputConfig": {"requests": {"requests": rows}}}
        path = f"{submission.endpoint.removesuffix(CALL)}:batchGenerateContent"
        reply = self._channel.create(
            lambda: self._channel.call(
                "POST",
                path,
                content=to_json({"batch": batch}),
                headers={"content-type": "application/json"},
                timeout=self._channel.policy.create_timeout,
            )
        )
        job = Operation.model_validate(reply.body)
        if not job.name:
            raise CreateUnknownError("the answer to a batch creation names no batch")
        return Created(job.name, job.metadata.createTime or CLOCK.now())

    def _retrieve(self, job_id: str) -> Reply:
        return self._channel.ask(
            f"polling {job_id}",
            lambda: self._channel.call("GET", _path(job_id)),
            missing=f"Gemini does not know the batch {job_id}",
        )

    def status(self, job_id: str) -> JobStatus:
        """Poll once. Raises ``JobNotFoundError`` when Gemini does not know the job."""
        reply = self._retrieve(job_id)
        return Operation.model_validate(reply.body).to_status(reply.headers)

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield the rows of an ended job."""
        for one in Operation.model_validate(self._retrieve(job_id).body).rows:
            row = Row.model_validate(one)
            if row.metadata.key:
                yield _to_result(row)

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation; a job that has already ended is no error."""
        missing = f"Gemini does not know the batch {job_id}"
        self._channel.cancel(f"{_path(job_id)}:cancel", job_id, missing)

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        """Yield batches created in the second of ``since`` or later, as the list has them."""
        seen, token = 0, ""
        while seen < limit:
            query = {"pageSize": min(100, limit - seen), **({"pageToken": token} if token else {})}
            page = self._list(query)
            jobs = [job for job in map(Operation.model_validate, page.operations) if job.name]
            for job in jobs:
                if job.metadata.createTime + 1 > since:
                    yield job.to_found()
            seen, token = seen + len(jobs), page.nextPageToken
            if not jobs or not token:
                return

    def _list(self, query: Mapping[str, Any]) -> Page:
        reply = self._channel.ask(
            "listing batches", lambda: self._channel.call("GET", "/batches", params=query)
        )
        return Page.model_validate(reply.body)

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return the custom IDs in the results; None while the job runs."""
        job = Operation.model_validate(self._retrieve(job_id).body)
        if job.state is JobState.RUNNING or not job.rows:
            return None
        keys = (Row.model_validate(one).metadata.key for one in job.rows)
        return frozenset(key for key in keys if key)

    def has_batch_api(self) -> bool:
        """Return whether this base URL lists batches as Gemini does, or asks for a key first.

        Raises:
            ProviderError: the server could not be reached, or is in trouble.
        """
        came = self._channel.look("/batches")
        if isinstance(came, Failure):
            return came.status in (401, 403) and {"code", "message", "status"} <= came.error.keys()
        return came.keys() <= {"operations", "nextPageToken"}  # an empty list is left out


def _code(code: int) -> str:
    status = status_of(code)
    return "rate_limit_exceeded" if status == 429 else "server_error" if status >= 500 else ""


def _path(job_id: str) -> str:
    return f"/batches/{segment(job_id.removeprefix('batches/'))}"


def _line(custom_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"request": body, "metadata": {"key": custom_id}}


def _to_result(row: Row) -> ResultRow:
    custom_id, wrong = row.metadata.key, row.error or row.status
    if row.response is not None and not wrong:
        came = GENERATE_CONTENT.outcome(200, dict(row.response))
        return ResultRow(custom_id, 200, came.body, "", came.retryable, came.failed)
    problem = Problem.model_validate(wrong) if isinstance(wrong, Mapping) else Problem()
    text = problem.message or str(wrong or "The batch returned no response for this request.")
    status = status_of(problem.code)
    came = GENERATE_CONTENT.outcome(status, GENERATE_CONTENT.error_body(status, text))
    return ResultRow(custom_id, status, came.body, retryable=came.retryable)


GOOGLE = Google()

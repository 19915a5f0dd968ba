"""OpenAI's batch API, and that of everyone who speaks it: Files and Batches."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import IO, Any

from pydantic import Field

from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import (
    CapacityError,
    ConfigurationError,
    CreateUnknownError,
    JobNotFoundError,
    LangasyncError,
    NoBatchApiError,
)
from pytest_langasync.models import (
    Credentials,
    Headers,
    JobState,
    JobStatus,
    Request,
    ResultRow,
    is_success,
    to_json,
)
from pytest_langasync.providers.base import (
    Created,
    Found,
    Limits,
    Provider,
    Submission,
    telling_headers,
)
from pytest_langasync.providers.dialects import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES, Dialect
from pytest_langasync.providers.failures import Failure, retry_after
from pytest_langasync.providers.http import (
    BatchClient,
    Channel,
    Policy,
    Reply,
    lines,
    segment,
)
from pytest_langasync.providers.wire import Lenient, Moment, Objects, Row

__all__ = ["OPENAI", "Batch", "FilesAndBatches", "OpenAI", "OpenAIClient"]

FLEX = ("/chat/completions", "/responses")
"""Endpoints with a flex tier."""
NONCE = "langasync_nonce"
SUITE = "langasync_suite"
REGIONS = ("", "us.", "eu.", "ae.", "au.", "in.", "jp.")
ENDED = frozenset({"completed", "expired", "cancelled", "canceled"})
RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling", "canceling"})
STATUS_OF_CODE = {"batch_expired": 504, "batch_cancelled": 503, "request_timeout": 504}
"""Statuses for requests that never got one: the SDK raises ``InternalServerError`` for them."""


class Counts(Lenient):
    """The counters of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Problem(Lenient):
    """Why a batch was refused."""

    code: str = ""
    message: str = ""
    line: int | None = None


class Batch(Lenient):
    """A batch, as OpenAI describes it."""

    id: str = ""
    object: str = ""
    status: str = ""
    endpoint: str = ""
    model: str = ""
    input_file_id: str = ""
    output_file_id: str = ""
    error_file_id: str = ""
    created_at: Moment = 0.0
    completed_at: Moment = 0.0
    failed_at: Moment = 0.0
    expired_at: Moment = 0.0
    cancelled_at: Moment = 0.0
    request_counts: Counts = Counts()
    errors: Any = None
    metadata: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def word(self) -> str:
        """The status in lower case."""
        return self.status.lower()

    @property
    def nonce(self) -> str:
        """The submission that it is, where it is ours."""
        return str(self.metadata.get(NONCE) or "")

    @property
    def suite(self) -> str:
        """The suite that submitted it, where it is ours."""
        return str(self.metadata.get(SUITE) or "")

    @property
    def refs(self) -> tuple[str, ...]:
        """The files that hold its rows."""
        return tuple(ref for ref in (self.output_file_id, self.error_file_id) if ref)

    @property
    def state(self) -> JobState:
        """What its status word means; that of an unknown one shows in the times."""
        counts, word = self.request_counts, self.word
        if word == "failed":
            ran = self.refs or counts.completed or counts.failed
            return JobState.ENDED if ran else JobState.REJECTED
        times = (self.completed_at, self.failed_at, self.expired_at, self.cancelled_at)
        if word in ENDED or (word not in RUNNING and any(times)):
            return JobState.ENDED
        return JobState.RUNNING

    @property
    def problem(self) -> Problem:
        """The first entry of its errors."""
        errors = self.errors.get("data") if isinstance(self.errors, Mapping) else self.errors
        first = errors[0] if isinstance(errors, list) and errors else None
        return Problem.model_validate(first) if isinstance(first, Mapping) else Problem()

    def to_status(self, headers: Mapping[str, str]) -> JobStatus:
        """Return the answer to a poll that came with these headers."""
        counts, problem = self.request_counts, self.problem
        where = "" if problem.line is None else f" (line {problem.line})"
        # The end may be told before the file's ID is: what was answered is not among the errors.
        told = self.output_file_id or (self.error_file_id and not counts.completed)
        ran = counts.completed or (counts.failed and self.word == "completed")
        return JobStatus(
            state=self.state,
            word=self.word,
            total=counts.total,
            completed=counts.completed,
            failed=counts.failed,
            reason=f"{problem.message}{where}" if problem.message else "",
            reason_code=problem.code,
            retry_after=retry_after(headers),
            output_refs=self.refs,
            unready=self.word in ENDED and bool(ran) and not told,
            input_ref=self.input_file_id,
            nonce=self.nonce,
            suite=self.suite,
        )

    def to_found(self) -> Found:
        """Return it as an entry of the provider's list."""
        return Found(
            job_id=self.id,
            created_at=self.created_at,
            total=self.request_counts.total,
            nonce=self.nonce,
            suite=self.suite,
            endpoint=self.endpoint.removeprefix("/v1"),
            model=self.model,
            input_ref=self.input_file_id,
            running=self.state is JobState.RUNNING,
        )


class Page(Lenient):
    """A page of a list."""

    object: str = ""
    data: Objects = Field(default_factory=list)
    has_more: bool = False


class FilesAndBatches(Provider):
    """Whoever speaks OpenAI's Files and Batches; ``policy`` sets its clients' time-outs and
    retries."""

    sdk_error = ""
    """The class of its SDK's complaints."""
    job_id_prefix = "batch_"

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()

    def lacks_key(self, error: BaseException) -> bool:
        """Return whether this is the SDK's complaint that it was given no key."""
        names = "|".join(self.key_variables)
        ours = type(error).__name__ == self.sdk_error
        return ours and re.search(rf"\b({names})\b", str(error)) is not None

    def line_bytes(self, custom_id: str, body_bytes: int) -> int:
        """Return an upper bound of what a request adds to the input file, in bytes."""
        longest = max((dialect.endpoint for dialect in self.dialects), key=len)
        return len(_line(custom_id, longest, {})) + body_bytes

    def client(self, base_url: str, credentials: Credentials, job_headers: Headers) -> OpenAIClient:
        """Return a client of the batch API, made from what the intercepted call carried."""
        return OpenAIClient(base_url, credentials, job_headers, self.policy, self.title)


class OpenAI(FilesAndBatches):
    """The provider ``openai``."""

    name = "openai"
    title = "OpenAI"
    dialects = (CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS)
    # The published 200 MB, read as decimal: the server's own figure is 4.8 % above.
    limits = Limits(requests=50_000, bytes=200_000_000, one_model=True)
    hosts = tuple(f"{region}api.openai.com" for region in REGIONS)
    spoken_elsewhere = True
    base_url = "https://api.openai.com/v1"
    base_url_variables = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
    key_variables: Mapping[str, str] = MappingProxyType({"OPENAI_API_KEY": "sk-placeholder"})
    account_headers = frozenset(
        {"authorization", "api-key", "openai-organization", "openai-project"}
    )
    job_headers = ("openai-beta",)
    sdk_error = "OpenAIError"
    halves_batches = True
    free = ("/moderations",)

    def in_flex(self, request: Request) -> Mapping[str, Any] | None:
        """See ``Provider``. A tier that the request itself names stays."""
        if request.target.endpoint not in FLEX or "service_tier" in request.body:
            return None
        return {**request.body, "service_tier": "flex"}

    def refuses_flex(self, status: int, body: Any) -> bool:
        """See ``Provider``."""
        error = body.get("error") if isinstance(body, Mapping) else None
        if status != 400 or not isinstance(error, Mapping):
            return False
        said = f"{error.get('param')} {error.get('message')}".lower().replace("_", " ")
        return "service tier" in said

    def rejected(self, request: Request) -> str:
        """Return why this request can never be batched, or an empty string."""
        if request.body.get("background") is True:
            # The test goes on to poll for the response, which only the real-time API has.
            return "a background response cannot be batched"
        if request.body.get("conversation"):
            # Each call adds to it, and a batch has no order.
            return "it goes on in a conversation that the provider keeps"
        return ""


class OpenAIClient(BatchClient):
    """``Client`` for one base URL and one account."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        job_headers: Headers,
        policy: Policy,
        title: str = "OpenAI",
    ) -> None:
        self._title = title
        super().__init__(Channel(title, base_url, credentials, job_headers, policy))

    def create(self, submission: Submission) -> Created:
        """Upload the lines and create the batch, once. See ``Client.create``."""
        file_id = self._upload(submission)
        metadata = {NONCE: submission.nonce}
        if submission.suite:
            metadata[SUITE] = submission.suite[:512]
        asked = {
            "input_file_id": file_id,
            "endpoint": _endpoint(submission.endpoint),
            "completion_window": "24h",
            "metadata": metadata,
        }
        timeout = self._channel.policy.create_timeout
        try:
            reply = self._channel.create(
                lambda: self._channel.call("POST", "/batches", json=asked, timeout=timeout),
                again=_upload_not_seen_yet,
            )
        except (CapacityError, ConfigurationError):
            with contextlib.suppress(LangasyncError):
                self.delete_files([file_id])
            raise
        batch = Batch.model_validate(reply.body)
        if not batch.id:
            raise CreateUnknownError("the answer to a batch creation names no batch")
        return Created(batch.id, batch.created_at or CLOCK.now(), file_id)

    def _upload(self, submission: Submission) -> str:
        with io.BytesIO() if submission.secret else tempfile.TemporaryFile() as file:
            for custom_id, body in submission.lines:
                file.write(_line(custom_id, submission.endpoint, body))

            def act() -> Reply:
                file.seek(0)
                name = f"langasync-{submission.nonce}.jsonl"
                return self._channel.call(
                    "POST",
                    "/files",
                    data={"purpose": "batch"},
                    files={"file": (name, file, "application/octet-stream")},
                    timeout=self._channel.policy.create_timeout,
                )

            reply = self._channel.ask("uploading a batch", act)
        file_id = Batch.model_validate(reply.body).id
        if not file_id:
            raise NoBatchApiError("no batch API at this base URL: an upload got no file ID")
        return file_id

    def status(self, job_id: str) -> JobStatus:
        """Poll once. Raises ``JobNotFoundError`` when OpenAI does not know the job."""
        reply = self._retrieve(job_id)
        return Batch.model_validate(reply.body).to_status(reply.headers)

    def _retrieve(self, job_id: str) -> Reply:
        path = f"/batches/{segment(job_id)}"
        return self._channel.ask(
            f"polling {job_id}",
            lambda: self._channel.call("GET", path),
            missing=f"{self._title} does not know the batch {job_id}",
        )

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield the rows of the output file, then of the error file.

        Raises:
            JobNotFoundError: a file is gone; the rows of the other were yielded first.
        """
        gone: JobNotFoundError | None = None
        missing = f"the results of {job_id} are no longer at {self._title}"
        counts = (status.completed, status.failed)
        # The counters of one that was stopped half-way are known not to add up.
        told = len(status.output_refs) == sum(map(bool, counts)) and status.word == "completed"
        rows = [count for count in counts if count] if told else [0] * len(status.output_refs)
        for ref, least in zip(status.output_refs, rows, strict=True):
            try:
                file = self._content(ref, missing, least)
            except JobNotFoundError as error:
                gone = error
                continue
            for line in lines(file):
                row = Row.model_validate(line)
                if row.custom_id:
                    yield to_result(row)
        if gone is not None:
            raise gone

    def _content(self, file_id: str, missing: str, rows: int = 0) -> IO[bytes]:
        return self._channel.download(f"/files/{segment(file_id)}/content", missing, rows)

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation; a job that has already ended is no error."""
        missing = f"{self._title} does not know the batch {job_id}"
        self._channel.cancel(f"/batches/{segment(job_id)}/cancel", job_id, missing)

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        """Yield batches created in the second of ``since`` or later, newest first.

        At most ``limit`` batches are looked at.
        """
        after: dict[str, Any] = {}
        seen = 0
        while seen < limit:
            page = self._list(min(100, limit - seen), after)
            batches = [one for one in map(Batch.model_validate, page.data) if one.id]
            ahead = self.clock_ahead
            for batch in batches:
                if batch.created_at + ahead + 1 > since:
                    yield replace(batch.to_found(), created_at=batch.created_at + ahead)
            seen += len(batches)
            if not batches or not page.has_more or _all_before(batches, since - ahead):
                return
            after = {"after": batches[-1].id}

    @property
    def clock_ahead(self) -> float:
        """Seconds by which this machine's clock is ahead of OpenAI's, as far as is known."""
        return self._channel.clock_ahead

    def _list(self, limit: int, after: dict[str, Any]) -> Page:
        query = {"limit": limit, **after}
        reply = self._channel.ask(
            "listing batches", lambda: self._channel.call("GET", "/batches", params=query)
        )
        return Page.model_validate(reply.body)

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return the custom IDs in the input file, or None once that file is deleted."""
        file_id = Batch.model_validate(self._retrieve(job_id).body).input_file_id
        if not file_id:
            return None
        try:
            file = self._content(file_id, "gone")
        except JobNotFoundError:
            return None
        rows = (Row.model_validate(line) for line in lines(file))
        return frozenset(row.custom_id for row in rows if row.custom_id)

    def has_batch_api(self) -> bool:
        """Return whether this base URL lists batches as OpenAI does, or asks for a key first.

        Raises:
            ProviderError: the server could not be reached, or is in trouble.
        """
        came = self._channel.look("/batches")
        if isinstance(came, Failure):
            asks_for_key = {"message", "type", "code"} <= came.error.keys()
            return came.status in (401, 403) and asks_for_key
        page = Page.model_validate(came)
        whole = isinstance(given := came.get("data"), list) and len(given) == len(page.data)
        return (
            page.object == "list" and whole and all(b.get("object") == "batch" for b in page.data)
        )

    def delete_files(self, refs: Iterable[str]) -> None:
        """Delete input and output files that are no longer needed; a missing one is no error."""
        for ref in refs:
            with contextlib.suppress(JobNotFoundError):
                self._delete(f"/files/{segment(ref)}")

    def _delete(self, path: str) -> None:
        self._channel.ask(
            "deleting a file", lambda: self._channel.call("DELETE", path), missing="gone"
        )


def _endpoint(endpoint: str) -> str:
    return f"/v1{endpoint}"


def _line(custom_id: str, endpoint: str, body: Mapping[str, Any]) -> bytes:
    envelope = {"custom_id": custom_id, "method": "POST", "url": _endpoint(endpoint), "body": body}
    return to_json(envelope) + b"\n"


def _upload_not_seen_yet(failure: Failure) -> bool:
    return failure.status in (400, 404) and "cannot find file" in failure.message.lower()


def _all_before(batches: list[Batch], since: float) -> bool:
    """Whether a list that runs from new to old has passed ``since``; OpenAI promises no order."""
    times = [batch.created_at for batch in batches]
    return times[-1] + 1 <= since and times[-1] <= times[0]


def to_result(row: Row, dialect: Dialect = RESPONSES) -> ResultRow:
    """Return what a row amounts to.

    ``dialect`` may be any of OpenAI's: how an answer hides a failure is told by its body.
    """
    response = row.response
    if response is None or not 200 <= response.status_code < 600:
        return unanswered(row, response.request_id if response else "")
    came = dialect.outcome(response.status_code, response.body)
    if is_success(came.status) and not isinstance(came.body, dict):
        return unanswered(row, response.request_id)
    return ResultRow(
        row.custom_id,
        came.status,
        came.body,
        response.request_id,
        came.retryable,
        came.failed and is_success(came.status),
        telling_headers(response.headers),
    )


def unanswered(row: Row, request_id: str = "") -> ResultRow:
    """A request that has no HTTP answer: expired, cancelled, or lost inside the provider."""
    error = row.error if isinstance(row.error, dict) else {"message": row.error}
    code = str(error.get("code") or "no_response")
    message = str(error.get("message") or "The batch returned no response for this request.")
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    status = STATUS_OF_CODE.get(code, 500)
    return ResultRow(row.custom_id, status, body, request_id, retryable=True)


OPENAI = OpenAI()

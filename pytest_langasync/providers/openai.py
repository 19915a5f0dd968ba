"""OpenAI's batch API, and that of everyone who speaks it: Files and Batches."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import IO, Any

from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import (
    CapacityError,
    ConfigurationError,
    CreateUnknownError,
    JobNotFoundError,
    LangasyncError,
)
from pytest_langasync.models import Credentials, Headers, JobState, JobStatus, Request, ResultRow
from pytest_langasync.providers.base import Created, Found, Limits, Provider, Submission
from pytest_langasync.providers.dialects import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES
from pytest_langasync.providers.failures import Failure, is_out_of_money, retry_after
from pytest_langasync.providers.http import (
    PLACEHOLDER_KEY,
    Channel,
    Policy,
    Reply,
    dumps,
    lines,
    safe_id,
)

__all__ = ["OPENAI", "OpenAI"]

NONCE = "langasync_nonce"
SUITE = "langasync_suite"
REGIONS = ("", "us.", "eu.", "ae.", "au.", "in.", "jp.")
ENDED = frozenset({"completed", "expired", "cancelled", "canceled"})
RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling", "canceling"})
END_TIMES = ("completed_at", "failed_at", "expired_at", "cancelled_at")
STATUS_OF_CODE = {"batch_expired": 504, "batch_cancelled": 503, "request_timeout": 504}
"""Statuses for requests that never got one: the SDK raises ``InternalServerError`` for them."""


class OpenAI(Provider):
    """The provider ``openai``; ``policy`` sets its clients' time-outs and retries."""

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
    job_id_prefix = "batch_"

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()

    def lacks_key(self, error: BaseException) -> bool:
        """Return whether this is the SDK's complaint that it was given no key."""
        ours = type(error).__name__ == "OpenAIError"
        return ours and re.search(r"\bOPENAI_API_KEY\b", str(error)) is not None

    def rejected(self, request: Request) -> str:
        """Return why this request can never be batched, or an empty string."""
        if request.body.get("background") is True:
            # The test goes on to poll for the response, which only the real-time API has.
            return "a background response cannot be batched"
        return ""

    def line_bytes(self, custom_id: str, body_bytes: int) -> int:
        """Return an upper bound of what a request adds to the input file, in bytes."""
        longest = max((dialect.endpoint for dialect in self.dialects), key=len)
        return len(_line(custom_id, longest, {})) + body_bytes

    def client(self, base_url: str, credentials: Credentials, job_headers: Headers) -> OpenAIClient:
        """Return a client of the batch API, made from what the intercepted call carried."""
        return OpenAIClient(base_url, credentials, job_headers, self.policy)


class OpenAIClient:
    """``Client`` for one base URL and one account."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        job_headers: Headers,
        policy: Policy,
    ) -> None:
        import openai

        self._channel = Channel(openai, "OpenAI", base_url, credentials, job_headers, policy)
        self._sdk = openai.OpenAI(
            api_key=PLACEHOLDER_KEY,
            base_url=self._channel.base_url,
            http_client=self._channel.http,
            max_retries=0,
            timeout=policy.timeout,
        )
        self._files = self._sdk.files.with_raw_response
        self._batches = self._sdk.batches.with_raw_response

    def create(self, submission: Submission) -> Created:
        """Upload the lines and create the batch, once. See ``Client.create``."""
        file_id = self._upload(submission)
        metadata = {NONCE: submission.nonce}
        if submission.suite:
            metadata[SUITE] = submission.suite[:512]
        try:
            reply = self._channel.create(
                lambda: self._batches.create(
                    input_file_id=file_id,
                    endpoint=_endpoint(submission.endpoint),
                    completion_window="24h",
                    metadata=metadata,
                    timeout=self._channel.policy.create_timeout,
                ),
                again=_upload_not_seen_yet,
            )
        except (CapacityError, ConfigurationError):
            with contextlib.suppress(LangasyncError):
                self.delete_files([file_id])
            raise
        job_id = reply.body.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise CreateUnknownError("the answer to a batch creation names no batch")
        return Created(job_id, _number(reply.body.get("created_at")) or CLOCK.now(), file_id)

    def _upload(self, submission: Submission) -> str:
        with tempfile.TemporaryFile() as file:
            for custom_id, body in submission.lines:
                file.write(_line(custom_id, submission.endpoint, body))

            def act() -> Any:
                file.seek(0)
                return self._files.create(
                    file=(f"langasync-{submission.nonce}.jsonl", file),
                    purpose="batch",
                    timeout=self._channel.policy.create_timeout,
                )

            reply = self._channel.ask("uploading a batch", act)
        file_id = reply.body.get("id")
        if not isinstance(file_id, str) or not file_id:
            raise ConfigurationError("no batch API at this base URL: an upload got no file ID")
        return safe_id(file_id)

    def status(self, job_id: str) -> JobStatus:
        """Poll once. Raises ``JobNotFoundError`` when OpenAI does not know the job."""
        reply = self._retrieve(job_id)
        return _job_status(reply)

    def _retrieve(self, job_id: str) -> Reply:
        return self._channel.ask(
            f"polling {safe_id(job_id)}",
            lambda: self._batches.retrieve(job_id),
            missing=f"OpenAI does not know the batch {job_id}",
        )

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield the rows of the output file, then of the error file.

        Raises:
            JobNotFoundError: a file is gone; the rows of the other were yielded first.
        """
        gone: JobNotFoundError | None = None
        missing = f"the results of {job_id} are no longer at OpenAI"
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
                if isinstance(line.get("custom_id"), str):
                    yield _row(line)
        if gone is not None:
            raise gone

    def _content(self, file_id: str, missing: str, rows: int = 0) -> IO[bytes]:
        url = f"{self._channel.base_url}/files/{safe_id(file_id)}/content"
        return self._channel.download(url, missing, rows)

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation; a job that has already ended is no error."""
        missing = f"OpenAI does not know the batch {safe_id(job_id)}"
        try:
            self._channel.attempt(
                lambda: self._batches.cancel(job_id),
                lambda failure: failure.transient and failure.status != 409,
            )
        except Failure as failure:
            if failure.status not in (400, 409):
                raise self._channel.explain(failure, f"cancelling {job_id}", missing) from None

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        """Yield batches created in the second of ``since`` or later, newest first.

        At most ``limit`` batches are looked at.
        """
        after: dict[str, Any] = {}
        seen = 0
        while seen < limit:
            page = min(100, limit - seen)
            body = self._list(page, after)
            data = [b for b in _list_of(body.get("data")) if isinstance(b.get("id"), str)]
            for batch in data:
                if (_number(batch.get("created_at")) or 0.0) + 1 > since:
                    yield _found(batch)
            seen += len(data)
            if not data or not body.get("has_more") or _all_before(data, since):
                return
            after = {"after": data[-1]["id"]}

    def _list(self, limit: int, after: dict[str, Any]) -> Mapping[str, Any]:
        return self._channel.ask(
            "listing batches", lambda: self._batches.list(limit=limit, **after)
        ).body

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return the custom IDs in the input file, or None once that file is deleted."""
        file_id = self._retrieve(job_id).body.get("input_file_id")
        if not isinstance(file_id, str) or not file_id:
            return None
        try:
            file = self._content(file_id, "gone")
        except JobNotFoundError:
            return None
        ids = (line.get("custom_id") for line in lines(file))
        return frozenset(custom_id for custom_id in ids if isinstance(custom_id, str))

    def has_batch_api(self) -> bool:
        """Return whether this base URL lists batches as OpenAI does, or asks for a key first.

        Raises:
            ProviderError: the server could not be reached, or is in trouble.
        """
        try:
            body = self._channel.attempt(lambda: self._batches.list(limit=1)).body
        except Failure as failure:
            if failure.status in (401, 403):
                return {"message", "type", "code"} <= failure.error.keys()
            if failure.status in (0, 408, 409, 429) or failure.status in (500, 502, 503, 504):
                raise self._channel.explain(failure, "listing batches") from None
            return False
        data = body.get("data")
        return (
            body.get("object") == "list"
            and isinstance(data, list)
            and all(isinstance(b, dict) and b.get("object") == "batch" for b in data)
        )

    def delete_files(self, refs: Iterable[str]) -> None:
        """Delete input and output files that are no longer needed; a missing one is no error."""
        for ref in refs:
            with contextlib.suppress(JobNotFoundError):
                self._delete(safe_id(ref))

    def _delete(self, file_id: str) -> None:
        self._channel.ask("deleting a file", lambda: self._files.delete(file_id), missing="gone")

    def close(self) -> None:
        """Close connections."""
        self._sdk.close()


def _endpoint(endpoint: str) -> Any:
    return f"/v1{endpoint}"


def _line(custom_id: str, endpoint: str, body: Mapping[str, Any]) -> bytes:
    envelope = {"custom_id": custom_id, "method": "POST", "url": _endpoint(endpoint), "body": body}
    return dumps(envelope) + b"\n"


def _upload_not_seen_yet(failure: Failure) -> bool:
    return failure.status in (400, 404) and "cannot find file" in failure.message.lower()


def _word(batch: Mapping[str, Any]) -> str:
    return str(batch.get("status") or "").lower()


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _list_of(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _all_before(batches: list[dict[str, Any]], since: float) -> bool:
    """Whether a list that runs from new to old has passed ``since``; OpenAI promises no order."""
    times = [_number(batch.get("created_at")) for batch in batches]
    return times[-1] + 1 <= since and times[-1] <= times[0]


def _job_status(reply: Reply) -> JobStatus:
    batch, word = reply.body, _word(reply.body)
    files = (batch.get("output_file_id"), batch.get("error_file_id"))
    refs = tuple(ref for ref in files if isinstance(ref, str) and ref)
    counts = batch.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    total, completed, failed = (
        int(_number(counts.get(k))) for k in ("total", "completed", "failed")
    )
    state = JobState.RUNNING
    # A word that is not known yet: what it means shows in the times.
    if word in ENDED or (
        word not in RUNNING and word != "failed" and any(batch.get(name) for name in END_TIMES)
    ):
        state = JobState.ENDED
    elif word == "failed":
        state = JobState.ENDED if refs or completed or failed else JobState.REJECTED
    reason, code = _reason(batch.get("errors"))
    metadata = batch.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return JobStatus(
        state=state,
        word=word,
        total=total,
        completed=completed,
        failed=failed,
        reason=reason,
        reason_code=code,
        retry_after=retry_after(reply.headers),
        output_refs=refs,
        input_ref=str(batch.get("input_file_id") or ""),
        nonce=str(metadata.get(NONCE) or ""),
        suite=str(metadata.get(SUITE) or ""),
    )


def _reason(errors: Any) -> tuple[str, str]:
    """Return the first entry of a failed batch's errors as (sentence, code)."""
    data = _list_of(errors.get("data") if isinstance(errors, dict) else errors)
    if not data:
        return "", ""
    first = data[0]
    message, line = str(first.get("message") or ""), first.get("line")
    where = f" (line {line})" if isinstance(line, int) else ""
    return f"{message}{where}", str(first.get("code") or "")


def _found(batch: Mapping[str, Any]) -> Found:
    status = _job_status(Reply(batch))
    return Found(
        job_id=str(batch["id"]),
        created_at=_number(batch.get("created_at")),
        total=status.total,
        nonce=status.nonce,
        suite=status.suite,
        endpoint=str(batch.get("endpoint") or "").removeprefix("/v1"),
        model=str(batch.get("model") or ""),
        input_ref=status.input_ref,
        running=status.state is JobState.RUNNING,
    )


def _row(line: Mapping[str, Any]) -> ResultRow:
    custom_id, response = str(line["custom_id"]), line.get("response")
    if not isinstance(response, dict):
        return _unanswered(custom_id, line.get("error"))
    status, body = response.get("status_code"), response.get("body")
    request_id = str(response.get("request_id") or "")
    if not isinstance(status, int) or not 200 <= status < 600:
        return _unanswered(custom_id, line.get("error"), request_id)
    if status < 300 and not isinstance(body, dict):
        return _unanswered(custom_id, line.get("error"), request_id)
    error = body.get("error") if isinstance(body, dict) else None
    broke = isinstance(error, dict) and is_out_of_money(error)
    retryable = (status in (408, 429) or status >= 500) and not broke
    return ResultRow(custom_id, status, body, request_id, retryable)


def _unanswered(custom_id: str, error: Any, request_id: str = "") -> ResultRow:
    """A request that has no HTTP answer: expired, cancelled, or lost inside the provider."""
    error = error if isinstance(error, dict) else {"message": error}
    code = str(error.get("code") or "no_response")
    message = str(error.get("message") or "The batch returned no response for this request.")
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    return ResultRow(custom_id, STATUS_OF_CODE.get(code, 500), body, request_id, retryable=True)


OPENAI = OpenAI()

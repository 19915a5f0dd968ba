"""Anthropic's Message Batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import Field

from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import CreateUnknownError, JobNotFoundError, ResultsNotReadyError
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
from pytest_langasync.providers.dialects import MESSAGES
from pytest_langasync.providers.dialects.messages import STATUS_OF_TYPE
from pytest_langasync.providers.failures import Failure, retry_after
from pytest_langasync.providers.http import (
    BatchClient,
    Channel,
    Policy,
    Reply,
    lines,
    segment,
)
from pytest_langasync.providers.wire import Lenient, Moment, Objects

__all__ = ["ANTHROPIC", "Anthropic"]

VERSION = "anthropic-version"
NOT_IN_BATCHES = ("cache_hint", "context_hint", "previous_thread_event_id", "speed", "store")
BATCHES = "/messages/batches"
KEPT = 29 * 86400.0
"""Seconds from its creation for which the results of a batch can be read."""
RUNNING = frozenset({"in_progress", "canceling", "cancelling"})
UNANSWERED = {
    "canceled": (503, "api_error", "The batch was canceled before this request ran."),
    "expired": (504, "timeout_error", "The batch expired before this request ran."),
}
"""Rows without an error object: the SDK raises its classes for 503 and 504."""


class Anthropic(Provider):
    """The provider ``anthropic``; ``policy`` sets its clients' time-outs and retries."""

    name = "anthropic"
    title = "Anthropic"
    dialects = (MESSAGES,)
    limits = Limits(requests=100_000, bytes=256_000_000, one_model=False)
    hosts = ("api.anthropic.com",)
    spoken_elsewhere = True
    base_url = "https://api.anthropic.com/v1"
    base_url_variables = ("ANTHROPIC_BASE_URL",)
    key_variables: Mapping[str, str] = MappingProxyType({"ANTHROPIC_API_KEY": "sk-ant-placeholder"})
    account_headers = frozenset({"authorization", "x-api-key", "anthropic-workspace-id"})
    job_headers = ("anthropic-beta", "anthropic-user-profile-id", VERSION)
    # Added by the SDK to the URLs of its beta calls; the headers say the same.
    empty_query = frozenset({("beta", "true")})
    job_id_prefix = "msgbatch_"
    free = ("/count_tokens",)

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()

    def key_headers(self, key: str) -> Mapping[str, str]:
        """Return the headers by which this key lets a request in."""
        return {"x-api-key": key, VERSION: "2023-06-01"}

    def lacks_key(self, error: BaseException) -> bool:
        """Return whether this is the SDK's complaint that it was given no key."""
        return isinstance(error, TypeError) and "resolve authentication method" in str(error)

    def usual_base_url(self) -> str:
        """Return where its SDK, which adds the version itself, sends to in this environment."""
        return super().usual_base_url().rstrip("/").removesuffix("/v1") + "/v1"

    def identity_headers(self, headers: Mapping[str, str]) -> Headers:
        """Return the API version, user profile and betas (in one order), sorted by name."""
        lowered = {name.lower(): value for name, value in headers.items()}
        betas = {beta.strip() for beta in lowered.get("anthropic-beta", "").split(",")}
        return super().identity_headers(
            lowered | {"anthropic-beta": ",".join(sorted(betas - {""}))}
        )

    def rejected(self, request: Request) -> str:
        """Return why this request can never be batched, or an empty string."""
        body = request.body
        named = [name for name in NOT_IN_BATCHES if body.get(name) is not None]
        named += [name for name in body if name.startswith("thread")]
        if named:
            return f"Anthropic takes no {named[0]!r} inside a batch"
        if body.get("max_tokens") == 0:
            return "Anthropic takes no max_tokens of 0 inside a batch"
        if body.get("research_preview_2026_02") == "active":
            return "Anthropic takes no active research preview inside a batch"
        policy = body.get("billing_policy")
        if isinstance(policy, dict) and policy.get("bill_to") == "user_profile":
            return "Anthropic bills no user profile for a batch"
        return ""

    def line_bytes(self, custom_id: str, body_bytes: int) -> int:
        """Return an upper bound of what a request adds to the batch, in bytes."""
        return len(to_json({"custom_id": custom_id, "params": {}})) + body_bytes + 1

    def client(
        self, base_url: str, credentials: Credentials, job_headers: Headers
    ) -> AnthropicClient:
        """Return a client of the batch API, made from what the intercepted call carried."""
        return AnthropicClient(base_url, credentials, job_headers, self.policy)


class Counts(Lenient):
    """The counters of a batch."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def failed(self) -> int:
        """How many have no message."""
        return self.errored + self.canceled + self.expired


class Batch(Lenient):
    """A batch, as Anthropic describes it."""

    id: str = ""
    processing_status: str = ""
    request_counts: Counts = Counts()
    created_at: Moment = 0.0
    ended_at: Moment = 0.0
    archived_at: Moment = 0.0
    results_url: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen; what an unknown word means shows in the rest."""
        word = self.processing_status.lower()
        return word == "ended" or (word not in RUNNING and bool(self.ended_at and self.results_url))

    def to_status(self, headers: Mapping[str, str]) -> JobStatus:
        """Return the answer to a poll that came with these headers."""
        counts = self.request_counts
        return JobStatus(
            state=JobState.ENDED if self.ended else JobState.RUNNING,
            word=self.processing_status.lower(),
            total=counts.processing + counts.succeeded + counts.failed,
            completed=counts.succeeded,
            failed=counts.failed,
            retry_after=retry_after(headers),
            output_refs=(self.results_url,) if self.results_url else (),
        )

    def to_found(self) -> Found:
        """Return it as an entry of the provider's list."""
        counts = self.request_counts
        return Found(
            job_id=self.id,
            created_at=self.created_at,
            total=counts.processing + counts.succeeded + counts.failed,
            endpoint=MESSAGES.endpoint,
            running=not self.ended,
            opaque=True,
        )


class Page(Lenient):
    """A page of a list."""

    data: Objects = Field(default_factory=list)
    has_more: bool = False
    last_id: str = ""


class Result(Lenient):
    """What became of a request."""

    type: str = "missing"
    message: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


class Row(Lenient):
    """A line of results."""

    custom_id: str = ""
    result: Result = Result()


class AnthropicClient(BatchClient):
    """``Client`` for one base URL and one account."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        job_headers: Headers,
        policy: Policy,
    ) -> None:
        if VERSION not in dict(job_headers):  # a job that is known by its ID alone
            job_headers = (*job_headers, (VERSION, "2023-06-01"))
        super().__init__(Channel("Anthropic", base_url, credentials, job_headers, policy))

    def create(self, submission: Submission) -> Created:
        """Create the batch, once. See ``Client.create``."""
        requests = [{"custom_id": cid, "params": body} for cid, body in submission.lines]
        content = to_json({"requests": requests})
        reply = self._channel.create(
            lambda: self._channel.call(
                "POST",
                BATCHES,
                content=content,
                headers={"content-type": "application/json"},
                timeout=self._channel.policy.create_timeout,
            )
        )
        batch = Batch.model_validate(reply.body)
        if not batch.id:
            raise CreateUnknownError("the answer to a batch creation names no batch")
        return Created(batch.id, batch.created_at or CLOCK.now())

    def status(self, job_id: str) -> JobStatus:
        """Poll once. Raises ``JobNotFoundError`` when Anthropic does not know the job."""
        reply = self._retrieve(job_id)
        return Batch.model_validate(reply.body).to_status(reply.headers)

    def _retrieve(self, job_id: str) -> Reply:
        path = f"{BATCHES}/{segment(job_id)}"
        return self._channel.ask(
            f"polling {job_id}",
            lambda: self._channel.call("GET", path),
            missing=f"Anthropic does not know the batch {job_id}",
        )

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield the rows of an ended job, in Anthropic's order.

        Raises:
            JobNotFoundError: the results are gone (29 days after creation).
            ResultsNotReadyError: they are not there, although they are not old enough to be gone.
        """
        missing = f"the results of {job_id} are no longer at Anthropic"
        # Where they are said to be may be missing, or be what a gateway in front knows nothing of.
        # The key leaves for no other host: then they are where the documentation has them.
        url = next(iter(status.output_refs), "")
        if not self._channel.same_origin(url):
            url = f"{BATCHES}/{segment(job_id)}/results"
        try:
            file = self._channel.download(url, missing, status.total)
        except JobNotFoundError:
            batch = Batch.model_validate(self._retrieve(job_id).body)
            if batch.archived_at or CLOCK.now() - batch.created_at > KEPT:
                raise
            text = f"{job_id} has ended, and its results cannot be read yet"
            raise ResultsNotReadyError(text) from None
        for line in lines(file):
            row = Row.model_validate(line)
            if row.custom_id:
                yield _to_result(row)

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation; a job that has already ended is no error."""
        missing = f"Anthropic does not know the batch {job_id}"
        self._channel.cancel(f"{BATCHES}/{segment(job_id)}/cancel", job_id, missing)

    def find(self, since: float, limit: int = 1000) -> Iterator[Found]:
        """Yield batches created in the second of ``since`` or later, newest first.

        At most ``limit`` batches are looked at. Their nonces are in their results only.
        """
        after: dict[str, Any] = {}
        seen = 0
        while seen < limit:
            page = self._list(min(100, limit - seen), after)
            batches = [Batch.model_validate(one) for one in page.data]
            ahead = self.clock_ahead
            for batch in batches:
                if batch.created_at + ahead + 1 > since:
                    yield replace(batch.to_found(), created_at=batch.created_at + ahead)
            seen += len(batches)
            old = bool(batches) and batches[-1].created_at + ahead + 1 <= since
            if not batches or not page.has_more or not page.last_id or old:
                return
            after = {"after_id": page.last_id}

    @property
    def clock_ahead(self) -> float:
        """Seconds by which this machine's clock is ahead of Anthropic's, as far as is known."""
        return self._channel.clock_ahead

    def _list(self, limit: int, after: dict[str, Any]) -> Page:
        query = {"limit": limit, **after}
        reply = self._channel.ask(
            "listing batches", lambda: self._channel.call("GET", BATCHES, params=query)
        )
        return Page.model_validate(reply.body)

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return the custom IDs in the results; None while the job runs, or once they are gone."""
        status = self.status(job_id)
        if status.state is JobState.RUNNING:
            return None
        try:
            return frozenset(row.custom_id for row in self.rows(job_id, status))
        except (JobNotFoundError, ResultsNotReadyError):
            return None

    def has_batch_api(self) -> bool:
        """Return whether this base URL lists batches as Anthropic does, or asks for a key first.

        Raises:
            ProviderError: the server could not be reached, or is in trouble.
        """
        came = self._channel.look(BATCHES)
        if isinstance(came, Failure):
            typed = isinstance(came.body, dict) and came.body.get("type") == "error"
            asks_for_key = typed and {"type", "message"} <= came.error.keys()
            return came.status in (401, 403) and asks_for_key
        data = came.get("data")
        return (
            "has_more" in came
            and isinstance(data, list)
            and all(isinstance(b, dict) and b.get("type") == "message_batch" for b in data)
        )


def _to_result(row: Row) -> ResultRow:
    result = row.result
    if result.type == "succeeded" and result.message is not None:
        return ResultRow(row.custom_id, 200, result.message)
    if result.type == "errored" and result.error is not None:
        return _errored(row.custom_id, result.error)
    lost = (500, "api_error", f"The batch returned no message for this request ({result.type}).")
    status, error_type, text = UNANSWERED.get(result.type, lost)
    error = {"type": error_type, "message": text}
    body = {"type": "error", "error": error, "request_id": None}
    return ResultRow(row.custom_id, status, body, retryable=True)


def _errored(custom_id: str, envelope: Mapping[str, Any]) -> ResultRow:
    error = envelope.get("error")
    if not isinstance(error, dict):  # without the usual double nesting
        error, envelope = dict(envelope), {"type": "error", "error": dict(envelope)}
    # A row carries no HTTP status: the one that the type has in real time.
    status = STATUS_OF_TYPE.get(str(error.get("type")), 500)
    came = MESSAGES.outcome(status, envelope)
    request_id = str(envelope.get("request_id") or "")
    return ResultRow(custom_id, status, envelope, request_id, came.retryable)


ANTHROPIC = Anthropic()

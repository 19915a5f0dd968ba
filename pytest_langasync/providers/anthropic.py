"""Anthropic's Message Batches."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.exceptions import (
    ConfigurationError,
    CreateUnknownError,
    JobNotFoundError,
)
from pytest_langasync.models import Credentials, Headers, JobState, JobStatus, Request, ResultRow
from pytest_langasync.providers.base import Created, Found, Limits, Provider, Submission
from pytest_langasync.providers.dialects import MESSAGES
from pytest_langasync.providers.dialects.messages import STATUS_OF_TYPE
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

__all__ = ["ANTHROPIC", "Anthropic"]

VERSION = "anthropic-version"
NOT_IN_BATCHES = ("cache_hint", "context_hint", "previous_thread_event_id", "speed", "store")
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
        return len(dumps({"custom_id": custom_id, "params": {}})) + body_bytes + 1

    def client(
        self, base_url: str, credentials: Credentials, job_headers: Headers
    ) -> AnthropicClient:
        """Return a client of the batch API, made from what the intercepted call carried."""
        return AnthropicClient(base_url, credentials, job_headers, self.policy)


class AnthropicClient:
    """``Client`` for one base URL and one account."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        job_headers: Headers,
        policy: Policy,
    ) -> None:
        import anthropic

        if VERSION not in dict(job_headers):  # a job that is known by its ID alone
            job_headers = (*job_headers, (VERSION, "2023-06-01"))
        self._channel = Channel(anthropic, "Anthropic", base_url, credentials, job_headers, policy)
        self._sdk = anthropic.Anthropic(
            api_key=PLACEHOLDER_KEY,
            base_url=self._channel.base_url.removesuffix("/v1"),  # the SDK puts its own there
            http_client=self._channel.http,
            max_retries=0,
            timeout=policy.timeout,
        )
        self._batches = self._sdk.messages.batches.with_raw_response

    def create(self, submission: Submission) -> Created:
        """Create the batch, once. See ``Client.create``."""
        requests = [{"custom_id": cid, "params": body} for cid, body in submission.lines]
        timeout = self._channel.policy.create_timeout

        def act() -> Any:
            # Not messages.batches.create: that one walks through every body to transform it.
            return self._sdk.post(
                "/v1/messages/batches",
                body={"requests": requests},
                cast_to=object,
                options={"timeout": timeout},
            )

        body = self._channel.create(act).body
        job_id = body.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise CreateUnknownError("the answer to a batch creation names no batch")
        return Created(job_id, _epoch(body.get("created_at")) or _now())

    def status(self, job_id: str) -> JobStatus:
        """Poll once. Raises ``JobNotFoundError`` when Anthropic does not know the job."""
        reply = self._channel.ask(
            f"polling {safe_id(job_id)}",
            lambda: self._batches.retrieve(job_id),
            missing=f"Anthropic does not know the batch {job_id}",
        )
        return _job_status(reply)

    def rows(self, job_id: str, status: JobStatus) -> Iterator[ResultRow]:
        """Yield the rows of an ended job, in Anthropic's order.

        Raises:
            JobNotFoundError: the results are gone (29 days after creation).
            ConfigurationError: they are said to be on another host, which must not see the key.
        """
        missing = f"the results of {job_id} are no longer at Anthropic"
        if not status.output_refs:
            raise JobNotFoundError(missing)
        url = self._channel.resolve(status.output_refs[0])
        if not self._channel.same_origin(url):
            host = self._channel.clean(urlsplit(url).netloc)
            raise ConfigurationError(
                f"the results of {job_id} are said to be at {host}, another host than "
                f"{self._channel.base_url}: the key is not sent there"
            )
        for line in lines(self._channel.download(url, missing, status.total)):
            if isinstance(line.get("custom_id"), str):
                yield _row(line)

    def cancel(self, job_id: str) -> None:
        """Ask for cancellation; a job that has already ended is no error."""
        missing = f"Anthropic does not know the batch {safe_id(job_id)}"
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

        At most ``limit`` batches are looked at. Their nonces are in their results only.
        """
        after: dict[str, Any] = {}
        seen = 0
        while seen < limit:
            body = self._list(min(100, limit - seen), after)
            data = body.get("data")
            batches = [b for b in data if isinstance(b, dict)] if isinstance(data, list) else []
            for batch in batches:
                if _epoch(batch.get("created_at")) + 1 > since:
                    yield _found(batch)
            seen += len(batches)
            last = body.get("last_id")
            old = bool(batches) and _epoch(batches[-1].get("created_at")) + 1 <= since
            if not batches or not body.get("has_more") or not last or old:
                return
            after = {"after_id": last}

    def _list(self, limit: int, after: dict[str, Any]) -> Mapping[str, Any]:
        return self._channel.ask(
            "listing batches", lambda: self._batches.list(limit=limit, **after)
        ).body

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return the custom IDs in the results; None while the job runs, or once they are gone."""
        status = self.status(job_id)
        if status.state is JobState.RUNNING or not status.output_refs:
            return None
        try:
            return frozenset(row.custom_id for row in self.rows(job_id, status))
        except JobNotFoundError:
            return None

    def has_batch_api(self) -> bool:
        """Return whether this base URL lists batches as Anthropic does, or asks for a key first.

        Raises:
            ProviderError: the server could not be reached, or is in trouble.
        """
        try:
            body = self._channel.attempt(lambda: self._batches.list(limit=1)).body
        except Failure as failure:
            if failure.status in (401, 403):
                typed = isinstance(failure.body, dict) and failure.body.get("type") == "error"
                return typed and {"type", "message"} <= failure.error.keys()
            if failure.status in (0, 408, 409, 429, 500, 502, 503, 504, 529):
                raise self._channel.explain(failure, "listing batches") from None
            return False
        data = body.get("data")
        return (
            "has_more" in body
            and isinstance(data, list)
            and all(isinstance(b, dict) and b.get("type") == "message_batch" for b in data)
        )

    def delete_files(self, refs: Iterable[str]) -> None:
        """Do nothing: Anthropic has no files, and the results go with the batch."""

    def close(self) -> None:
        """Close connections."""
        self._sdk.close()


def _now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()


def _epoch(text: Any) -> float:
    """Return seconds since the epoch of an RFC 3339 time, or 0 where there is none."""
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return aware.timestamp()


def _job_status(reply: Reply) -> JobStatus:
    batch = reply.body
    counts = batch.get("request_counts")
    numbers = {
        name: number
        for name, number in (counts.items() if isinstance(counts, dict) else ())
        if isinstance(number, int)
    }
    word, url = str(batch.get("processing_status") or "").lower(), batch.get("results_url")
    # A word that is not known yet: what it means shows in the rest.
    ended = word == "ended" or (word not in RUNNING and batch.get("ended_at") and url)
    return JobStatus(
        state=JobState.ENDED if ended else JobState.RUNNING,
        word=word,
        total=sum(numbers.values()),
        completed=numbers.get("succeeded", 0),
        failed=sum(numbers.get(name, 0) for name in ("errored", "canceled", "expired")),
        retry_after=retry_after(reply.headers),
        output_refs=(url,) if isinstance(url, str) and url else (),
    )


def _found(batch: Mapping[str, Any]) -> Found:
    status = _job_status(Reply(batch))
    return Found(
        job_id=str(batch.get("id") or ""),
        created_at=_epoch(batch.get("created_at")),
        total=status.total,
        endpoint="/messages",
        running=status.state is JobState.RUNNING,
        opaque=True,
    )


def _row(line: Mapping[str, Any]) -> ResultRow:
    custom_id, result = str(line["custom_id"]), line.get("result")
    result = result if isinstance(result, dict) else {}
    kind = str(result.get("type") or "missing")
    message = result.get("message")
    if kind == "succeeded" and isinstance(message, dict):
        return ResultRow(custom_id, 200, message)
    if kind == "errored" and isinstance(result.get("error"), dict):
        return _errored(custom_id, result["error"])
    lost = (500, "api_error", f"The batch returned no message for this request ({kind}).")
    status, error_type, text = UNANSWERED.get(kind, lost)
    error = {"type": error_type, "message": text}
    body = {"type": "error", "error": error, "request_id": None}
    return ResultRow(custom_id, status, body, retryable=True)


def _errored(custom_id: str, envelope: Mapping[str, Any]) -> ResultRow:
    error = envelope.get("error")
    if not isinstance(error, dict):  # without the usual double nesting
        error, envelope = dict(envelope), {"type": "error", "error": dict(envelope)}
    # A row carries no HTTP status: the one that the type has in real time.
    status = STATUS_OF_TYPE.get(str(error.get("type")), 500)
    retryable = (status == 429 or status >= 500) and not is_out_of_money(error)
    return ResultRow(custom_id, status, envelope, str(envelope.get("request_id") or ""), retryable)


ANTHROPIC = Anthropic()

"""What the providers' files share: a client that keeps the key at home, retries, plain errors."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from pytest_langasync.config import CLOCK
from pytest_langasync.exceptions import (
    CapacityError,
    ConfigurationError,
    CreateUnknownError,
    JobNotFoundError,
    LangasyncError,
    NoBatchApiError,
    ProviderError,
)
from pytest_langasync.interception.senders import transport_options
from pytest_langasync.models import Credentials, Headers, LiveCredentials
from pytest_langasync.providers.failures import Failure, from_error, from_response

if TYPE_CHECKING:
    import httpx

__all__ = ["BatchClient", "Channel", "Policy", "Reply", "lines", "segment"]

T = TypeVar("T")

OWN_HEADERS = frozenset(
    ("accept", "accept-encoding", "connection", "content-length", "content-type", "host",
     "transfer-encoding", "user-agent")
)  # fmt: skip
"""Headers of an exchange itself: never the intercepted call's."""
TROUBLE = frozenset({0, 408, 409, 429, 502, 503, 504, 529})
"""Statuses that say nothing about whether there is a batch API. A 500 does: proxies answer it where
nobody has set one up."""
DOWNLOADS = 3
"""How often at most a file is fetched for the sake of a damaged or missing line."""
NOT_FOR_ACCOUNT = frozenset({"not_available_for_plan"})
"""Codes of a refusal to all batches of an account that may make the same calls in real time."""
CAPACITY = re.compile(r"enqueued|token_limit_exceeded|\bqueue", re.IGNORECASE)


CLOCKS_DIFFER = 60.0
"""Seconds from which on two clocks differ: a reply takes time, and ``Date`` has no fractions."""


@dataclass(frozen=True)
class Policy:
    """How patient a client is. Times are in seconds."""

    attempts: int = 5
    timeout: float = 60.0
    """The longest silence of the server during a poll or a download."""
    create_timeout: float = 600.0
    """The longest silence during an upload or a creation."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    """Waits between two attempts."""
    patience: float = 600.0
    """How long to wait for a new token where one that was let in before is refused."""


@dataclass(frozen=True)
class Reply:
    """A JSON object that came back, and its headers."""

    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Channel:
    """One base URL and one account: calls, and downloads.

    A hook gives each request the intercepted headers, and those alone: nothing from the environment
    takes part, and a redirect to another origin goes out without the key.

    Args:
        provider: the name to use in messages.
        base_url: as intercepted, without the endpoint.
        credentials: the account's headers.
        job_headers: further headers of every request.
        policy: time-outs and retries.
    """

    def __init__(
        self,
        provider: str,
        base_url: str,
        credentials: Credentials,
        job_headers: Headers,
        policy: Policy,
    ) -> None:
        import httpx

        self.policy = policy
        self.base_url = base_url.rstrip("/")
        self._credentials = credentials
        self._job_headers = job_headers
        self._let_in = False
        self._refused_at: float | None = None
        """Since when it is refused what let it in before, on a monotonic clock."""
        parts = urlsplit(self.base_url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._where = f"{provider} at {shown}"
        self.clock_ahead = 0.0
        """Seconds by which this machine's clock is ahead of the provider's (``Date`` of its last
        reply); 0 for a difference that is none, or where nothing is known."""
        self.http = httpx.Client(
            timeout=policy.timeout,
            follow_redirects=True,
            event_hooks={"request": [self._authorise]},
            transport=_transport(credentials),
        )
        self._errors = (httpx.HTTPError, json.JSONDecodeError, UnicodeDecodeError)

    def close(self) -> None:
        """Close connections."""
        self.http.close()

    def call(self, method: str, path: str, **content: Any) -> Reply:
        """Make one exchange below the base URL. ``content`` is what ``httpx`` takes.

        Raises:
            Failure: the server refused, or sent no JSON object.
            httpx.HTTPError: there was no answer.
        """
        return _reply(self.http.request(method, self.resolve(path), **content))

    def same_origin(self, url: str) -> bool:
        """Return whether ``url`` has the scheme, host and port of the base URL."""
        return _origin(url) == _origin(self.base_url)

    def _authorise(self, request: Any) -> None:
        for name in list(request.headers):
            if name not in OWN_HEADERS:
                del request.headers[name]
        if self.same_origin(str(request.url)):
            sent = {**self._credentials.others, **self._credentials.headers}
            account = {n.lower(): v for n, v in sent.items() if n.lower() not in OWN_HEADERS}
            request.headers.update({**account, **dict(self._job_headers)})

    def _is_renewed(self) -> bool:
        """Ask the client whose calls these are for what it would carry now; whether it is new."""
        known = self._credentials
        if not isinstance(known, LiveCredentials):
            return False
        try:
            found = known.renew()
        except Exception:  # whatever an auth flow or a hook raises: the refusal is what is told
            return False
        if found is None or found.headers == known.headers:
            return False
        self._credentials = dataclasses.replace(known, headers=found.headers, others=found.others)
        return True

    def _admitted(self, act: Callable[[], T]) -> T:
        """Do ``act``, once more with a new token where the one that it carries is refused."""
        try:
            result = self._normalised(act)
        except Failure as failure:
            if failure.status != 401 or not self._is_renewed():
                raise
            result = self._normalised(act)
        self._let_in, self._refused_at = True, None
        return result

    def _may_be_renewed(self) -> bool:
        """Whether a refusal may be over soon: what let in before may have a successor."""
        now = CLOCK.timer()
        if self._refused_at is None:
            self._refused_at = now
        live = isinstance(self._credentials, LiveCredentials)
        return live and self._let_in and now - self._refused_at < self.policy.patience

    def ask(self, doing: str, act: Callable[[], Reply], *, missing: str = "") -> Reply:
        """Make an idempotent call, again after transient failures.

        Args:
            doing: completes the sentence "… failed while …" in an error.
            act: the call, as a rule by ``call``.
            missing: the message of a ``JobNotFoundError`` for the provider's own 404.

        Raises:
            ConfigurationError, JobNotFoundError, ProviderError: as ``Client`` describes.
        """
        try:
            return self.attempt(act)
        except Failure as failure:
            raise self.explain(failure, doing, missing) from None

    def attempt(
        self, act: Callable[[], Reply], again: Callable[[Failure], bool] | None = None
    ) -> Reply:
        """Like ``ask``, with a choice of what is tried again. Raises the last ``Failure``."""
        reply = self._retried(act, again or (lambda failure: failure.transient))
        with contextlib.suppress(KeyError, TypeError, ValueError):
            ahead = CLOCK.now() - parsedate_to_datetime(reply.headers["date"]).timestamp()
            self.clock_ahead = ahead if abs(ahead) > CLOCKS_DIFFER else 0.0
        return reply

    def create(
        self, act: Callable[[], Reply], again: Callable[[Failure], bool] = lambda failure: False
    ) -> Reply:
        """Make the one call that buys: sent again only where nothing can have been created.

        Raises:
            CreateUnknownError: it was sent, and its outcome is not known.
            CapacityError: the provider has no room for it, or too many requests, now.
            ConfigurationError, ProviderError: it was refused, or could not be sent.
        """

        def harmless(failure: Failure) -> bool:
            words = f"{failure.message} {failure.error.get('code')}"
            crowded = failure.status == 429 and not CAPACITY.search(words)
            return not failure.out_of_money and (not failure.sent or crowded or again(failure))

        try:
            return self.attempt(act, harmless)
        except Failure as failure:
            raise self._explain_create(failure, again(failure)) from None

    def _explain_create(self, failure: Failure, curable: bool) -> LangasyncError:
        doing = "creating a batch"
        text = self._sentence(failure, doing)
        if not failure.sent or curable:
            return ProviderError(text)
        if failure.out_of_money:
            return self.explain(failure, doing)
        if failure.status == 429:
            return CapacityError(text)
        if failure.transient:
            return CreateUnknownError(f"{text}; it may exist all the same")
        return self.explain(failure, doing)

    def cancel(self, path: str, job_id: str, missing: str) -> None:
        """Ask for a job's cancellation; that it has already ended is no error.

        Args:
            path: where its cancellation is posted.
            job_id: the provider's ID, for messages.
            missing: the message of a ``JobNotFoundError`` for the provider's own 404.

        Raises:
            ConfigurationError, JobNotFoundError, ProviderError: as ``Client`` describes.
        """
        try:
            self.attempt(
                lambda: self.call("POST", path),
                lambda failure: failure.transient and failure.status != 409,
            )
        except Failure as failure:
            if failure.status not in (400, 409):
                raise self.explain(failure, f"cancelling {job_id}", missing) from None

    def look(self, path: str) -> Mapping[str, Any] | Failure:
        """Return the list at ``path``, or what came in its place; trouble alone is asked again.

        Raises:
            ProviderError: the server could not be reached, or is in trouble.
        """
        try:
            return self.attempt(
                lambda: self.call("GET", path, params={"limit": 1}),
                lambda failure: failure.status in TROUBLE,
            ).body
        except Failure as failure:
            if failure.status in TROUBLE:
                raise self.explain(failure, "listing batches") from None
            return failure

    def download(self, url: str, missing: str, rows: int = 0) -> IO[bytes]:
        """Return the JSONL at ``url``, whole, in a private temporary file without a name.

        One with a damaged line, or with fewer than the ``rows`` that the provider's counters speak
        of, is fetched again, and taken as it is when that does not help: counters may be wrong.

        Raises:
            JobNotFoundError: the provider no longer has it.
            ConfigurationError, ProviderError: as ``Client`` describes.
        """
        last: list[IO[bytes]] = []

        def act() -> IO[bytes]:
            file = tempfile.TemporaryFile()  # noqa: SIM115  (handed to the caller)
            try:
                self._pour(url, file)
            except BaseException:
                file.close()
                raise
            last.append(file)
            if len(last) < DOWNLOADS:
                _check(file, rows)
            return file

        try:
            return self._retried(act, lambda failure: failure.transient)
        except Failure as failure:
            raise self.explain(failure, "downloading results", missing) from None
        finally:
            for file in last[:-1]:
                file.close()

    def _pour(self, url: str, file: IO[bytes]) -> None:
        with self.http.stream(
            "GET", self.resolve(url), headers={"accept": "application/binary"}
        ) as response:
            if response.status_code != 200:
                response.read()
                raise from_response(response)
            for chunk in response.iter_bytes():
                file.write(chunk)
        file.seek(0)
        last = b"".join(collections.deque(file, maxlen=1))
        # A connection that just closes looks like the end of the body to HTTP/1.0.
        if not last.endswith(b"\n") and last.strip() and _object(last) is None:
            raise Failure("the download ended in the middle of a line", status=200)
        file.seek(0)

    def _retried(self, act: Callable[[], T], again: Callable[[Failure], bool]) -> T:
        # tenacity and not stamina: stamina's switch for tests is global to the process, and this
        # one runs other people's tests.
        import tenacity

        spread = tenacity.wait_random_exponential(multiplier=0.5, max=30)

        def pause(state: tenacity.RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            asked = failure.retry_after if isinstance(failure, Failure) else None
            return spread(state) + (asked or 0.0)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.policy.attempts),
            wait=pause,
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, Failure) and again(e)),
            sleep=self.policy.sleep,
            reraise=True,
        )
        result: T = retrying(self._admitted, act)
        return result

    def _normalised(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except self._errors as error:
            raise from_error(error) from None
        except OSError as error:
            raise ProviderError(f"a temporary file failed: {error.strerror or error}") from None

    def explain(self, failure: Failure, doing: str, missing: str = "") -> LangasyncError:
        """Return the exception that tells a person about ``failure``."""
        text = self._sentence(failure, doing)
        if failure.status == 401 and missing and self._may_be_renewed():
            return ProviderError(
                f"{self._where} refused what let it in before (HTTP 401): waiting for a new token"
            )
        if failure.status == 401:
            return ConfigurationError(
                f"{self._where} refused the API key (HTTP 401): check the key the test uses"
            )
        if failure.status == 403 and failure.error.get("code") in NOT_FOR_ACCOUNT:
            return NoBatchApiError(text)
        if failure.status == 403 or failure.out_of_money:
            return ConfigurationError(text)
        if failure.status == 404 and missing:
            known = isinstance(failure.body, dict) and "error" in failure.body
            return JobNotFoundError(missing) if known else ProviderError(text)
        if not missing and (failure.status in (404, 405) or 200 <= failure.status < 400):
            return NoBatchApiError(
                f"no batch API at this base URL: {self._where} answered HTTP {failure.status}"
            )
        return ProviderError(text) if failure.transient else ConfigurationError(text)

    def _sentence(self, failure: Failure, doing: str) -> str:
        status = f"HTTP {failure.status}" if failure.status else "no answer"
        return f"{self._where} failed while {doing} ({status}): {self.clean(failure.message)}"

    def clean(self, text: str) -> str:
        """Return ``text`` as one printable line of at most 300 characters, without any secret."""
        for secret in _secrets(self._credentials):
            text = text.replace(secret, "***")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= 300 else f"{line[:299]}…"

    def resolve(self, path: str) -> str:
        """Return a path below the base URL as a URL; one that is whole stays as it is."""
        return path if urlsplit(path).scheme else f"{self.base_url}{path}"


class BatchClient:
    """What a ``Client`` over a channel need not write itself."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def has_batch_api(self) -> bool:
        """Return True: nobody else speaks this protocol."""
        return True

    def input_ids(self, job_id: str) -> frozenset[str] | None:
        """Return None: the provider does not tell what a job was given."""
        return None

    def delete_files(self, refs: Iterable[str]) -> None:
        """Do nothing: the provider has no files, or removes them by itself."""

    def close(self) -> None:
        """Close connections."""
        self._channel.close()


def _transport(credentials: Credentials) -> httpx.HTTPTransport | None:
    """Return a transport that goes the way of the intercepted calls, or None for the usual way."""
    import httpx

    if credentials.network is None:
        return None
    tls = credentials.tls if isinstance(credentials, LiveCredentials) else None
    return httpx.HTTPTransport(**transport_options(httpx, credentials.network, tls))


def lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a JSONL file and close it; a line that is none is skipped.

    Raises:
        ProviderError: the file has content, and none of it is an object.
    """
    with file:
        good = bad = 0
        for line in file:
            if not line.strip():
                continue
            value = _object(line)
            if value is None:
                bad += 1
                continue
            good += 1
            yield value
    if bad and not good:
        raise ProviderError("the download holds no results, but something else")


def segment(identifier: str) -> str:
    """Return ``identifier`` quoted, so that it stands in a URL as one segment.

    Raises:
        ConfigurationError: it cannot; no provider gave it.
    """
    if not identifier or identifier in (".", "..") or not identifier.isprintable():
        raise ConfigurationError(f"not the ID of a batch or file: {identifier[:80]!r}")
    return quote(identifier, safe="")


def _reply(response: httpx.Response) -> Reply:
    if not response.is_success:
        raise from_response(response)
    body = response.json()
    if not isinstance(body, dict):
        raise Failure("the answer is no JSON object", status=200)
    return Reply(body, response.headers)


def _check(file: IO[bytes], rows: int) -> None:
    """Raise a ``Failure`` for a file with a damaged line, or with too few lines."""
    lines = [_object(line) is not None for line in file if line.strip()]
    file.seek(0)
    if not all(lines) or len(lines) < rows:
        raise Failure(f"{sum(lines)} rows came whole, of {max(rows, len(lines))}", status=200)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _secrets(credentials: Credentials) -> list[str]:
    """Return what must not be shown: each value, and the key behind a word such as ``Bearer``."""
    sent = (*credentials.headers.values(), *credentials.others.values())
    values = {part for v in sent for part in (v, v.rpartition(" ")[2])}
    return sorted((value for value in values if len(value) >= 6), key=len, reverse=True)

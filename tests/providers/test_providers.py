"""What both providers share: the key's way, retries, and one clear error for each fault."""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from support.loopback import Say, loopback
from support.provider_bench import KEY, KINDS, Bench

from pytest_langasync.exceptions import (
    CapacityError,
    ConfigurationError,
    CreateUnknownError,
    JobNotFoundError,
    LangasyncError,
    ProviderError,
)
from pytest_langasync.models import Credentials, JobState, Target
from pytest_langasync.providers import Submission, by_name, check_job_id, may_have_job, providers


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with loopback() as server:
        yield Bench(request.param, server)


# The key goes where the intercepted call went, and nothing else comes along.


@pytest.fixture
def other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "leak")
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_WORKSPACE_ID"):
        monkeypatch.setenv(name, "leak")
    for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "X-Extra: leak\nAuthorization: leak\nX-Api-Key: leak")
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/leak")


@pytest.mark.usefixtures("other_keys")
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}", "openai-project": "p", "x-gateway": "g"},
        {"x-api-key": KEY, "anthropic-workspace-id": "w"},
        {"api-key": KEY},
    ],
    ids=["bearer", "x-api-key", "api-key"],
)
def test_exactly_the_intercepted_headers_are_sent(bench: Bench, headers: dict[str, str]) -> None:
    bench.server.on(f"POST {bench.path}", Say(bench.batch))
    bench.server.on(f"GET {bench.path}/b1", Say(bench.batch))
    bench.server.on(f"GET {bench.results}", Say(bench.row("a")))
    bench.server.on("POST /v1/files", Say({"id": "file-i"}))
    sdk = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host"}
    sdk |= {"user-agent", "anthropic-version"}

    # Headers that belong to the intercepted request itself must not spoil ours.
    client = bench.client({**headers, "content-length": "7", "accept-encoding": "br"})
    client.create(Submission("n", bench.provider.dialects[0].endpoint, (), [("n-1", {})], 1))
    assert list(client.rows("b1", client.status("b1")))

    assert len(bench.server.seen) >= 3
    for seen in bench.server.seen:
        own = {n: v for n, v in seen.headers.items() if n not in sdk and n[:12] != "x-stainless-"}
        assert own == headers
        assert "leak" not in str(seen.headers)


def test_job_headers_are_sent_with_every_request(bench: Bench) -> None:
    bench.server.on(f"GET {bench.path}/b1", Say(bench.batch))
    headers = (("anthropic-version", "2020-02-02"), ("openai-beta", "b"))
    credentials = Credentials({"authorization": "Bearer x"})
    bench.provider.client(f"{bench.server.url}/v1", credentials, headers).status("b1")
    assert headers[0] in bench.server.seen[0].headers.items()
    assert headers[1] in bench.server.seen[0].headers.items()


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_redirect_to_another_origin_goes_out_without_the_key(bench: Bench, header: str) -> None:
    with loopback() as other:
        other.on("GET /elsewhere", Say(bench.batch))
        there = Say(status=307, headers={"location": f"{other.url}/elsewhere"})
        here = Say(status=307, headers={"location": f"{bench.server.url}/here"})
        bench.server.on(f"GET {bench.path}/b1", here)
        bench.server.on("GET /here", there)
        bench.client({header: KEY}).status("b1")
        assert bench.server.at("GET /here")[0].headers[header] == KEY
        assert KEY not in str(other.seen[0])


@pytest.mark.parametrize("status", [401, 403, 400, 429, 500])
def test_no_key_in_errors_or_logs(
    bench: Bench, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = bench.error(f"Bad key: {KEY}\x1b[31m and Bearer {KEY}")
    bench.server.on(f"POST {bench.path}", Say(body, status))
    bench.server.on(f"GET {bench.path}", Say(body, status))
    for act in (bench.create, lambda: list(bench.client().find(0))):
        with pytest.raises(LangasyncError) as caught:
            act()
        assert KEY not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert caught.value.__suppress_context__
    assert caplog.records, "nothing logged: this test looks at nothing"
    assert KEY not in caplog.text


# Idempotent calls are repeated; what is asked for is waited for.

FAULTS = {
    "reset": Say(fault="reset"),
    "time-out": Say(fault="hang"),
    "cut": Say({"x": 1}, fault="cut"),
    "bad gzip": Say(b"no gzip", headers={"content-encoding": "gzip"}),
    "not JSON": Say(b"<html>", headers={"content-type": "text/html"}),
    "no object": Say([1]),
    "408": Say({}, 408),
    "409": Say({}, 409),
    "429": Say({}, 429),
    "500": Say({}, 500),
    "502 HTML": Say(b"<html>", 502, {"content-type": "text/html"}),
    "529": Say({}, 529),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_poll_survives_a_fault(bench: Bench, fault: str) -> None:
    bench.timeout = 0.3 if fault == "time-out" else 5
    route = f"GET {bench.path}/b1"
    bench.server.on(route, FAULTS[fault], FAULTS[fault], Say(bench.batch))
    assert bench.client().status("b1").state is JobState.ENDED
    assert bench.server.count(route) == 3
    assert len(bench.slept) == 2


@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "time-out"])
def test_a_poll_that_never_works_is_one_clear_error(bench: Bench, fault: str) -> None:
    route = f"GET {bench.path}/b1"
    bench.server.on(route, FAULTS[fault])
    with pytest.raises(
        ProviderError, match=r"at http://127.*/v1 failed while polling b1"
    ) as caught:
        bench.client().status("b1")
    assert type(caught.value) is ProviderError
    assert bench.server.count(route) == 5
    assert "\n" not in str(caught.value)


def test_jitter_and_growth_of_the_backoff(bench: Bench) -> None:
    bench.server.on(f"GET {bench.path}/b1", Say({}, 500))
    for _ in range(5):
        with pytest.raises(ProviderError):
            bench.client().status("b1")
    assert len(bench.slept) == len(set(bench.slept)) == 20
    ceilings = [0.5, 1, 2, 4] * 5
    assert all(0 <= slept <= ceiling for slept, ceiling in zip(bench.slept, ceilings, strict=True))


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        (lambda: "7", 7, 7.6),
        (lambda: email.utils.formatdate(time.time() + 60, usegmt=True), 58, 61),
        (lambda: "100000", 120, 121),
        (lambda: "-3", 0, 0.6),
        (lambda: "nan", 0, 0.6),
        (lambda: "soon", 0, 0.6),
    ],
    ids=["seconds", "date", "capped", "negative", "nan", "nonsense"],
)
def test_retry_after(bench: Bench, header: Callable[[], str], low: float, high: float) -> None:
    busy = Say({}, 429, {"retry-after": header()})
    bench.server.on(f"GET {bench.path}/b1", busy, Say(bench.batch))
    bench.client().status("b1")
    assert low <= bench.slept[0] <= high


def test_a_poll_tells_how_long_the_provider_asks_to_wait(bench: Bench) -> None:
    bench.server.on(f"GET {bench.path}/b1", Say(bench.batch, headers={"retry-after": "10"}))
    assert bench.client().status("b1").retry_after == 10
    bench.server.on(f"GET {bench.path}/b1", Say(bench.batch))
    assert bench.client().status("b1").retry_after is None


def test_a_quota_that_is_used_up_is_not_asked_again(bench: Bench) -> None:
    error = bench.error("pay", code="insufficient_quota", type="billing_error")
    bench.server.on(f"GET {bench.path}", Say(error, 429))
    with pytest.raises(ConfigurationError, match="pay"):
        list(bench.client().find(0))
    assert bench.slept == []


def test_an_unknown_job(bench: Bench) -> None:
    bench.server.on(f"GET {bench.path}/b1", Say(bench.error(), 404))
    with pytest.raises(JobNotFoundError, match="does not know the batch b1"):
        bench.client().status("b1")
    # A proxy's 404 says nothing about the job, which may be running and paid for.
    bench.server.on(f"GET {bench.path}/b1", Say(b"<html>", 404))
    with pytest.raises(ProviderError) as caught:
        bench.client().status("b1")
    assert type(caught.value) is ProviderError


@pytest.mark.parametrize("job_id", ["", ".", "..", "a\nb", "\x7f"])
def test_what_cannot_be_a_job_id_is_not_asked_for(bench: Bench, job_id: str) -> None:
    for act in (bench.client().status, bench.client().cancel):
        with pytest.raises(ConfigurationError, match="not the ID"):
            act(job_id)
    assert bench.server.seen == []


@pytest.mark.parametrize("job_id", ["../files", "a/b", "a?b", "a b", "a%2Fb", "é", "x" * 320])
def test_a_job_id_is_one_segment_of_the_url(bench: Bench, job_id: str) -> None:
    quoted = quote(job_id, safe="")
    bench.server.on(f"GET {bench.path}/{quoted}", Say(bench.batch))
    bench.server.on(f"POST {bench.path}/{quoted}/cancel", Say(bench.batch))
    assert bench.client().status(job_id).word
    bench.client().cancel(job_id)
    assert len(bench.server.seen) == 2


@pytest.mark.parametrize("status", [400, 409])
def test_cancelling_a_job_that_has_ended_is_no_error(bench: Bench, status: int) -> None:
    route = f"POST {bench.path}/b1/cancel"
    bench.server.on(route, Say({}, 503), Say(bench.error(), status))
    bench.client().cancel("b1")
    assert bench.server.count(route) == 2
    bench.server.on(route, Say(bench.error(), 404))
    with pytest.raises(JobNotFoundError):
        bench.client().cancel("b1")


# Creating: what may exist is never created again.


@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "429"])
def test_a_create_with_unknown_outcome_is_not_repeated(bench: Bench, fault: str) -> None:
    bench.timeout = 0.3 if fault == "time-out" else 5
    bench.server.on(f"POST {bench.path}", FAULTS[fault])
    with pytest.raises(CreateUnknownError):
        bench.create()
    assert bench.server.count(f"POST {bench.path}") == 1
    assert bench.server.count("DELETE /v1/files/file-i") == 0


def test_a_created_batch_without_an_id_is_unknown_too(bench: Bench) -> None:
    bench.server.on(f"POST {bench.path}", Say({"ok": True}))
    with pytest.raises(CreateUnknownError):
        bench.create()


def test_create_waits_when_there_are_too_many_requests(bench: Bench) -> None:
    busy = Say(bench.error("slow down"), 429, {"retry-after": "3"})
    bench.server.on(f"POST {bench.path}", busy, busy, Say(bench.batch))
    assert bench.create().job_id == "b1"
    assert min(bench.slept) >= 3
    bench.server.on(f"POST {bench.path}", busy)
    with pytest.raises(CapacityError, match="slow down"):
        bench.create()


def test_no_room_for_the_batch_is_said_at_once(bench: Bench) -> None:
    full = bench.error("Enqueued token limit reached for m")
    bench.server.on(f"POST {bench.path}", Say(full, 429))
    with pytest.raises(CapacityError, match="Enqueued token limit"):
        bench.create()
    assert bench.server.count(f"POST {bench.path}") == 1
    # The uploaded file will not be used by anyone.
    assert bench.server.count("DELETE /v1/files/file-i") == (bench.kind == "openai")


def test_a_create_that_is_refused(bench: Bench) -> None:
    bench.server.on(f"POST {bench.path}", Say(bench.error("bad window"), 400))
    with pytest.raises(ConfigurationError, match="bad window"):
        bench.create()
    bench.server.on(f"POST {bench.path}", Say(bench.error("pay", type="billing_error"), 402))
    with pytest.raises(ConfigurationError, match="pay"):
        bench.create()
    assert bench.server.count(f"POST {bench.path}") == 2


def test_nobody_listens() -> None:
    with loopback() as gone:
        url = gone.url
    for kind in KINDS:
        bench = Bench(kind, gone)
        client = bench.client(base=f"{url}/v1")
        with pytest.raises(ProviderError, match="ConnectError") as caught:
            client.create(Submission("n", bench.provider.dialects[0].endpoint, (), [], 0))
        assert type(caught.value) is ProviderError  # not CreateUnknownError
        assert len(bench.slept) == 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_one_line(bench: Bench, status: int) -> None:
    for route in (f"POST {bench.path}", "POST /v1/files", f"GET {bench.path}/b1"):
        bench.server.on(route, Say(bench.error("nope"), status))
    submission = Submission("n", bench.provider.dialects[0].endpoint, (), [], 0)
    for act in (lambda: bench.client().create(submission), lambda: bench.client().status("b1")):
        with pytest.raises(ConfigurationError, match=str(status)):
            act()
    assert bench.slept == []


@pytest.mark.parametrize(
    "say", [Say({}, 404), Say(b"<html>", 404), Say({}, 405), Say(b"", 302), Say(b"<html>", 403)]
)
def test_a_server_without_a_batch_api(bench: Bench, say: Say) -> None:
    for route in (f"POST {bench.path}", "POST /v1/files", f"GET {bench.path}"):
        bench.server.on(route, say)
    submission = Submission("n", bench.provider.dialects[0].endpoint, (), [], 0)
    expected = "403" if say.status == 403 else "no batch API at this base URL"
    with pytest.raises(ConfigurationError, match=expected):
        bench.client().create(submission)
    assert not bench.client().has_batch_api()


def test_the_registry() -> None:
    assert [provider.name for provider in providers()][:2] == list(KINDS)
    for provider in providers():
        assert by_name(provider.name) is provider
        if provider.job_id_prefix:
            check_job_id(f"{provider.job_id_prefix}x")
    check_job_id("5f0c8f1e-8e0f-4b7e-9d0c-3f5a2c1b7a90")
    with pytest.raises(ConfigurationError, match=r"batch_…, msgbatch_…, batches/…"):
        check_job_id("job-x")
    with pytest.raises(
        ConfigurationError, match="'nobody'; known are openai, anthropic, google, mistral"
    ):
        by_name("nobody")


@pytest.mark.parametrize(
    ("provider", "base_url", "job_id", "may"),
    [
        ("openai", "https://api.openai.com/v1", "batch_1", True),
        ("openai", "https://api.openai.com/v1", "5f0c8f1e-8e0f-4b7e-9d0c-3f5a2c1b7a90", False),
        ("openai", "http://ogx:8321/v1", "5f0c8f1e-8e0f-4b7e-9d0c-3f5a2c1b7a90", True),
        ("openai", "http://ogx:8321/v1", "msgbatch_1", False),
        ("anthropic", "https://api.anthropic.com/v1", "msgbatch_1", True),
        ("anthropic", "https://api.anthropic.com/v1", "batch_1", False),
    ],
)
def test_where_a_job_may_be(provider: str, base_url: str, job_id: str, may: bool) -> None:
    assert may_have_job(Target(provider, base_url, "/x"), job_id) is may

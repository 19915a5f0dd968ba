"""Downloads, whole or not at all, and the question whether a base URL has a batch API."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Iterator

import pytest
from support.loopback import Say, loopback
from support.provider_bench import KINDS, Bench

from pytest_langasync.exceptions import JobNotFoundError, ProviderError


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with loopback() as server:
        yield Bench(request.param, server)


# Results: whole, or not at all.


def test_rows_from_a_spoiled_file(bench: Bench) -> None:
    raw = bench.row("u").replace(b'"answer": "u"', '"answer": "a\u2028b"'.encode())
    spoiled = b"\n".join([bench.row("a") + b"garbage", b"", b'["no object"]', b'{"no": "id"}'])
    body = spoiled + b"\n" + b"\xff\xfe\n" + raw + b"  \n" + bench.row("b").rstrip(b"\n")
    bench.server.on(f"GET {bench.results}", Say(body))
    assert bench.rows() == ["a", "u", "b"]


def test_gzip_and_many_rows(bench: Bench) -> None:
    body = b"".join(bench.row(str(n)) for n in range(5000))
    packed = Say(gzip.compress(body), headers={"content-encoding": "gzip"})
    bench.server.on(f"GET {bench.results}", packed)
    assert bench.rows() == [str(n) for n in range(5000)]


@pytest.mark.parametrize(
    "fault",
    [
        dataclasses.replace(Say(b""), fault="reset"),
        Say(b'{"custom_id": "a", "resp', fault="cut"),
        Say(b'{"custom_id": "a", "resp', fault="close"),
        Say(b"<html>", headers={"content-type": "text/html"}),
        Say({}, 503),
        Say(gzip.compress(b"x" * 100)[:-9], headers={"content-encoding": "gzip"}),
    ],
    ids=["reset", "cut", "closed in a line", "html", "503", "gzip"],
)
def test_a_broken_download_is_repeated_and_yields_each_row_once(bench: Bench, fault: Say) -> None:
    spoiled = dataclasses.replace(fault, body=bench.row("a") + fault.data) if fault.fault else fault
    whole = Say(bench.row("b") + bench.row("a"))
    bench.server.on(f"GET {bench.results}", spoiled, whole)
    assert bench.rows() == ["b", "a"]
    bench.server.on(f"GET {bench.results}", spoiled)
    with pytest.raises(ProviderError, match="downloading results"):
        bench.rows()


@pytest.mark.parametrize("spoil", ["damaged", "short"])
def test_what_came_damaged_or_short_is_fetched_again(bench: Bench, spoil: str) -> None:
    second = bench.row("b")[:9] + b"\x00" + bench.row("b")[10:] if spoil == "damaged" else b""
    whole = Say(bench.row("a") + bench.row("b"))
    route = f"GET {bench.results}"
    bench.server.on(route, Say(bench.row("a") + second), whole)
    assert bench.rows(counted=2) == ["a", "b"]
    bench.server.on(route, Say(bench.row("a") + second))
    before = bench.server.count(route)
    assert bench.rows(counted=2) == ["a"], "counters may be wrong"
    assert bench.server.count(route) - before == 3


def test_a_download_of_something_else_is_no_set_of_missing_rows(bench: Bench) -> None:
    bench.server.on(f"GET {bench.results}", Say(b"<html>\n</html>\n"))
    with pytest.raises(ProviderError, match="no results"):
        bench.rows()


def test_results_that_are_gone(bench: Bench) -> None:
    bench.server.on(f"GET {bench.results}", Say(bench.error(), 404))
    with pytest.raises(JobNotFoundError, match=r"no longer|does not know"):
        bench.rows()


# Does this base URL have a batch API?


def test_a_listing_shows_a_batch_api(bench: Bench) -> None:
    bench.server.on(f"GET {bench.path}", Say({}, 503), Say(bench.listing))
    assert bench.client().has_batch_api()
    bench.server.on(f"GET {bench.path}", Say({**bench.listing, "data": []}))
    assert bench.client().has_batch_api()
    lacking = "object" if bench.kind == "openai" else "has_more"
    partial = {name: value for name, value in bench.listing.items() if name != lacking}
    for answer in (partial, bench.listing | {"data": {}}, {"ok": True}):
        bench.server.on(f"GET {bench.path}", Say(answer))
        assert not bench.client().has_batch_api()
    models = {"object": "list", "has_more": False, "data": [{"id": "m", "object": "model"}]}
    bench.server.on(f"GET {bench.path}", Say(models))
    assert not bench.client().has_batch_api()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_asks_for_a_key_first_has_one(bench: Bench, status: int) -> None:
    bench.server.on(f"GET {bench.path}", Say(bench.error(), status))
    assert bench.client().has_batch_api()
    bench.server.on(f"GET {bench.path}", Say({"error": "Unauthorized"}, status))
    assert not bench.client().has_batch_api()


def test_a_server_in_trouble_is_not_judged(bench: Bench) -> None:
    bench.server.on(f"GET {bench.path}", Say({}, 503))
    with pytest.raises(ProviderError):
        bench.client().has_batch_api()
    bench.server.on(f"GET {bench.path}", Say({}, 501))
    assert not bench.client().has_batch_api()

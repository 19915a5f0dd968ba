"""The account of a run: sources, sums, and adding up several processes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_langasync.costs.ledger import Books, Ledger, Retry
from pytest_langasync.costs.prices import PriceBook
from pytest_langasync.models import Answer, Call, MissingCall, Request, Target
from pytest_langasync.plugin.xdist_messages import WorkerBooks, encode, read

START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
PRICES = PriceBook()


def a_call(text: str = "hi", model: str = "gpt-4o-mini", owner: str = "t.py::test") -> Call:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    request = Request(Target("openai", "https://api.example/v1", "/chat/completions"), body)
    return Call(request, owner, 0)


def an_answer(call: Call, *, after: float = 10, job: str = "batch_1", **more: Any) -> Answer:
    body = {
        "model": more.pop("served", call.request.model),
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
    }
    values: dict[str, Any] = {"status": 200, "body": body, "bought_at": START + after - 5}
    return Answer(call.key, job_id=job, received_at=START + after, **(values | more))


def a_pending(call: Call) -> MissingCall:
    request = call.request
    return MissingCall(
        key=call.key,
        owner=call.owner,
        occurrence=0,
        target=request.target,
        model=request.model,
        size=10,
    )


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(START, PRICES)


def test_sources_and_what_they_cost(ledger: Ledger) -> None:
    for text, after, job in (("a", 10, "batch_1"), ("b", 10, ""), ("c", -60, "batch_0")):
        call = a_call(text)
        ledger.used("t.py::test", call, an_answer(call, after=after, job=job))
    total = ledger.summary().total
    assert (total.batched, total.realtime, total.cached) == (1, 1, 1)
    assert total.list_price == 3 * Decimal("0.00021")
    assert total.paid == Decimal("0.000105") + Decimal("0.00021")  # half, all, nothing
    assert total.saved == Decimal("0.000315")
    assert total.saved_percent == pytest.approx(50)
    assert (total.input_tokens, total.output_tokens) == (3000, 300)
    assert [entry.source for entry in ledger.calls("t.py::test")] == ["batch", "realtime", "cache"]
    assert ledger.summary().cache_ages == (65.0, 65.0)
    assert ledger.summary().jobs == ("batch_0", "batch_1")


def test_an_answer_used_again_counts_once(ledger: Ledger) -> None:
    call = a_call()
    first = ledger.used("t.py::test", call, an_answer(call))
    assert ledger.used("t.py::test", call, an_answer(call)) is first
    ledger.used("t.py::other", call, an_answer(call))
    assert ledger.summary().total.requests == 1
    assert len(ledger.calls("t.py::test")) == len(ledger.calls("t.py::other")) == 1


def test_a_newer_answer_takes_the_place_of_an_older_one(ledger: Ledger) -> None:
    call = a_call()
    ledger.used("t.py::test", call, an_answer(call, after=-60))
    ledger.used("t.py::test", call, an_answer(call, after=60))
    total = ledger.summary().total
    assert (total.cached, total.batched) == (0, 1)


def test_unknown_prices_are_counted_and_left_out(ledger: Ledger) -> None:
    for text, model in (("a", "gpt-4o-mini"), ("b", "my-finetune"), ("c", "my-finetune")):
        call = a_call(text, model)
        ledger.used("t.py::test", call, an_answer(call))
    rows = {row.model: row for row in ledger.summary().rows}
    assert rows["my-finetune"].unknown == 2
    assert rows["my-finetune"].list_price == rows["my-finetune"].paid == 0
    assert rows["gpt-4o-mini"].unknown == 0
    assert ledger.summary().total.list_price == Decimal("0.00021")


def test_a_known_list_price_without_a_batch_price_is_in_no_sum(ledger: Ledger) -> None:
    body = {"model": "deepseek-chat", "messages": []}
    request = Request(Target("deepseek", "https://api.example/v1", "/chat/completions"), body)
    call = Call(request, "t.py::test", 0)
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    answer = {"model": "deepseek-chat", "usage": usage}
    ledger.used("t.py::test", call, an_answer(call, body=answer))
    total = ledger.summary().total
    assert total.unknown == 1
    assert total.list_price == total.paid == 0


def test_errors_cost_nothing_and_are_failed(ledger: Ledger) -> None:
    call = a_call()
    ledger.used("t.py::test", call, an_answer(call, status=400, body={"error": {"message": "no"}}))
    total = ledger.summary().total
    assert (total.batched, total.failed, total.unknown) == (1, 1, 0)
    assert total.list_price == 0


def test_a_success_without_usage_has_an_unknown_price(ledger: Ledger) -> None:
    call = a_call()
    ledger.used("t.py::test", call, an_answer(call, body={"model": "gpt-4o-mini"}))
    assert ledger.summary().total.unknown == 1


def test_deferred_until_answered(ledger: Ledger) -> None:
    one, two = a_call("a"), a_call("b")
    ledger.deferred("t.py::test", a_pending(one), "batch_9")
    ledger.deferred("t.py::test", a_pending(two), None)
    assert ledger.summary().total.deferred == 2
    assert ledger.summary().jobs == ("batch_9",)
    assert [waiting.job_id for waiting in ledger.waiting("t.py::test")] == ["batch_9", None]
    ledger.used("t.py::test", one, an_answer(one))
    assert ledger.summary().total.deferred == 1
    assert [waiting.key for waiting in ledger.waiting("t.py::test")] == [two.key]


def test_the_model_that_served_is_named_where_it_differs(ledger: Ledger) -> None:
    one, two = a_call("a"), a_call("b")
    ledger.used("t.py::test", one, an_answer(one, served="gpt-4o-mini-2024-07-18"))
    ledger.used("t.py::test", two, an_answer(two))
    (row,) = ledger.summary().rows
    assert (row.model, row.served) == ("gpt-4o-mini", ("gpt-4o-mini-2024-07-18",))


def test_the_rest_of_the_account(ledger: Ledger) -> None:
    ledger.passed("llm.example", "no batch API")
    ledger.passed("llm.example", "the host has none")
    ledger.masked("t.py::test")
    ledger.changed("t.py::b")
    ledger.changed("t.py::a")
    ledger.retried("batch_1", "rate limit", 2)
    ledger.retried("batch_1", "rate limit", 3)
    summary = ledger.summary()
    no_api, other = ("llm.example", 1, "no batch API"), ("llm.example", 1, "the host has none")
    assert summary.passed == (no_api, other)
    assert summary.masked == 1
    assert summary.changed == ("t.py::a", "t.py::b")
    assert summary.retries == (Retry("batch_1", "rate limit", 5),)


def test_no_body_is_kept(ledger: Ledger) -> None:
    call = a_call("a secret prompt")
    body = {"model": "gpt-4o-mini", "choices": ["a secret answer"]}
    ledger.used("t.py::test", call, an_answer(call, body=body))
    assert "secret" not in repr(ledger.books())


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("used"),
            st.integers(0, 2),
            st.sampled_from(["gpt-4o-mini", "gpt-4o", "my-finetune"]),
            st.sampled_from([-90.0, -5.0, 5.0, 90.0]),
            st.sampled_from(["", "batch_1", "batch_2"]),
            st.sampled_from([200, 429]),
        ),
        st.tuples(
            st.just("deferred"), st.integers(0, 2), st.sampled_from([None, "batch_3", "batch_4"])
        ),
        st.tuples(st.just("passed"), st.sampled_from("ab"), st.sampled_from("xyz")),
        st.tuples(st.just("masked"), st.sampled_from("tu")),
        st.tuples(st.just("changed"), st.sampled_from("tu")),
        st.tuples(st.just("retried"), st.just("batch_1"), st.sampled_from("xy"), st.just(2)),
    ),
    max_size=8,
)


def sent(ledger: Ledger) -> Books:
    """Return the books as another process gets them."""
    message = WorkerBooks(ledger=ledger.books(), used=[], troubles=[], not_reproducible=[], left=0)
    books = read(WorkerBooks, encode(message)).ledger
    assert books == ledger.books()
    return books


def played(script: list[tuple[Any, ...]]) -> Books:
    ledger = Ledger(START, PRICES)
    for kind, *rest in script:
        if kind == "used":
            number, model, after, job, status = rest
            call = a_call(str(number), model, f"test_{number % 3}")
            ledger.used(call.owner, call, an_answer(call, after=after, job=job, status=status))
        elif kind == "deferred":
            call = a_call(str(rest[0]), owner=f"test_{rest[0] % 3}")
            ledger.deferred(call.owner, a_pending(call), rest[1])
        else:
            getattr(ledger, kind)(*rest)
    return sent(ledger)


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, min_size=1, max_size=3), st.randoms())
def test_merging_is_order_independent_and_totals_are_the_sum_of_rows(
    scripts: list[list[tuple[Any, ...]]], shuffle: Any
) -> None:
    parts = [played(script) for script in scripts]
    one, other = Ledger(START, PRICES), Ledger(START, PRICES)
    for part in parts:
        one.merge(part)
    shuffle.shuffle(parts)
    for part in parts:
        other.merge(part)
    assert one.summary() == other.summary()
    assert one.books().entries == other.books().entries
    assert {t: set(one.calls(t)) for t in one.tests()} == {
        t: set(other.calls(t)) for t in other.tests()
    }
    rows, total = one.summary().rows, one.summary().total
    for name in ("batched", "cached", "realtime", "failed", "deferred", "unknown"):
        assert getattr(total, name) == sum(getattr(row, name) for row in rows)
    for name in ("input_tokens", "output_tokens", "list_price", "paid", "saved"):
        assert getattr(total, name) == sum(getattr(row, name) for row in rows)
    assert total.requests == sum(row.requests for row in rows) == len(one.books().entries)


def test_workers_that_disagree_are_settled_alike_in_any_order() -> None:
    call = a_call()
    parts = []
    for after, job, why in ((-60.0, "batch_1", "no batch API"), (60.0, "batch_2", "a mock")):
        worker = Ledger(START, PRICES)
        worker.used(call.owner, call, an_answer(call, after=after))
        worker.deferred("other", a_pending(a_call("b")), job)
        worker.passed("llm.example", why)
        parts.append(worker.books())
    for order in (parts, parts[::-1]):
        controller = Ledger(START, PRICES)
        for part in order:
            controller.merge(part)
        assert controller.summary().total.batched == 1
        assert controller.summary().jobs == ("batch_1", "batch_2")
        assert controller.waiting("other")[0].job_id == "batch_2"
        assert [why for _, _, why in controller.summary().passed] == ["a mock", "no batch API"]


def test_workers_of_different_tests_add_up() -> None:
    parts = []
    for text in "ab":
        worker = Ledger(START, PRICES)
        call = a_call(text, owner=f"test_{text}")
        worker.used(call.owner, call, an_answer(call))
        worker.passed("llm.example", "no batch API")
        parts.append(sent(worker))
    controller = Ledger(START, PRICES)
    for part in parts:
        controller.merge(part)
    assert controller.summary().total.batched == 2
    assert controller.summary().total.paid == Decimal("0.00021")
    assert controller.summary().passed == (("llm.example", 2, "no batch API"),)
    assert controller.tests() == ("test_a", "test_b")

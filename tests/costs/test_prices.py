"""Money is checked against sums made by hand from the published prices per million tokens."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pytest_langasync.config import settings_from
from pytest_langasync.costs.own_prices import OwnPrices
from pytest_langasync.costs.prices import (
    IMAGE_TOKENS,
    Cost,
    PriceBook,
    Usage,
    add_estimates,
    usage_of,
)
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import Request, Target

AT = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
CHAT = "/chat/completions"


def chat(model: str, given: int, made: int, cached: int = 0, **more: Any) -> dict[str, Any]:
    usage = {
        "prompt_tokens": given,
        "completion_tokens": made,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    return {"model": model, "usage": usage, **more}


def message(model: str, **usage: Any) -> dict[str, Any]:
    return {"model": model, "usage": {"input_tokens": 10, "output_tokens": 7, **usage}}


def cost(provider: str, endpoint: str, body: Any, model: str = "", at: float = AT) -> Cost:
    return PriceBook().cost(provider, endpoint, model or body["model"], body, at=at)


def request(body: dict[str, Any], endpoint: str = CHAT, provider: str = "openai") -> Request:
    return Request(Target(provider, "https://api.example/v1", endpoint), body)


def ask(content: Any, **more: Any) -> Request:
    messages = [{"role": "user", "content": content}]
    return request({"model": "gpt-4o-mini", "messages": messages, **more})


def test_openai_chat_includes_cached_tokens_and_prices_them_apart() -> None:
    got = cost("openai", CHAT, chat("gpt-4o-mini-2024-07-18", 1000, 100, cached=400))
    assert got.usage == Usage(1000, 100, 400, 0, 3)
    # 600 x 0.15 + 400 x 0.075 + 100 x 0.60
    assert got.list_price == Decimal("180") / 1_000_000
    # 600 x 0.075 + 400 x 0.075 (no batch price of its own is published) + 100 x 0.30
    assert got.batch_price == Decimal("105") / 1_000_000


def test_openai_responses() -> None:
    usage = {
        "input_tokens": 2000,
        "input_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 0},
        "output_tokens": 500,
        "output_tokens_details": {"reasoning_tokens": 400},
    }
    got = cost("openai", "/responses", {"model": "gpt-5-nano-2025-08-07", "usage": usage})
    assert got.usage == Usage(2000, 500, 1000, 0, 400)
    # 1000 x 0.05 + 1000 x 0.005 + 500 x 0.40; as a batch half of each
    assert got.list_price == Decimal("255") / 1_000_000
    assert got.batch_price == Decimal("127.5") / 1_000_000


def test_anthropic_excludes_cached_tokens_from_input_tokens() -> None:
    body = message(
        "claude-sonnet-4-5-20250929",
        cache_read_input_tokens=100,
        cache_creation_input_tokens=50,
        cache_creation={"ephemeral_1h_input_tokens": 20, "ephemeral_5m_input_tokens": 30},
        service_tier="batch",
    )
    got = cost("anthropic", "/messages", body)
    assert got.usage == Usage(160, 7, 100, 50, 0)
    # 10 x 3 + 100 x 0.30 + 30 x 3.75 + 20 x 6 + 7 x 15; as a batch half of each
    assert got.list_price == Decimal("397.5") / 1_000_000
    assert got.batch_price == Decimal("198.75") / 1_000_000


def test_a_long_prompt_is_priced_in_its_tier() -> None:
    got = cost("anthropic", "/messages", message("claude-sonnet-4-5", input_tokens=200_001))
    # above 200,000 tokens: 6 in and 22.50 out; as a batch 3 and 11.25
    assert got.list_price == (200_001 * 6 + 7 * Decimal("22.5")) / 1_000_000
    assert got.batch_price == (200_001 * 3 + 7 * Decimal("11.25")) / 1_000_000


def test_openai_halves_every_batch_embeddings_included() -> None:
    body = {"model": "text-embedding-3-small", "usage": {"prompt_tokens": 100, "total_tokens": 100}}
    got = cost("openai", "/embeddings", body)
    assert got.usage == Usage(100)
    assert got.list_price == Decimal("2") / 1_000_000
    assert got.batch_price == Decimal("1") / 1_000_000


def test_no_batch_price_is_made_up_for_others() -> None:
    got = cost("deepseek", CHAT, chat("deepseek-chat", 100, 0))
    assert got.list_price is not None and got.batch_price is None


@pytest.mark.parametrize(
    ("provider", "endpoint", "body", "fees"),
    [
        ("openai", "/responses", {"output": [{"type": "web_search_call"}] * 100}, "1"),
        ("openai", "/responses", {"output": [{"type": "file_search_call"}] * 2}, "0.005"),
        (
            "openai",
            "/responses",
            {"output": [{"type": "web_search_call", "action": {"type": "open_page"}}]},
            "0",
        ),
        ("anthropic", "/messages", {"server_tool_use": {"web_search_requests": 3}}, "0.03"),
    ],
)
def test_hosted_tools_cost_a_fee_which_a_batch_does_not_halve(
    provider: str, endpoint: str, body: dict[str, Any], fees: str
) -> None:
    model = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5"}[provider]
    plain = message(model)
    whole = {**plain, **body} if "output" in body else message(model, **body)
    got, tokens = cost(provider, endpoint, whole), cost(provider, endpoint, plain)
    assert got.list_price is not None and got.batch_price is not None
    assert tokens.list_price is not None and tokens.batch_price is not None
    assert got.list_price - tokens.list_price == Decimal(fees)
    assert got.batch_price - tokens.batch_price == Decimal(fees)


def test_a_tool_without_a_known_fee_makes_the_price_unknown() -> None:
    body = message("gpt-5-mini") | {"output": [{"type": "code_interpreter_call"}]}
    assert cost("openai", "/responses", body).list_price is None
    searching = chat("gpt-4o-search-preview", 10, 5, choices=[])
    assert cost("openai", CHAT, searching).list_price is None
    book = own("code_interpreter_call = 0.03; web_search_call = 0.025")
    got = book.cost("openai", "/responses", "", body, at=AT)
    assert got.list_price is not None and got.list_price > Decimal("0.03")
    got = book.cost("openai", CHAT, "", searching, at=AT)
    assert got.list_price is not None and got.list_price > Decimal("0.025")


def own(text: str) -> PriceBook:
    """Return a book with prices of the project's own."""
    settings = settings_from(Path(), {}, {"langasync_prices": text}.get)
    return PriceBook(OwnPrices(settings.prices))


def test_own_prices_add_and_override() -> None:
    book = own("house-* = input 2, output 10, cached 1\ngpt-4o-mini = input 100 output 0 batch 1")
    got = book.cost("openai", CHAT, "", chat("house-7b", 1000, 100, cached=400), at=AT)
    assert got.list_price == (600 * 2 + 400 * 1 + 100 * 10) / Decimal(1_000_000)
    assert got.batch_price == got.list_price / 2
    for served in ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"):
        got = book.cost("openai", CHAT, "gpt-4o-mini", chat(served, 1000, 100), at=AT)
        assert got.list_price == got.batch_price == Decimal("0.1")
    assert book.cost("openai", CHAT, "", chat("other-7b", 1, 1), at=AT).list_price is None
    assert book.estimate(ask("x" * 4000, max_tokens=5), at=AT).list_price > Decimal("0.09")  # type: ignore[operator]


@pytest.mark.parametrize("line", ["x", "x =", "x = input", "x = inptu 3", "x = input -1", "= 3"])
def test_a_mistake_in_own_prices_is_told(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"langasync_prices: .* is no price"):
        own(line)


def test_a_request_that_asks_for_flex_has_its_list_price() -> None:
    body = chat("gpt-5-mini", 1_000_000, 0, service_tier="default")
    book = PriceBook()
    asked = book.cost("openai", CHAT, "", body, at=AT, tier="flex")
    plain = book.cost("openai", CHAT, "", body, at=AT)
    assert (asked.list_price, plain.list_price) == (Decimal("0.125"), Decimal("0.25"))
    assert asked.batch_price == plain.batch_price == Decimal("0.125")


def test_a_price_change_applies_from_its_date() -> None:
    book = PriceBook()
    body = message("claude-sonnet-4-6", input_tokens=250_000, output_tokens=0)
    prices = {
        book.cost("anthropic", "/messages", "", body, at=datetime(*day, tzinfo=UTC).timestamp())
        for day in ((2026, 2, 20), (2026, 11, 1))
    }
    assert len({got.list_price for got in prices}) == 2


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "my-finetune"), ("openai", "claude-sonnet-4-5"), ("nobody", "gpt-4o-mini")],
)
def test_unknown_models_and_providers_have_no_price(provider: str, model: str) -> None:
    got = cost(provider, CHAT, chat(model, 1000, 100))
    assert (got.list_price, got.batch_price) == (None, None)


def test_an_unknown_snapshot_of_a_known_alias_has_the_aliass_price() -> None:
    known = cost("openai", CHAT, chat("gpt-4o-mini", 1000, 100))
    body = chat("gpt-4o-mini-2031-01-01", 1000, 100)
    assert cost("openai", CHAT, body, model="gpt-4o-mini") == known
    assert cost("openai", CHAT, chat("other", 1000, 100), model="gpt-4o-mini").list_price is None


def test_the_model_that_served_is_priced_not_the_one_asked_for() -> None:
    body = chat("gpt-4o-2024-08-06", 1000, 0)
    assert cost("openai", CHAT, body, model="gpt-4o-mini").list_price == Decimal("0.0025")


def test_service_tiers() -> None:
    standard = cost("openai", CHAT, chat("gpt-4o-mini", 1000, 100, service_tier="default"))
    priority = cost("openai", CHAT, chat("gpt-4o-mini", 1000, 100, service_tier="priority"))
    unheard_of = cost("openai", CHAT, chat("gpt-4o-mini", 1000, 100, service_tier="scale"))
    assert standard.list_price == Decimal("210") / 1_000_000
    assert priority.list_price == Decimal("350") / 1_000_000  # 1000 x 0.25 + 100 x 1
    assert unheard_of.list_price is None


def test_a_regional_surcharge_without_a_published_price_is_unknown() -> None:
    at_home = cost("anthropic", "/messages", message("claude-opus-4-8", inference_geo="us"))
    anywhere = cost("anthropic", "/messages", message("claude-opus-4-8", inference_geo="global"))
    assert (at_home.list_price, at_home.batch_price) == (None, None)
    assert at_home.usage is not None
    assert anywhere.list_price == Decimal("225") / 1_000_000  # 10 x 5 + 7 x 25


@pytest.mark.parametrize(
    "body",
    [
        None,
        "text",
        {},
        {"model": "gpt-4o-mini"},
        {"model": "gpt-4o-mini", "usage": None},
        {"model": "gpt-4o-mini", "usage": {"prompt_tokens": "many"}},
        {"error": {"message": "no"}},
    ],
)
def test_bodies_without_usage(body: Any) -> None:
    assert usage_of("openai", CHAT, body) is None
    assert PriceBook().cost("openai", CHAT, "gpt-4o-mini", body, at=AT) == Cost()


def test_usage_that_contradicts_itself_has_no_price() -> None:
    got = cost("openai", CHAT, chat("gpt-4o-mini", 10, 5, cached=400))
    assert got.usage == Usage(10, 5, 400, 0, 3)
    assert got.list_price is None


def test_estimate_from_length_and_output_limit() -> None:
    got = PriceBook().estimate(ask("x" * 3996, max_tokens=50, n=2), at=AT)
    assert got.input_tokens == 1000  # 3,996 characters and the role "user"
    assert got.output_tokens_upper == 100
    assert got.list_price == Decimal("150") / 1_000_000
    assert got.batch_price == Decimal("75") / 1_000_000
    assert got.list_upper == Decimal("210") / 1_000_000
    assert got.batch_upper == Decimal("105") / 1_000_000


def test_estimate_without_a_limit_takes_the_models_window() -> None:
    got = PriceBook().estimate(ask("hello"), at=AT)
    assert got.output_tokens_upper == 128_000


def test_estimate_of_an_unknown_model_is_unknown() -> None:
    one = request({"model": "my-finetune", "messages": [], "max_tokens": 5})
    got = PriceBook().estimate(one, at=AT)
    assert got.output_tokens_upper == 5
    assert {got.list_price, got.batch_price, got.list_upper, got.batch_upper} == {None}


def test_estimate_of_an_embedding_has_no_output() -> None:
    body = {"model": "text-embedding-3-small", "input": ["a" * 400, "b" * 400]}
    got = PriceBook().estimate(request(body, "/embeddings"), at=AT)
    assert (got.input_tokens, got.output_tokens_upper) == (200, 0)
    assert got.list_price == got.list_upper == Decimal("4") / 1_000_000
    assert got.batch_upper == Decimal("2") / 1_000_000
    numbers = {"model": "text-embedding-3-small", "input": [[1, 2, 3], [4, 5]]}
    assert PriceBook().estimate(request(numbers, "/embeddings"), at=AT).input_tokens == 5


def test_estimate_counts_tools_and_images_not_their_bytes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    plain = PriceBook().estimate(ask([{"type": "text", "text": "see"}], max_tokens=1), at=AT)
    seen = PriceBook().estimate(
        ask([{"type": "text", "text": "see"}, picture], max_tokens=1), at=AT
    )
    assert seen.input_tokens - plain.input_tokens == IMAGE_TOKENS
    assert seen.list_upper is not None
    tool = {"type": "function", "function": {"name": "t", "description": "d" * 4000}}
    armed = PriceBook().estimate(ask("see", tools=[tool], max_tokens=1), at=AT)
    assert armed.input_tokens > 1000
    assert armed.list_upper is not None


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"tools": [{"type": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        {"messages": [{"content": [{"type": "document", "source": {"type": "base64"}}]}]},
    ],
)
def test_estimate_is_unbounded_where_input_can_grow(more: dict[str, Any]) -> None:
    one = request({"model": "gpt-4o-mini", "messages": [], "max_tokens": 5, **more})
    got = PriceBook().estimate(one, at=AT)
    assert got.list_price is not None
    assert (got.list_upper, got.batch_upper) == (None, None)


def test_a_text_document_is_bounded() -> None:
    document = {"type": "document", "source": {"type": "text", "data": "w" * 4000}}
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"content": [document]}]}
    got = PriceBook().estimate(request(body, "/messages", "anthropic"), at=AT)
    assert got.input_tokens > 1000
    assert got.batch_upper is not None


def test_adding_estimates_keeps_the_unknown_unknown() -> None:
    book = PriceBook()
    known, other = ask("hello", max_tokens=5), request({"model": "my-finetune", "messages": []})
    twice = add_estimates(book.estimate(known, at=AT) for _ in range(2))
    one = book.estimate(known, at=AT)
    assert one.list_upper is not None
    assert twice.list_upper == 2 * one.list_upper
    assert (twice.requests, twice.output_tokens_upper) == (2, 10)
    mixed = add_estimates([one, book.estimate(other, at=AT)])
    assert (mixed.requests, mixed.list_upper, mixed.batch_price) == (2, None, None)


def test_import_loads_no_library() -> None:
    code = (
        "import sys, pytest_langasync.costs.prices, pytest_langasync.reporting.progress as p\n"
        + (
            "import pytest_langasync.reporting.terminal\n"
            "sys.exit(any(name in sys.modules for name in ('genai_prices', 'pydantic', 'rich')))"
        )
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Usage and prices: what an answer used, what it costs in real time and what as a batch.

Prices are in US dollars and come from ``genai-prices``, unless the project sets its own. What
neither knows is None: unknown. One gap is closed: OpenAI documents that a batch costs half of the
list price, for embeddings too, of which the library has the list price only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_langasync.config import CLOCK
from pytest_langasync.costs.own_prices import OwnPrices
from pytest_langasync.costs.tools import UNITS, charged_calls
from pytest_langasync.models import Request
from pytest_langasync.providers import dialect, dialect_of, halves_batches, is_free

if TYPE_CHECKING:
    from genai_prices import Usage as LibraryUsage
    from genai_prices.types import ModelInfo, Provider

__all__ = ["Cost", "Estimate", "PriceBook", "Usage", "add_estimates", "usage_of"]

IMAGE_TOKENS = 1_600
"""Assumed for every image in an estimate: what Anthropic counts for its largest standard image."""

ASSUMED_OUTPUT = 300
"""Tokens of an answer in an estimate, where no earlier answer tells."""

BYTES_PER_TOKEN = 4
"""Of UTF-8 text, in an estimate: right for English, a little high for most other languages."""

_USAGE = (  # the library's names, in the order of our fields
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
)
_STANDARD_TIERS = frozenset({"default", "standard", "standard_only", "on_demand", "auto", "batch"})
_STANDARD_PLACES = frozenset({"global", "not_available"})

_Used = tuple[tuple[str, Any], ...]
_Context = tuple[tuple[str, str], ...]
_BATCH: _Context = (("processing", "batch"),)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer. ``input_tokens`` includes both cache figures, for every provider."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    """Part of ``output_tokens``."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one answer costs in USD; None where it is not known."""

    usage: Usage | None = None
    list_price: Decimal | None = None
    """In real time, by the tier that served."""
    batch_price: Decimal | None = None
    standard_price: Decimal | None = None
    """In real time, by the standard tier."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What requests would use and cost, before they are sent; None where it cannot be known.

    ``input_tokens`` is a guess from the length of the text. ``list_price`` and ``batch_price`` are
    the price of the input alone; the two upper figures add the longest output that is possible.
    """

    input_tokens: int
    output_tokens_upper: int | None
    list_price: Decimal | None
    batch_price: Decimal | None
    list_upper: Decimal | None
    batch_upper: Decimal | None
    requests: int = 1
    list_likely: Decimal | None = None
    """With an output of a likely length, as is ``batch_likely``."""
    batch_likely: Decimal | None = None
    assumed: int = 0
    """For how many requests nothing tells a likely length: ``ASSUMED_OUTPUT`` stands for it."""


_ZERO = Decimal(0)
_FREE = Estimate(0, 0, _ZERO, _ZERO, _ZERO, _ZERO, 1, _ZERO, _ZERO)


def usage_of(provider: str, endpoint: str, body: Any) -> Usage | None:
    """Return the tokens that an answer's ``body`` reports, or None where it reports none."""
    extracted = _extract(provider, endpoint, body)
    return None if extracted is None else _own_usage(extracted)


def add_estimates(estimates: Iterable[Estimate]) -> Estimate:
    """Return the sum; a figure that is unknown for one of them is unknown in the sum."""
    total = replace(_FREE, requests=0)
    for one in estimates:
        total = Estimate(
            total.input_tokens + one.input_tokens,
            _plus(total.output_tokens_upper, one.output_tokens_upper),
            _plus(total.list_price, one.list_price),
            _plus(total.batch_price, one.batch_price),
            _plus(total.list_upper, one.list_upper),
            _plus(total.batch_upper, one.batch_upper),
            total.requests + one.requests,
            _plus(total.list_likely, one.list_likely),
            _plus(total.batch_likely, one.batch_likely),
            total.assumed + one.assumed,
        )
    return total


class PriceBook:
    """Looks prices up; never touches the network. ``genai-prices`` is loaded at the first use."""

    def __init__(self, own: OwnPrices | None = None) -> None:
        self._own = own or OwnPrices()
        self._find = lru_cache(maxsize=None)(_find)
        self._price = lru_cache(maxsize=4096)(self._uncached_price)

    def cost(
        self, provider: str, endpoint: str, model: str, body: Any, *, at: float, tier: str = ""
    ) -> Cost:
        """Return usage and both prices of an answer.

        Args:
            provider: name of the provider, such as ``openai``.
            endpoint: path below the base URL, such as ``/chat/completions``.
            model: the model asked for. The one that served, named in ``body``, goes first.
            body: the answer as decoded JSON.
            at: when it was bought, in seconds since the epoch.
            tier: the ``service_tier`` that the request asked for; it has a list price of its own,
                also where the answer came as a batch and names another.
        """
        if is_free(provider, endpoint):
            return Cost(Usage(), Decimal(0), Decimal(0), Decimal(0))
        extracted = _extract(provider, endpoint, body)
        if extracted is None:
            return Cost()
        name = self._served(provider, model, body)
        context = _context({"service_tier": tier or None}) or _real_time_context(body)
        counts = vars(extracted) | {}
        fees = self._tool_fees(charged_calls(body), counts)
        if name is None or context is None or fees is None:
            return Cost(_own_usage(extracted))
        used = tuple(counts.items())
        standard = tuple(pair for pair in context if pair[0] != "service_tier")
        return Cost(
            _own_usage(extracted),
            _plus(fees, self._price(provider, name, used, context, at // 60)),
            _plus(fees, self._price(provider, name, used, _BATCH, at // 60)),
            _plus(fees, self._price(provider, name, used, standard, at // 60)),
        )

    def _tool_fees(self, calls: Mapping[str, int], counts: dict[str, Any]) -> Decimal | None:
        """Return what the project's own table says of hosted tools, None where no one knows.

        Calls that ``genai-prices`` may know are left in ``counts``.
        """
        fees = Decimal(0)
        for kind, count in calls.items():
            unit = UNITS.get(kind)
            if kind in self._own.calls:
                fees += count * self._own.calls[kind]
                counts.pop(unit or "", None)
            elif unit is None:
                return None
            else:
                counts[unit] = count
        return fees

    def estimate(
        self, request: Request, *, at: float | None = None, likely_output: int | None = None
    ) -> Estimate:
        """Return what ``request`` would use and cost at ``at`` (seconds since the epoch; now).

        ``likely_output`` is how many tokens its answer is likely to have, where something tells.
        """
        if is_free(request.target.provider, request.target.endpoint):
            return _FREE
        minute = (CLOCK.now() if at is None else at) // 60
        found = self._find(request.target.provider, request.model)
        tokens, bounded = _input_tokens(request)
        output = _output_limit(request, found[1].context_window if found else None)
        upper = None if output is None or not bounded else _tokens(tokens, output)
        listed = _context({name: request.body.get(name) for name in ("service_tier", "speed")})

        def price(used: _Used | None, context: _Context) -> Decimal | None:
            if used is None:
                return None
            return self._price(request.target.provider, request.model, used, context, minute)

        most = ASSUMED_OUTPUT if output is None else output
        likely = _tokens(
            tokens, min(ASSUMED_OUTPUT, most) if likely_output is None else likely_output
        )
        least = _tokens(tokens, 0)
        return Estimate(
            tokens,
            output,
            price(least, listed),
            price(least, _BATCH),
            price(upper, listed),
            price(upper, _BATCH),
            1,
            price(likely, listed),
            price(likely, _BATCH),
            int(likely_output is None and most > 0),
        )

    def may_have_tier(self, provider: str, model: str, tier: str) -> bool:
        """Return whether a model may have a tier of service: surely not where its price is known,
        and none is for the tier."""
        found = self._find(provider, model)
        now = datetime.fromtimestamp(CLOCK.now(), UTC)
        return found is None or _published(*found, {"service_tier": tier}, now)

    def _served(self, provider: str, asked: str, body: Any) -> str | None:
        """Name the priced model that served; an unknown dated snapshot has its alias's price."""
        served = body.get("model") or asked
        if not isinstance(served, str):
            return None
        if self._own.knows(asked) and not self._own.knows(served):
            return asked
        if self._own.knows(served) or self._find(provider, served):
            return served
        return asked if asked and served.startswith(f"{asked}-") else None

    def _uncached_price(
        self, provider: str, model: str, used: _Used, context: _Context, minute: float
    ) -> Decimal | None:
        """Price ``used``, or None where nothing is published for this model in this context.

        The library falls back to the standard price when no variant matches: look it up first.
        """
        if self._own.knows(model):
            if any(unit in dict(used) for unit in UNITS.values()) or context not in ((), _BATCH):
                return None  # the table has no line for this tool, and none for tiers
            return self._own.price(model, dict(used), batch=context == _BATCH)
        found = self._find(provider, model)
        when = datetime.fromtimestamp(minute * 60, UTC)
        if found is None:
            return None
        if _published(*found, dict(context), when):
            return _library_price(*found, used, context, when)
        if context == _BATCH and halves_batches(provider) and _published(*found, {}, when):
            tokens = tuple(one for one in used if one[0] not in UNITS.values())
            listed = _library_price(*found, tokens, (), when)
            whole = _library_price(*found, used, (), when)
            # Half of the tokens' price; tools cost the same in a batch.
            return None if listed is None or whole is None else whole - listed / 2
        return None


def _library_price(
    provider: Provider, model: ModelInfo, used: _Used, context: _Context, when: datetime
) -> Decimal | None:
    from genai_prices import Usage as LibraryUsage

    known = vars(model.get_prices(when, dict(context)))
    if any(unit in dict(used) and known.get(f"{unit}_kcount") is None for unit in UNITS.values()):
        return None  # the library takes a tool without a price for free
    try:
        return model.calc_price(
            LibraryUsage(**dict(used)),
            provider,
            genai_request_timestamp=when,
            price_context=dict(context),
        ).total_price
    except ValueError:  # usage that contradicts itself
        return None


def _find(provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None


def _published(
    provider: Provider, model: ModelInfo, context: Mapping[str, str], when: datetime
) -> bool:
    """Return whether a price for ``context`` (empty: the standard one) was in force."""
    if not model.prices or not vars(model.get_prices(when)):
        return False
    return not context or any(
        variant.when.items() <= context.items()
        and (variant.constraint is None or variant.constraint.active(when))
        for variant in model.price_variants or ()
        if any(own is model for own in provider.models)
    )


def _plus(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left + right


def _extract(provider: str, endpoint: str, body: Any) -> LibraryUsage | None:
    """Read the usage out of a body, or None where there is none or it makes no sense."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        source = get_snapshot().find_provider(None, provider, None)
        known = {extractor.api_flavor for extractor in source.extractors or ()}
        flavor = dialect(provider, endpoint).usage_flavor
        _, usage = source.extract_usage(body, api_flavor=flavor if flavor in known else "default")
    except (LookupError, ValueError, TypeError):
        return None
    return usage


def _own_usage(usage: LibraryUsage) -> Usage:
    reported = vars(usage)
    return Usage(*(int(reported.get(name, 0)) for name in _USAGE))


def _tokens(input_tokens: int, output_tokens: int) -> _Used:
    return (("input_tokens", input_tokens), ("output_tokens", output_tokens))


def _context(tiers: Mapping[str, Any]) -> _Context:
    """Return the tiers that have a price of their own."""
    return tuple(
        (name, tier)
        for name, tier in tiers.items()
        if isinstance(tier, str) and tier not in _STANDARD_TIERS
    )


def _real_time_context(body: Mapping[str, Any]) -> _Context | None:
    """Return the price tier of an answer, or None for a surcharge without a published price."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    if usage.get("inference_geo") not in (None, "", *_STANDARD_PLACES):
        return None
    return _context({"service_tier": body.get("service_tier"), "speed": usage.get("speed")})


def _output_limit(request: Request, context_window: int | None) -> int | None:
    """Return the most tokens an answer can hold: without a limit, the model's whole window."""
    given = dialect_of(request.target).output_limit(request.body)
    limit = context_window if given is None else given
    choices = request.body.get("n")
    return None if limit is None else limit * (choices if isinstance(choices, int) else 1)


def _input_tokens(request: Request) -> tuple[int, bool]:
    """Return (estimated tokens, whether nothing but these can be added to the input)."""
    size = dialect_of(request.target).size(request.body)
    tokens = math.ceil(size.text / BYTES_PER_TOKEN) + size.numbers + size.images * IMAGE_TOKENS
    return tokens, size.bounded

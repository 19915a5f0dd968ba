"""Prices that a project sets itself: ``langasync_prices``. They go before all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

from pytest_langasync.config import OwnPriceLine

__all__ = ["OwnPrices"]

MILLION = 1_000_000
HALF = Decimal("0.5")
"""Of the list price: what every provider with a batch API asks for a batch."""


@dataclass(frozen=True)
class _Rates:
    """USD for a million tokens. ``batch`` is what a batch costs of the list price."""

    input: Decimal
    output: Decimal
    cached: Decimal
    cache_write: Decimal
    batch: Decimal

    def price(self, used: Mapping[str, int], *, batch: bool) -> Decimal:
        read, written = used.get("cache_read_tokens", 0), used.get("cache_write_tokens", 0)
        plain = max(0, used.get("input_tokens", 0) - read - written)
        total = plain * self.input + read * self.cached + written * self.cache_write
        total += used.get("output_tokens", 0) * self.output
        return total / MILLION * (self.batch if batch else 1)


class OwnPrices:
    """The table, as ``config`` has parsed it."""

    def __init__(self, lines: tuple[OwnPriceLine, ...] = ()) -> None:
        self._models: list[tuple[str, _Rates]] = []
        self.calls: dict[str, Decimal] = {}
        """USD for one call of a hosted tool, by the type of its item in an answer."""
        for name, rates in lines:
            given = {what: Decimal(str(value)) for what, value in rates}
            if "call" in given:
                self.calls[name] = given["call"]
                continue
            listed = given.get("input", Decimal(0))
            found = _Rates(
                input=listed,
                output=given.get("output", Decimal(0)),
                cached=given.get("cached", listed),
                cache_write=given.get("cache_write", listed),
                batch=given.get("batch", HALF),
            )
            self._models.append((name, found))

    def knows(self, model: str) -> bool:
        """Return whether a model has a price here."""
        return any(fnmatchcase(model, pattern) for pattern, _ in self._models)

    def price(self, model: str, used: Mapping[str, int], *, batch: bool) -> Decimal | None:
        """Return the price of tokens in USD by the first line that fits; None where none does."""
        for pattern, rates in self._models:
            if fnmatchcase(model, pattern):
                return rates.price(used, batch=batch)
        return None

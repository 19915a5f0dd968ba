"""What missing calls would cost, and the guard that refuses to spend more than was allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import Pending, Request
from pytest_langasync.pricing import Estimate, PriceBook
from pytest_langasync.store import Store

__all__ = ["Budget"]


class Budget:
    """Estimates recorded calls. Money is in USD."""

    def __init__(self, store: Store, prices: PriceBook) -> None:
        self._store = store
        self._prices = prices
        self._committed = Decimal(0)

    def estimates(self, pendings: Iterable[Pending]) -> Iterator[tuple[Pending, Estimate]]:
        """Yield what each missing call would cost."""
        for pending in pendings:
            body = self._store.spooled(pending.key)
            request = Request(
                pending.provider, pending.base_url, pending.endpoint, body, pending.headers
            )
            yield pending, self._prices.estimate(request)

    def check(self, fresh: Sequence[Pending], limit: float) -> None:
        """Commit the calls of a wave, all of them still to be bought.

        Raises:
            ConfigurationError: the run, with this wave, may cost more than ``limit``, or no upper
                bound is known.
        """
        upper = Decimal(0)
        for pending, estimate in self.estimates(fresh):
            if estimate.batch_upper is None:
                raise ConfigurationError(
                    f"--langasync-max-cost: no upper bound is known for {pending.model!r} (no "
                    "batch price or no output limit). Nothing was sent. Set an output limit on "
                    "its calls, or leave the option away"
                )
            upper += estimate.batch_upper
        if fresh and self._committed + upper > Decimal(str(limit)):
            raise ConfigurationError(
                f"--langasync-max-cost: this run may cost up to ${self._committed + upper:.4f}, "
                f"above ${limit:.4f}. The wave of {len(fresh)} requests was not sent; what was "
                "bought before stays in the cache"
            )
        self._committed += upper

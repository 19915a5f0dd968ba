"""What missing calls would cost, and the guard that refuses to spend more than was allowed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from pytest_langasync.costs.ledger import source_of
from pytest_langasync.costs.prices import Estimate, PriceBook, usage_of
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import MissingCall, Request, Target
from pytest_langasync.providers import dialect_of

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Store
    from pytest_langasync.lanes import RunContext

__all__ = ["Budget"]

SAMPLED = 50
"""How many earlier answers tell a likely length: the newest."""


@dataclass(frozen=True, slots=True)
class _Commitment:
    """A call that was sent, by whichever way, and what it may cost at most."""

    upper: Decimal
    target: Target
    model: str


class Budget:
    """Estimates recorded calls and keeps a run within its limit. Money is in USD.

    What was sent counts with its upper bound until its answer, and so its price, is known.
    ``option`` returns what a person calls a setting.
    """

    def __init__(
        self, context: RunContext, prices: PriceBook, option: Callable[[str], str]
    ) -> None:
        limit = context.settings.max_cost
        self._store = context.store
        self._prices = prices
        self._limit = None if limit is None else Decimal(str(limit))
        self._started_at = context.started_at
        self._option = option("max_cost")
        self._table = "langasync_prices" if self._option.startswith("--") else option("prices")
        self._spent = Decimal(0)
        self._open: dict[str, _Commitment] = {}

    def estimates(
        self,
        missing_calls: Iterable[MissingCall],
        *,
        output_tokens: int | None = None,
        likely: bool = False,
    ) -> Iterator[tuple[MissingCall, Estimate]]:
        """Yield what each missing call would cost, with ``output_tokens`` in place of its own
        output limit where given. ``likely`` also looks at how long earlier answers were."""
        past = PastOutputs(self._store) if likely else None
        for pending in missing_calls:
            request = self._request(pending)
            if output_tokens is not None:
                dialect = dialect_of(pending.target)
                body = dialect.with_output_limit(request.body, output_tokens)
                request = replace(request, body=body)
            length = past.likely(pending) if past else None
            yield pending, self._prices.estimate(request, likely_output=length)

    def check(self, fresh: Sequence[MissingCall], lane: str = "batch") -> None:
        """Commit calls that are about to be bought by a lane.

        Raises:
            ConfigurationError: the run, with this wave, may cost more than the limit, or no upper
                bound is known.
        """
        if self._limit is None or not fresh:
            return
        wave: dict[str, _Commitment] = {}
        for pending, estimate in self.estimates(fresh):
            request = self._request(pending)
            # What the flex tier serves may be the standard one.
            upper = estimate.batch_upper if lane == "batch" else estimate.list_upper
            wave[pending.key] = self._bounded(request, estimate, upper)
        self._commit(wave, self._limit)

    def check_now(self, key: str, request: Request) -> None:
        """Commit one call that is about to be sent in real time. Raises as ``check`` does."""
        if self._limit is not None:
            estimate = self._prices.estimate(request)
            self._commit({key: self._bounded(request, estimate, estimate.list_upper)}, self._limit)

    def _commit(self, calls: dict[str, _Commitment], limit: Decimal) -> None:
        self._settle()
        # A call that is sent once more, by another way, takes the place of its first commitment.
        others = (one.upper for key, one in self._open.items() if key not in calls)
        already = self._spent + sum(others, Decimal(0))
        more = sum((one.upper for one in calls.values()), Decimal(0))
        if already + more > limit:
            what = f"The next {len(calls):,} requests were" if len(calls) > 1 else "A request was"
            raise ConfigurationError(
                f"{self._option}: this run may cost up to ${already + more:.4f}, above "
                f"${limit:.4f}. {what} not sent; what was bought before stays in the cache"
            )
        self._open.update(calls)

    def _settle(self) -> None:
        """Replace upper bounds by prices, where answers have come."""
        for key, one in list(self._open.items()):
            answer = self._store.answer(key)
            if answer is None or source_of(answer, self._started_at) == "cache":
                continue
            to = one.target
            cost = self._prices.cost(
                to.provider, to.endpoint, one.model, answer.body, at=answer.bought_at
            )
            paid = cost.batch_price if answer.job_id else cost.list_price
            if paid is None:
                paid = one.upper if answer.ok else Decimal(0)
            self._spent += paid
            del self._open[key]

    def _request(self, pending: MissingCall) -> Request:
        return Request(pending.target, self._store.spooled(pending.key))

    def _bounded(self, request: Request, estimate: Estimate, upper: Decimal | None) -> _Commitment:
        if upper is None:
            raise ConfigurationError(
                f"{self._option}: no upper bound is known for {request.model!r}: "
                f"{_why_unbounded(estimate, self._table)}, or leave the option away. Nothing was "
                "sent for it"
            )
        return _Commitment(upper, request.target, request.model)


class PastOutputs:
    """How long the stored answers of a test, or of its function, were."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._known: dict[tuple[str, str], int | None] = {}
        for key in store.received_since(0.0):
            stored = store.request(key)
            if stored is not None:
                for owner in {stored.owner, _function(stored.owner)}:
                    self._keys[owner, stored.meta.model].append(key)

    def likely(self, call: MissingCall) -> int | None:
        """Return the median of what the same test was answered by this model, or its function."""
        for owner in (call.owner, _function(call.owner)):
            place = (owner, call.model)
            if place not in self._known:
                self._known[place] = self._median(self._keys.get(place, ()), call.target)
            if (found := self._known[place]) is not None:
                return found
        return None

    def _median(self, keys: Sequence[str], target: Target) -> int | None:
        answers = (self._store.answer(key) for key in keys[-SAMPLED:])
        used = [
            usage_of(target.provider, target.endpoint, answer.body)
            for answer in answers
            if answer is not None and answer.ok
        ]
        lengths = [usage.output_tokens for usage in used if usage is not None]
        return round(statistics.median(lengths)) if lengths else None


def _function(owner: str) -> str:
    """Return the test function of a test: what all its cases have in common."""
    return owner.partition("[")[0]


def _why_unbounded(estimate: Estimate, table: str) -> str:
    if estimate.list_price is None or estimate.batch_price is None:
        return f"it has no known price. Set one in {table}"
    if estimate.output_tokens_upper is None:
        return "nothing limits its output. Set an output limit on its calls"
    return "a tool, a file or an earlier response can add to its input. Take these away"

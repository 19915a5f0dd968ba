"""What chains' jobs cost, and what they saved."""

from __future__ import annotations

import contextvars
import sys
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any, Protocol, TextIO

from pytest_langasync.costs.ledger import Summary
from pytest_langasync.reporting.text import money

__all__ = ["CostMonitor", "active_monitors"]

BATCH_SHARE = Decimal("0.5")
"""What a batch costs of the list price where requests are counted by hand: the discount that both
OpenAI and Anthropic publish. Recorded jobs are priced one by one instead."""

COST_PER_REQUEST = 0.001
"""USD in real time: a stand-in for whoever counts requests and knows no price."""

_active: contextvars.ContextVar[tuple[CostMonitor, ...]] = contextvars.ContextVar(
    "langasync_monitors", default=()
)


def active_monitors() -> tuple[CostMonitor, ...]:
    """Return the monitors whose ``with`` block is being run here."""
    return _active.get()


class Metered(Protocol):
    """What can be recorded: a ``BatchJob``."""

    @property
    def id(self) -> str:
        """What tells two jobs apart."""

    @property
    def summary(self) -> Summary:
        """What it did and cost so far."""


@dataclass
class _Count:
    realtime: int = 0
    batch: int = 0
    cached: int = 0
    list_price: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    unknown: int = 0


class CostMonitor:
    """Adds up requests and money (USD) of jobs, of processors, and of what is told by hand.

    Jobs count with their real usage and prices, as far as they have come when the report is asked
    for. As a context manager it records every job that is submitted inside the block.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Metered] = {}
        self._by_hand = _Count()
        self._tokens: list[contextvars.Token[tuple[CostMonitor, ...]]] = []

    def record(self, job: Metered) -> None:
        """Count a job; the same job counts once."""
        self._jobs[job.id] = job

    def record_batch(
        self, count: int, use_batch_api: bool = True, cost_per_request: float = COST_PER_REQUEST
    ) -> None:
        """Count requests by hand.

        Args:
            count: how many requests.
            use_batch_api: whether they were batched, at half the list price.
            cost_per_request: what one costs in real time, in USD ($0.001 unless told).

        Raises:
            ValueError: a number is negative.
        """
        if count < 0 or cost_per_request < 0:
            raise ValueError("count and cost_per_request must not be negative")
        price = Decimal(str(cost_per_request)) * count
        self._by_hand.list_price += price
        self._by_hand.paid += price * BATCH_SHARE if use_batch_api else price
        if use_batch_api:
            self._by_hand.batch += count
        else:
            self._by_hand.realtime += count

    def as_dict(self) -> dict[str, Any]:
        """Return the sums: requests by kind, money in USD, and how many have no known price."""
        total = _Count(**vars(self._by_hand))
        for job in self._jobs.values():
            row = job.summary.total
            total.realtime += row.realtime
            total.batch += row.batched
            total.cached += row.cached
            total.list_price += row.list_price
            total.paid += row.paid
            total.unknown += row.unknown
        saved = total.list_price - total.paid
        share = 100 * saved / total.list_price if total.list_price else Decimal(0)
        return {
            "total_requests": total.realtime + total.batch + total.cached,
            "realtime_requests": total.realtime,
            "batch_requests": total.batch,
            "cached_requests": total.cached,
            "list_price_usd": float(total.list_price),
            "total_cost_usd": float(total.paid),
            "saved_usd": float(saved),
            "saved_percent": float(share),
            "unknown_price": total.unknown,
        }

    @property
    def total_cost(self) -> float:
        """What was paid, in USD."""
        return float(self.as_dict()["total_cost_usd"])

    @property
    def total_requests(self) -> int:
        """Requests of all kinds."""
        return int(self.as_dict()["total_requests"])

    @property
    def batch_api_requests(self) -> int:
        """Requests that were batched."""
        return int(self.as_dict()["batch_requests"])

    @property
    def normal_requests(self) -> int:
        """Requests that were sent in real time."""
        return int(self.as_dict()["realtime_requests"])

    def print_report(self, file: TextIO | None = None) -> None:
        """Write the sums to ``file``, by default standard output."""
        sums = self.as_dict()
        lines = [
            f"Total requests:  {sums['total_requests']:,}",
            f"  real time:     {sums['realtime_requests']:,}",
            f"  batch:         {sums['batch_requests']:,}",
        ]
        if sums["cached_requests"]:
            lines.append(f"  from cache:    {sums['cached_requests']:,}")
        lines += [
            f"Total cost:      {_usd(sums['total_cost_usd'])}",
            f"Saved:           {_usd(sums['saved_usd'])} ({sums['saved_percent']:.1f} %)",
        ]
        if sums["unknown_price"]:
            lines.append(f"Price unknown:   {sums['unknown_price']:,} requests, not in the sums")
        (file or sys.stdout).write("\n".join(lines) + "\n")

    def __enter__(self) -> CostMonitor:
        self._tokens.append(_active.set((*_active.get(), self)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _active.reset(self._tokens.pop())

    def __repr__(self) -> str:
        sums = self.as_dict()
        return (
            f"<CostMonitor: {sums['total_requests']:,} requests, "
            f"{_usd(sums['total_cost_usd'])} paid, {_usd(sums['saved_usd'])} saved>"
        )


def _usd(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.1 else money(Decimal(str(amount)))

"""The run's account: which calls it made, where their answers came from, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from sys import intern
from typing import Any, Literal

from pytest_langasync.costs.prices import PriceBook, Usage
from pytest_langasync.models import Answer, Call, MissingCall, Request, is_success

__all__ = [
    "UNUSED", "Books", "Deferred", "Entry", "Ledger", "Retry", "Source", "Summary", "SummaryRow",
    "source_of",
]  # fmt: skip

UNUSED = "(unused)"
"""Stands for a test in the books, where an answer was bought that no test used."""

Source = Literal["batch", "flex", "realtime", "cache"]


def source_of(answer: Answer, started_at: float) -> Source:
    """Return where an answer came from, for a run that began at ``started_at``."""
    if answer.foreign or answer.received_at < started_at:
        return "cache"
    if answer.job_id:
        return "batch"
    return "flex" if answer.lane == "flex" else "realtime"


@dataclass(frozen=True, slots=True)
class Entry:
    """One call and its answer, without their bodies. Prices are USD; None is unknown."""

    key: str
    provider: str
    endpoint: str
    asked: str
    """The model that the request named."""
    served: str
    """The model that the answer names, or an empty string."""
    source: Source
    job_id: str
    request_id: str
    status: int
    bought_at: float
    """Seconds since the epoch: when the answer was bought, in this run or an earlier one."""
    received_at: float
    usage: Usage | None
    list_price: Decimal | None
    paid: Decimal | None
    """What this run paid for it: nothing when it came from the cache."""
    cost: Decimal | None = None
    """What it cost when it was bought, whoever bought it."""

    @property
    def ok(self) -> bool:
        """True for a 2xx status."""
        return is_success(self.status)

    @property
    def priced(self) -> bool:
        """Whether both prices are known, so that it takes part in the sums of money."""
        return self.list_price is not None and self.paid is not None

    def order(self) -> tuple[bool, float, str]:
        """Sort key: of two entries of one key, the greater is the one that counts."""
        return (self.source != "cache", self.received_at, repr(self))


@dataclass(frozen=True, slots=True)
class Deferred:
    """A call that is still waiting. ``job_id`` is None when it was not submitted."""

    key: str
    provider: str
    endpoint: str
    asked: str
    job_id: str | None


@dataclass(frozen=True, slots=True)
class Retry:
    """Requests of a job that were sent again, and why."""

    job_id: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One provider and model. Sums of money (USD) leave out the ``unknown`` ones."""

    provider: str = ""
    model: str = ""
    served: tuple[str, ...] = ()
    """The models that served, where they differ from the one asked for."""
    batched: int = 0
    cached: int = 0
    realtime: int = 0
    flex: int = 0
    failed: int = 0
    """How many of the four before were answered with an error."""
    deferred: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    """Part of ``input_tokens``: what the provider read from its prompt cache."""
    output_tokens: int = 0
    list_price: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    """What this run paid."""
    verdicts_list_price: Decimal = Decimal(0)
    """The list price of the answers that verdicts used: what real time would have cost."""
    verdicts_cost: Decimal = Decimal(0)
    """What these cost when they were bought, in this run or an earlier one, whoever paid."""
    unknown: int = 0
    """How many answers have no known price."""

    @property
    def requests(self) -> int:
        """How many requests have an answer."""
        return self.batched + self.cached + self.realtime + self.flex

    @property
    def saved(self) -> Decimal:
        """List price less what was paid, in USD."""
        return self.list_price - self.paid

    @property
    def saved_percent(self) -> float:
        """What was saved of the list price, in percent; 0 when nothing has a price."""
        return float(100 * self.saved / self.list_price) if self.list_price else 0.0


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One lane (``batch``, ``flex``, ``realtime``, or ``cache``). Sums of money (USD) leave out
    what has no known price."""

    lane: Source
    requests: int = 0
    list_price: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)

    @property
    def saved(self) -> Decimal:
        """List price less what was paid, in USD."""
        return self.list_price - self.paid


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did and cost. ``total`` is the sum of ``rows``."""

    rows: tuple[SummaryRow, ...]
    total: SummaryRow
    jobs: tuple[str, ...]
    """IDs of the jobs whose answers this run used or waits for."""
    cache_ages: tuple[float, float] | None
    """Youngest and oldest answer from the cache, in seconds at the start of the run."""
    passed: tuple[tuple[str, int, str], ...]
    """(host, number of calls, why) of what went in real time because no batch took it."""
    masked: int
    """Answers replayed although generated identifiers in the request differed."""
    changed: tuple[str, ...]
    """Tests whose request changed since the run before."""
    retries: tuple[Retry, ...]
    unseen: tuple[str, ...] = ()
    """Tests that were judged without any call to a model."""
    lanes: tuple[LaneRow, ...] = ()
    """What came by each lane in this run, and what it cost."""


@dataclass(frozen=True)
class Books:
    """What one process of a run has in its ledger; another one's ``Ledger.merge`` takes it.

    Plain data, which pydantic carries between processes; a price stays a ``Decimal``, so that no
    digit is lost.
    """

    entries: tuple[Entry, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    tests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The keys of each test's calls, in the order in which it first made them."""
    passed: tuple[tuple[str, int, str], ...] = ()
    masked: Mapping[str, int] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    retries: tuple[Retry, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass
class _Tally:
    """A ``SummaryRow`` being added up."""

    served: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    list_price: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    verdicts_list_price: Decimal = Decimal(0)
    verdicts_cost: Decimal = Decimal(0)

    def add(self, entry: Entry, *, used: bool) -> None:
        if entry.served not in ("", entry.asked):
            self.served.add(entry.served)
        self.counts[_COLUMN[entry.source]] += 1
        self.counts["failed"] += not entry.ok
        if entry.usage is not None:
            self.counts["input_tokens"] += entry.usage.input_tokens
            self.counts["cached_input_tokens"] += entry.usage.cached_input_tokens
            self.counts["output_tokens"] += entry.usage.output_tokens
        if entry.list_price is not None and entry.paid is not None:
            self.list_price += entry.list_price
            self.paid += entry.paid
            if used and entry.cost is not None:
                self.verdicts_list_price += entry.list_price
                self.verdicts_cost += entry.cost
        else:
            self.counts["unknown"] += 1

    def row(self, provider: str, model: str) -> SummaryRow:
        return SummaryRow(
            provider,
            model,
            tuple(sorted(self.served)),
            list_price=self.list_price,
            paid=self.paid,
            verdicts_list_price=self.verdicts_list_price,
            verdicts_cost=self.verdicts_cost,
            **self.counts,
        )


_COLUMN = {"batch": "batched", "cache": "cached", "flex": "flex", "realtime": "realtime"}


class Ledger:
    """Collects what a run does. Holds no bodies, so that 10,000 calls stay light.

    Args:
        started_at: when the run began, in seconds since the epoch. An answer received before
            comes from the cache.
        prices: where prices are looked up.
    """

    def __init__(self, started_at: float, prices: PriceBook) -> None:
        self.started_at = started_at
        self._prices = prices
        self._entries: dict[str, Entry] = {}
        self._deferred: dict[str, Deferred] = {}
        self._tests: dict[str, dict[str, None]] = {}
        self._passed: Counter[tuple[str, str]] = Counter()
        self._masked: Counter[str] = Counter()
        self._changed: set[str] = set()
        self._unseen: set[str] = set()
        self._unused: set[str] = set()
        """Keys of answers that no verdict used."""
        self._retries: Counter[tuple[str, str]] = Counter()

    def used(self, test: str, call: Call, answer: Answer) -> Entry:
        """Note that ``test`` was given ``answer``; the same answer again changes nothing."""
        key = answer.key  # not the call's: it may differ in a generated identifier
        self._tests.setdefault(test, {})[key] = None
        known = self._entries.get(key)
        if known is not None and known.received_at == answer.received_at:
            return known
        entry = self._entry(key, call.request, answer)
        self._keep(entry)
        return entry

    def priced(self, call: Call, answer: Answer) -> dict[str, Any]:
        """Return an answer's model, source, tokens and cost (USD, None where unknown)."""
        entry = self._entry(call.key, call.request, answer)
        return {
            "model": entry.served or entry.asked,
            "status": entry.status,
            "source": entry.source,
            "job_id": entry.job_id,
            "input_tokens": entry.usage.input_tokens if entry.usage else None,
            "output_tokens": entry.usage.output_tokens if entry.usage else None,
            "cost": None if entry.paid is None else float(entry.paid),
        }

    def unused(self, test: str, key: str, request: Request, answer: Answer) -> None:
        """Note an answer that this run bought and no verdict used: it is paid all the same."""
        self._tests.setdefault(test, {})[key] = None
        self._unused.add(key)
        self._keep(self._entry(key, request, answer))

    def deferred(self, test: str, pending: MissingCall, job_id: str | None) -> None:
        """Note that ``test`` still waits for an answer when the run ends."""
        self._tests.setdefault(test, {})[pending.key] = None
        self._deferred[pending.key] = Deferred(
            pending.key, pending.target.provider, pending.target.endpoint, pending.model, job_id
        )

    def passed(self, host: str, why: str) -> None:
        """Count a call of a test that went to ``host`` in real time because no batch took it."""
        self._passed[host, why] += 1

    def masked(self, test: str, count: int = 1) -> None:
        """Count answers that were replayed although generated identifiers differed."""
        self._masked[test] += count

    def changed(self, test: str) -> None:
        """Note that a request of ``test`` differs from the one stored by an earlier run."""
        self._changed.add(test)

    def unseen(self, test: str) -> None:
        """Note that a test was judged without any call to a model."""
        self._unseen.add(test)

    def retried(self, job_id: str, reason: str, count: int) -> None:
        """Note that ``count`` requests of a job were sent again."""
        self._retries[job_id, reason] += count

    def tests(self) -> tuple[str, ...]:
        """Return everything that made a call (tests and wide fixtures), sorted."""
        return tuple(sorted(self._tests))

    def calls(self, test: str) -> tuple[Entry, ...]:
        """Return the answered calls of ``test``, in the order in which it first made them."""
        keys = self._tests.get(test, {})
        return tuple(self._entries[key] for key in keys if key in self._entries)

    def waiting(self, test: str) -> tuple[Deferred, ...]:
        """Return the calls that ``test`` still waits for."""
        keys = [key for key in self._tests.get(test, {}) if key not in self._entries]
        return tuple(self._deferred[key] for key in keys if key in self._deferred)

    def books(self) -> Books:
        """Return everything: what ``merge`` takes in another process."""
        return Books(
            entries=tuple(self._entries[key] for key in sorted(self._entries)),
            deferred=tuple(self._deferred[key] for key in sorted(self._deferred)),
            tests={test: tuple(keys) for test, keys in sorted(self._tests.items())},
            passed=tuple((host, n, why) for (host, why), n in sorted(self._passed.items())),
            masked=dict(sorted(self._masked.items())),
            changed=tuple(sorted(self._changed)),
            unseen=tuple(sorted(self._unseen)),
            retries=tuple(Retry(*key, count) for key, count in sorted(self._retries.items())),
            unused=tuple(sorted(self._unused)),
        )

    def merge(self, other: Books) -> None:
        """Add what another process's ``books`` hold; the order of merging does not matter."""
        for entry in other.entries:
            self._keep(entry)
        for waiting in other.deferred:
            known = self._deferred.get(waiting.key, waiting)
            self._deferred[waiting.key] = max(known, waiting, key=lambda one: one.job_id or "")
        for test, keys in other.tests.items():
            self._tests.setdefault(test, {}).update(dict.fromkeys(keys))
        for host, count, why in other.passed:
            self._passed[host, why] += count
        self._masked.update(other.masked)
        self._changed.update(other.changed)
        self._unseen.update(other.unseen)
        self._unused.update(other.unused)
        for retry in other.retries:
            self._retries[retry.job_id, retry.reason] += retry.count

    def summary(self) -> Summary:
        """Return the sums, as of now."""
        tallies: dict[tuple[str, str], _Tally] = {}
        for entry in self._entries.values():
            tallies.setdefault((entry.provider, entry.asked), _Tally()).add(
                entry, used=entry.key not in self._unused
            )
        waiting = [one for key, one in self._deferred.items() if key not in self._entries]
        for one in waiting:
            tallies.setdefault((one.provider, one.asked), _Tally()).counts["deferred"] += 1
        rows = tuple(tally.row(*key) for key, tally in sorted(tallies.items()))
        entries = self._entries.values()
        ages = [self.started_at - one.bought_at for one in entries if one.source == "cache"]
        jobs = {entry.job_id for entry in entries} | {one.job_id or "" for one in waiting}
        return Summary(
            rows=rows,
            total=_total(rows),
            jobs=tuple(sorted(jobs - {""})),
            cache_ages=(min(ages), max(ages)) if ages else None,
            passed=tuple((host, n, why) for (host, why), n in sorted(self._passed.items())),
            masked=self._masked.total(),
            changed=tuple(sorted(self._changed)),
            unseen=tuple(sorted(self._unseen - self._tests.keys())),
            retries=tuple(Retry(*key, n) for key, n in sorted(self._retries.items())),
            lanes=tuple(_lanes(entries)),
        )

    def _keep(self, entry: Entry) -> None:
        known = self._entries.get(entry.key)
        if known is None or entry.order() > known.order():
            self._entries[entry.key] = entry

    def _entry(self, key: str, request: Request, answer: Answer) -> Entry:
        source = source_of(answer, self.started_at)
        bought_at = answer.bought_at or answer.received_at or self.started_at
        to = request.target
        tier = str(request.body.get("service_tier") or "")
        cost = self._prices.cost(
            to.provider, to.endpoint, request.model, answer.body, at=bought_at, tier=tier
        )
        list_price, paid = cost.list_price, cost.batch_price if answer.job_id else cost.list_price
        if answer.lane == "flex":  # the run's own doing: without it the standard tier had served
            list_price = cost.standard_price
        if cost.usage is None and not answer.ok:
            list_price = paid = Decimal(0)  # providers do not bill a request that they refused
        served = answer.body.get("model") if isinstance(answer.body, Mapping) else ""
        return Entry(
            key=key,
            provider=intern(to.provider),
            endpoint=intern(to.endpoint),
            asked=intern(request.model),
            served=intern(served) if isinstance(served, str) else "",
            source=source,
            job_id=intern(answer.job_id),
            request_id=answer.request_id,
            status=answer.status,
            bought_at=bought_at,
            received_at=answer.received_at,
            usage=cost.usage,
            list_price=list_price,
            paid=Decimal(0) if source == "cache" else paid,
            cost=paid,
        )


def _lanes(entries: Iterable[Entry]) -> Iterator[LaneRow]:
    by_lane: dict[Source, list[Entry]] = {}
    for entry in entries:
        by_lane.setdefault(entry.source, []).append(entry)
    for lane in sorted(by_lane):
        priced = [one for one in by_lane[lane] if one.priced]
        yield LaneRow(
            lane,
            len(by_lane[lane]),
            sum((one.list_price or Decimal(0) for one in priced), Decimal(0)),
            sum((one.paid or Decimal(0) for one in priced), Decimal(0)),
        )


def _total(rows: Iterable[SummaryRow]) -> SummaryRow:
    rows = tuple(rows)
    sums: dict[str, Any] = {
        one.name: sum((getattr(row, one.name) for row in rows), start=one.default)
        for one in fields(SummaryRow)
        if isinstance(one.default, int | Decimal)
    }
    return SummaryRow(model="total", **sums)

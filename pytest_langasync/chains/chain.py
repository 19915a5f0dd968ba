"""``wrap_chain``: the batch job of a LangChain Runnable, outside pytest."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pytest_langasync.cache.chain_jobs import JobRecord, load_record, load_records, new_record
from pytest_langasync.chains.invoke import Invoker
from pytest_langasync.chains.job import BatchJob
from pytest_langasync.chains.runner import Listener, Runner, input_names
from pytest_langasync.config import Settings, own_prices
from pytest_langasync.costs.prices import Estimate, add_estimates
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import AttemptOptions, Event, MissingCall
from pytest_langasync.reporting.text import shorten

__all__ = ["CostEstimate", "WrappedChain", "wrap_chain"]

CONFIGURATION = (
    "pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
)
"""Files that mark the root of a run for pytest."""


class CostEstimate(float):
    """What a batch costs at most, in USD: nan where no price is known.

    A float; ``:.2f`` and arithmetic work. It covers the first wave: what the chain asks once it has
    answers cannot be known before. Stored answers cost nothing and are not in it. Requests without
    an output limit of their own count with their model's, which is far above what most answers
    need: tell ``estimate_cost`` what to expect.
    """

    requests: int
    """How many requests would be sent."""
    input_tokens: int
    """Estimated from the length of the texts."""
    output_tokens: int | None
    """The most that can come back, or None where there is no limit."""
    list_price: float
    """The same upper bound in real time, in USD; nan where it is not known."""
    input_price: float
    """The batch price of the input alone, in USD; nan where it is not known."""

    # Made by ``of``: a float is copied and unpickled by its value alone, then given its attributes.

    @classmethod
    def of(cls, estimate: Estimate) -> CostEstimate:
        """Make one of the sum of the requests' estimates."""
        self = cls(_float(estimate.batch_upper))
        self.requests = estimate.requests
        self.input_tokens = estimate.input_tokens
        self.output_tokens = estimate.output_tokens_upper
        self.list_price = _float(estimate.list_upper)
        self.input_price = _float(estimate.batch_price)
        return self

    def __repr__(self) -> str:
        return (
            f"<CostEstimate: at most ${float(self):.6f} as a batch, ${self.list_price:.6f} in real "
            f"time; {self.requests:,} requests, about {self.input_tokens:,} tokens in>"
        )


class WrappedChain:
    """A chain with a batch job. Made by ``wrap_chain``; the chain itself is not changed."""

    def __init__(
        self,
        chain: Any,
        settings: Settings,
        *,
        name: str,
        sandbox_reply: Callable[[Any], Any] | None = None,
    ) -> None:
        self.chain = chain
        self.name = name
        self._settings = settings
        self._sandbox_reply = sandbox_reply

    def __repr__(self) -> str:
        return f"<WrappedChain {self.name}, cache {self._settings.cache}>"

    def submit_batch(
        self,
        inputs: Sequence[Any],
        config: Any = None,
        *,
        max_retries: int | None = None,
        priority: Literal["high", "normal", "low"] = "normal",
        refresh: bool = False,
        return_exceptions: bool = False,
        on_event: Callable[[Event], None] | None = None,
        urgent: Callable[[Any], bool] | None = None,
    ) -> BatchJob:
        """Run the chain on every input up to its first calls, send these as a batch, and return.

        Inputs that were answered before are not bought again; ``refresh`` buys all of them anew.

        Args:
            inputs: what ``chain.invoke`` takes, one for each result.
            config: a RunnableConfig for all inputs, or a list with one for each.
            max_retries: how often a request that failed for no fault of its own is sent again (3).
            priority: the order in which jobs are created where there is little room.
            return_exceptions: give exceptions instead of None for inputs that finally failed.
            on_event: called with each ``pytest_langasync.models.Event`` of the job.
            urgent: tells which inputs are sent in real time, at list price, before this returns.

        Raises:
            ConfigurationError: no inputs; a wrong option; no key; a host without a batch API.
                Nothing was bought.
            ProviderError: the provider cannot be reached.
            CacheError: the cache directory cannot be used.
        """
        job = self._job(inputs, config, max_retries, priority, refresh, return_exceptions,
                        on_event=on_event, urgent=urgent)  # fmt: skip
        job.start()
        return job

    async def asubmit_batch(
        self, inputs: Sequence[Any], config: Any = None, **options: Any
    ) -> BatchJob:
        """``submit_batch`` without blocking the event loop; the chain runs by its ``ainvoke``."""
        job = self._job(inputs, config, asynchronous=hasattr(self.chain, "ainvoke"), **options)
        await asyncio.to_thread(job.start)
        return job

    def estimate_cost(
        self, inputs: Sequence[Any], config: Any = None, *, output_tokens: int | None = None
    ) -> CostEstimate:
        """Return what ``submit_batch`` would cost at most; sends nothing.

        Args:
            inputs: what ``chain.invoke`` takes.
            config: as in ``submit_batch``.
            output_tokens: the length of an answer to reckon with, in place of the output limits.

        Raises:
            ConfigurationError: no inputs, or no key where the SDK insists on one.
        """
        settings = _changed(self._settings, estimate=True)
        record = new_record(self.name, _checked(inputs))
        listener = Listener(sandbox_reply=self._sandbox_reply)
        runner = Runner(Invoker(self.chain), inputs, record, settings, listener)
        runner.open(record)
        missing: dict[str, MissingCall] = {}
        try:
            with runner.catching():
                for index, value in enumerate(inputs):
                    given = config[index] if isinstance(config, list) else config
                    outcome = runner.attempt(index, value, given, AttemptOptions())
                    missing |= {pending.key: pending for pending in outcome.missing}
            estimates = runner.run.budget.estimates(missing.values(), output_tokens=output_tokens)
            return CostEstimate.of(add_estimates(estimate for _, estimate in estimates))
        finally:
            runner.close()

    def get_job(
        self, job_id: str, inputs: Sequence[Any] | None = None, config: Any = None
    ) -> BatchJob:
        """Return a job of this or an earlier process, by its ID or by a provider's job ID.

        Args:
            job_id: ``job.id``, or one of ``job.provider_jobs``.
            inputs: needed where they are not in the cache: they are no plain JSON, prompts are not
                stored, or the cache does not know the job.
            config: as in ``submit_batch``; it is not kept between processes.

        Raises:
            ConfigurationError: the job is unknown, its inputs are needed, or others are given. That
                the chain is another one is told when the job first looks.
            CacheError: its record is damaged or of a newer version.
        """
        record = load_record(self._settings.cache, job_id)
        known = inputs if inputs is not None else record.inputs if record else None
        if known is None:
            why = "its inputs are not in the cache" if record else "the cache does not know it"
            raise ConfigurationError(f"{job_id}: {why}; give them: get_job(job_id, inputs=…)")
        if record is None:
            job = self._job(known, config)
            job.attach(job_id)
            return job
        _check_inputs(record, known)
        return self._make(known, record, config)

    def list_jobs(self) -> list[JobRecord]:
        """Return the records of all chains' jobs in this cache, oldest first."""
        return load_records(self._settings.cache)

    def _job(
        self,
        inputs: Sequence[Any],
        config: Any = None,
        max_retries: int | None = None,
        priority: str = "normal",
        refresh: bool = False,
        return_exceptions: bool = False,
        *,
        on_event: Callable[[Event], None] | None = None,
        urgent: Callable[[Any], bool] | None = None,
        asynchronous: bool = False,
    ) -> BatchJob:
        AttemptOptions.of(priority=priority, max_retries=max_retries)
        places = [n for n, value in enumerate(_checked(inputs)) if urgent and urgent(value)]
        record = replace(
            new_record(self.name, inputs, keep_inputs=self._settings.store_prompts),
            urgent=tuple(places),
            priority=priority,
            max_retries=max_retries,
            refresh=refresh,
            names=tuple(input_names(inputs, "")),
        )
        return self._make(
            inputs, record, config, return_exceptions=return_exceptions, on_event=on_event,
            asynchronous=asynchronous,
        )  # fmt: skip

    def _make(self, inputs: Sequence[Any], record: JobRecord, config: Any, **more: Any) -> BatchJob:
        more["sandbox_reply"] = self._sandbox_reply
        return BatchJob(self.chain, inputs, record, self._settings, config=config, **more)


def wrap_chain(
    chain: Any,
    *,
    cache_dir: str | Path = ".langasync",
    poll_interval: float = 60.0,
    max_cost: float | None = None,
    prices: str = "",
    store_prompts: bool = True,
    sandbox: bool = False,
    sandbox_latency: float = 0.0,
    sandbox_reply: Callable[[Any], Any] | None = None,
) -> WrappedChain:
    """Give a LangChain Runnable, a function or a coroutine function a batch job.

    The chain is run as it is, once for each wave, and the HTTP requests that it makes are sent
    through the provider's batch API. It must ask the same each time that it is run on an input.

    Args:
        chain: anything with ``invoke``, or a callable of one argument.
        cache_dir: where answers and jobs are kept, below the project's root: the folder that the
            pytest plugin uses, too.
        poll_interval: the longest pause between two looks at a job, in seconds.
        max_cost: refuse to send a wave when the job may cost more than this, in USD.
        prices: prices that go before the published ones, as ``langasync_prices``:
            ``"my-model = input 3, output 12"`` in USD for a million tokens.
        store_prompts: keep requests and inputs in the cache, not only digests of requests.
        sandbox: send to the embedded local provider: no key, no network, no cost.
        sandbox_latency: how long a sandbox batch takes, in seconds.
        sandbox_reply: what the sandbox's model says (as the hook
            ``pytest_langasync_sandbox_reply``).

    Raises:
        ConfigurationError: ``chain`` can neither be invoked nor called.
    """
    if not hasattr(chain, "invoke") and not callable(chain):
        raise ConfigurationError(
            f"wrap_chain takes a LangChain Runnable or a function, not {type(chain).__name__}"
        )
    settings = Settings(
        rootdir=find_root(Path.cwd()), batch=True, cache_dir=str(cache_dir),
        poll_interval=poll_interval, max_cost=max_cost, sandbox=sandbox,
        sandbox_latency=sandbox_latency, store_prompts=store_prompts, prices=own_prices(prices),
    )  # fmt: skip
    return WrappedChain(chain, settings, name=_name(chain), sandbox_reply=sandbox_reply)


def find_root(start: Path) -> Path:
    """Return the folder beside which the pytest runs of this project keep their cache: the nearest
    one, going up, that has a configuration file of pytest's; else ``start``."""
    for folder in (start, *start.parents):
        if any((folder / name).is_file() for name in CONFIGURATION):
            return folder
    return start


def _check_inputs(record: JobRecord, given: Sequence[Any]) -> None:
    """Raise where these are other inputs than those that the job was submitted with."""
    if len(given) != record.count:
        raise ConfigurationError(
            f"{record.id} has {record.count} inputs, and {len(given)} were given"
        )
    for place, (before, now) in enumerate(zip(record.names, input_names(given, ""), strict=False)):
        if before != now and before.startswith("input:"):
            known = f"{record.inputs[place]!r}, now " if record.inputs else "another, now "
            text = shorten(f"{known}{given[place]!r}", 600)
            raise ConfigurationError(
                f"{record.id} has other inputs: number {place} was {text}. Give get_job those that "
                "it was submitted with, or submit a new job"
            )


def _name(chain: Any) -> str:
    named = chain.get_name() if hasattr(chain, "get_name") else getattr(chain, "__qualname__", "")
    return str(named or type(chain).__name__)


def _checked(inputs: Sequence[Any]) -> Sequence[Any]:
    if isinstance(inputs, (str, bytes, dict)) or not isinstance(inputs, Sequence):
        raise ConfigurationError(f"inputs must be a list, not {type(inputs).__name__}")
    if not inputs:
        raise ConfigurationError("inputs is empty: there is nothing to run, and nothing was sent")
    return inputs


def _changed(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, **changes)


def _float(amount: Decimal | None) -> float:
    return math.nan if amount is None else float(amount)

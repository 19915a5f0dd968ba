"""Urgent inputs in real time, the others as a batch, results in one list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from pytest_langasync.chains.chain import WrappedChain, wrap_chain
from pytest_langasync.chains.job import BatchJob
from pytest_langasync.exceptions import ConfigurationError

__all__ = ["HybridBatchProcessor"]

WAYS = ("realtime", "batch_api")
"""What ``classify`` may return beside a boolean."""


class HybridBatchProcessor:
    """Runs a chain over inputs in real time, as a batch, or some so and some so.

    Args:
        chain: a LangChain Runnable, a function, or what ``wrap_chain`` returned.
        classify: tells whether an input is urgent, by a boolean, ``"realtime"`` or
            ``"batch_api"``; anything else raises ``ConfigurationError``. With the batch API, urgent
            inputs are sent in real time all the same; by default none is.
        monitor: a ``CostMonitor`` (anything with ``record``) that is given every job.
        options: what ``wrap_chain`` takes (``cache_dir``, ``sandbox``, …).
    """

    def __init__(
        self,
        chain: Any,
        classify: Callable[[Any], bool | str] | None = None,
        *,
        monitor: Any = None,
        **options: Any,
    ) -> None:
        wrapped = isinstance(chain, WrappedChain)
        self.wrapped: WrappedChain = chain if wrapped else wrap_chain(chain, **options)
        self._classify = classify
        self._monitor = monitor

    langasync_available = True
    """Whether batches can be used: always, where this class can be imported."""

    def _urgent(self, value: Any) -> bool:
        found = False if self._classify is None else self._classify(value)
        if isinstance(found, bool):
            return found
        if isinstance(found, str) and found in WAYS:
            return found == "realtime"
        raise ConfigurationError(
            f'classify returned {found!r}: return True or "realtime" for an urgent input, False or '
            '"batch_api" for one that can wait. Nothing was sent'
        )

    @overload
    def batch(
        self,
        inputs: Sequence[Any],
        use_batch_api: bool = False,
        wait: Literal[True] = True,
        **options: Any,
    ) -> list[Any]: ...

    @overload
    def batch(
        self, inputs: Sequence[Any], use_batch_api: bool, wait: bool, **options: Any
    ) -> list[Any] | BatchJob: ...

    def batch(
        self,
        inputs: Sequence[Any],
        use_batch_api: bool = False,
        wait: bool = True,
        **options: Any,
    ) -> list[Any] | BatchJob:
        """Return the outputs in the order of the inputs, or the job where ``wait`` is false.

        Real-time calls are recorded, cached and priced like the others: inputs that were answered
        before cost nothing, unless ``refresh=True``.

        Args:
            inputs: what ``chain.invoke`` takes.
            use_batch_api: False sends everything in real time, as ``chain.batch`` would; True
                sends what is not urgent as a batch.
            wait: whether to wait for the batch.
            options: what ``WrappedChain.submit_batch`` takes (``config``, …).

        Raises:
            ConfigurationError, ProviderError, CacheError: as ``WrappedChain.submit_batch``.
        """
        urgent = self._urgent if use_batch_api else (lambda value: True)
        job = self.wrapped.submit_batch(inputs, urgent=urgent, **options)
        if self._monitor is not None:
            self._monitor.record(job)
        return job.wait() if wait else job

    async def abatch(
        self, inputs: Sequence[Any], use_batch_api: bool = False, **options: Any
    ) -> list[Any]:
        """``batch`` without blocking the event loop."""
        urgent = self._urgent if use_batch_api else (lambda value: True)
        job = await self.wrapped.asubmit_batch(inputs, urgent=urgent, **options)
        if self._monitor is not None:
            self._monitor.record(job)
        return await job

    def __repr__(self) -> str:
        return f"<HybridBatchProcessor {self.wrapped.name}>"

"""Run LLM evaluations in pytest through the providers' batch APIs, at half the price.

Outside pytest, ``wrap_chain`` gives any LangChain Runnable a batch job.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_langasync.chains.chain import CostEstimate, WrappedChain, wrap_chain
    from pytest_langasync.chains.hybrid import HybridBatchProcessor
    from pytest_langasync.chains.job import BatchJob
    from pytest_langasync.chains.monitor import CostMonitor
    from pytest_langasync.exceptions import (
        CacheError,
        ConfigurationError,
        JobCancelledError,
        JobPendingError,
        LangasyncError,
        NotReproducibleError,
        ProviderError,
    )
    from pytest_langasync.plugin.scores import Langasync, Scored

__all__ = [
    "BatchJob",
    "CacheError",
    "ConfigurationError",
    "CostEstimate",
    "CostMonitor",
    "HybridBatchProcessor",
    "JobCancelledError",
    "JobPendingError",
    "Langasync",
    "LangasyncError",
    "NotReproducibleError",
    "ProviderError",
    "Scored",
    "WrappedChain",
    "wrap_chain",
]

_PLACES = {
    "BatchJob": "chains.job",
    "CostEstimate": "chains.chain",
    "CostMonitor": "chains.monitor",
    "HybridBatchProcessor": "chains.hybrid",
    "Langasync": "plugin.scores",
    "Scored": "plugin.scores",
    "WrappedChain": "chains.chain",
    "wrap_chain": "chains.chain",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: importing the package costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PLACES.get(name, 'exceptions')}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)

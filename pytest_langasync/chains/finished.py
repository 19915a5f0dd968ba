"""A job that has ended, apart from its chain and its cache: what is left of it in a pickle."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_langasync.cache.chain_jobs import JobRecord
from pytest_langasync.chains.runner import JobCounts, Outcome
from pytest_langasync.costs.ledger import Summary
from pytest_langasync.exceptions import ConfigurationError, LangasyncError

__all__ = ["FinishedWork"]


@dataclass(frozen=True)
class FinishedWork:
    """Answers what a ``Work`` that has ended does."""

    record: JobRecord
    inputs: list[Any]
    outcomes: Mapping[int, Outcome]
    spent: Summary

    @classmethod
    def of(
        cls, record: JobRecord, inputs: list[Any], outcomes: Mapping[int, Outcome], spent: Summary
    ) -> FinishedWork:
        """Return it; errors that no pickle takes become their texts."""
        kept = {n: replace(one, error=_portable(one.error)) for n, one in outcomes.items()}
        return cls(record, inputs, kept, spent)

    @property
    def completed(self) -> bool:
        """Always true."""
        return True

    @property
    def done(self) -> int:
        """How many inputs there are."""
        return len(self.inputs)

    def counts(self) -> JobCounts:
        """Return how it ended."""
        failed = sum(outcome.error is not None for outcome in self.outcomes.values())
        return JobCounts(self.done, self.done, failed)

    def summary(self) -> Summary:
        """Return what was done and paid."""
        return self.spent

    def recall(self) -> None:
        """Do nothing: all is here."""

    def cancel(self) -> None:
        """Do nothing: it has ended."""

    def start(self) -> None:
        """Refuse: the chain is not here."""
        raise ConfigurationError(
            f"{self.record.id} came without its chain: use wrap_chain(chain).get_job(job.id)"
        )

    def retry(self) -> None:
        """Refuse: the chain is not here."""
        self.start()

    def advance(self, timeout: float | None) -> None:
        """Do nothing: it has ended."""

    def attach(self, provider_job: str) -> None:
        """Refuse: the chain is not here."""
        self.start()


def _portable(error: Exception | None) -> Exception | None:
    """Return an error that can be pickled; errors of SDKs hold clients and locks."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LangasyncError(f"{type(error).__name__}: {error}")
    return error

"""What no batch takes: hosts without a batch API, and what their batches refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_langasync.models import MissingCall, Refusal, Request, Target
from pytest_langasync.providers import dialect_of

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Store

__all__ = ["NO_BATCH_API", "Refusals"]

NO_BATCH_API = "it has no batch API"


class Refusals:
    """The refusals of a run, and those that earlier runs met.

    What a batch refused is remembered in the cache until ``doctor`` forgets it; a host without a
    batch API is asked once in each run.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._all: dict[Refusal, None] = {}

    def load(self) -> None:
        """Take in what earlier runs met."""
        self.update(self._store.refusals.read())

    def update(self, refusals: Iterable[Refusal]) -> None:
        """Take in what another process met."""
        self._all.update(dict.fromkeys(refusals))

    def all(self) -> tuple[Refusal, ...]:
        """Return all of them."""
        return tuple(self._all)

    def add(self, refusals: Iterable[Refusal]) -> None:
        """Note refusals; what holds for later runs is written down. Raises ``CacheError``."""
        new = [one for one in refusals if one not in self._all]
        self.update(new)
        if lasting := {one: None for one in new if one.model}:
            known = dict.fromkeys(self._store.refusals.read())
            self._store.refusals.write(known | lasting)

    def add_host(self, target: Target, why: str) -> None:
        """Note that a host has no batch API."""
        self.add([Refusal(*target.host, why)])

    def holds(self, key: str) -> bool:
        """Return whether a batch has refused this very call."""
        return any(one.key == key for one in self._all)

    def of_missing(self, call: MissingCall) -> str:
        """Return why a missing call cannot be batched, or an empty string."""
        return self._why(call.target, call.model, "", call.key)

    def of_request(self, request: Request) -> str:
        """Return why a request cannot be batched, or an empty string."""
        if not self._all:
            return ""
        features = dialect_of(request.target).features(request.body)
        return self._why(request.target, request.model, features, "")

    def _why(self, target: Target, model: str, features: str, key: str) -> str:
        asked = (*target.host, target.endpoint, model, features, key)
        for one in self._all:
            said = (one.provider, one.base_url, one.endpoint, one.model, one.features, one.key)
            if all(not there or there == here for there, here in zip(said, asked, strict=True)):
                return one.why
        return ""

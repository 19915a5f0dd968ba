"""Answers that a run paid for and no test used: its books are complete only with them."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from pytest_langasync.costs.ledger import UNUSED, Ledger
from pytest_langasync.models import Request, Target
from pytest_langasync.providers.base import is_management

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Store

__all__ = ["enter_unused"]


def enter_unused(ledger: Ledger, store: Store, used: Container[str]) -> None:
    """Enter in the ledger what came during its run and is not in ``used``, the keys that were."""
    tests = set(ledger.tests())
    for key in (key for key in store.received_since(ledger.started_at) if key not in used):
        answer, stored = store.answer(key), store.request(key)
        if stored is not None and is_management(stored.meta.endpoint):
            continue
        if answer is not None and stored is not None and not answer.foreign:
            meta = stored.meta
            body = stored.body() or {"model": meta.model}
            target = Target(meta.provider, meta.base_url, meta.endpoint, meta.headers)
            request = Request(target, body)
            owner = stored.owner if stored.owner in tests else UNUSED
            ledger.unused(owner, key, request, answer)

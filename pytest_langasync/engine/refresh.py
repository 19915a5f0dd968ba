"""Which stored answers are too old for a run: ``--langasync-refresh`` and ``--langasync-max-age``.

A renewal outlives its run. From its first purchase until every test of a run is judged, the same
command goes on with it, so that what it bought is not bought again after a kill or a deferral.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_langasync.cache.records import OwnerState

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Store

__all__ = ["NOTHING", "Refresh", "end_run"]

NOTHING = OwnerState()
"""What is remembered of an owner of whom nothing is."""

_REFRESH = "(refresh)"
_MAX_AGE = "(max-age)"
"""These stand for an owner in the state between runs: a renewal that is under way."""


class Refresh:
    """The renewal that a run starts or goes on with; none without either option.

    ``state`` is what is remembered of each owner between runs. Times are seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        state: Mapping[str, OwnerState],
        *,
        started_at: float,
        refresh: bool = False,
        max_age: float | None = None,
    ) -> None:
        self._store = store
        self._state = state
        self._name = _REFRESH if refresh else _MAX_AGE if max_age is not None else ""
        self._cutoff = started_at - (0.0 if refresh else max_age or 0.0)
        self.begun_at: float | None = state.get(self._name, NOTHING).begun_at
        """When an earlier run began it; None for a new one."""
        self._begun = self.begun_at is not None
        self._started_at = started_at

    def too_old(self, owner: str, bought_at: float, received_at: float) -> bool:
        """Whether an answer of an earlier run does not count for this owner any more."""
        if not self._name:
            return False
        since = self._since(owner)
        return bought_at < self._cutoff if since is None else received_at < since

    def waiting(self, owner: str, state: OwnerState) -> OwnerState:
        """What to remember about an owner for whom something is about to be bought."""
        if not self._name:
            return state
        since = self._since(owner)
        return replace(state, since=self._cutoff if since is None else since)

    def begin(self) -> None:
        """Write the renewal down, before its first purchase."""
        if self._name and not self._begun:
            self._begun = True
            state = OwnerState(since=self._cutoff, begun_at=self._started_at)
            self._store.owners.update({self._name: state})

    def _since(self, owner: str) -> float | None:
        """What came after this moment belongs to the renewal under way; None before it began."""
        for name in (owner, self._name):
            since = self._state.get(name, NOTHING).since
            if since is not None:
                return since
        return None


def end_run(store: Store, *, refresh: bool, max_age: bool) -> None:
    """Forget what a run in which every test was judged would have needed to go on later.

    A run without the options ends both renewals, once nobody waits for their answers any more.
    """
    state = store.owners.read()
    ended = {owner for owner, entry in state.items() if entry.judged}
    if refresh or max_age:
        ended.add(_REFRESH if refresh else _MAX_AGE)
    elif not any(entry.since is not None for owner, entry in state.items() if owner not in _NAMES):
        ended |= _NAMES
    if found := ended & state.keys():
        store.owners.update(dict.fromkeys(found))


_NAMES = frozenset({_REFRESH, _MAX_AGE})

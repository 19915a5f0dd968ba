"""How missing calls get their answers: through a provider's batch job, or sent at once.

* In: missing calls, with the account, host and options that they came with.
* Out: answers in the cache; events for whoever waits.
* May import: ``providers``, ``cache``, and what lies below them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_langasync.config import CLOCK, Settings
from pytest_langasync.models import Event, Target
from pytest_langasync.providers import Client, Provider, by_name

if TYPE_CHECKING:
    from pytest_langasync.cache.store import Store
    from pytest_langasync.lanes.refusals import Refusals

__all__ = ["RunContext"]


def _connect(target: Target) -> Client:
    """Return the provider's own client of its batch API."""
    return by_name(target.provider).client(target.base_url, target.credentials, target.headers)


@dataclass(frozen=True)
class RunContext:
    """What all parts of one run share. ``engine.run.Run`` makes the only one of a run.

    ``notify`` and ``tick`` are called in the thread that waits: with each event, and before each
    pause. ``connect`` makes a client of the batch API that stands behind a target. ``clock``
    returns seconds since the epoch, ``timer`` seconds that no change of the clock touches, for
    intervals; ``sleep`` waits for seconds.
    """

    store: Store
    settings: Settings = field(default_factory=lambda: Settings(Path()))
    started_at: float = 0.0
    """When the run began, in seconds since the epoch."""
    suite: str = ""
    """What names this suite at its providers."""
    notify: Callable[[Event], None] = lambda event: None
    tick: Callable[[], None] = lambda: None
    connect: Callable[[Target], Client] = _connect
    refusals: Refusals | None = None
    """What no batch takes; None where a refusal is the answer."""
    lookup: Callable[[str], Provider] = by_name
    clock: Callable[[], float] = CLOCK.now
    timer: Callable[[], float] = CLOCK.timer
    sleep: Callable[[float], None] = time.sleep

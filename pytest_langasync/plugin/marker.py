"""What the marker ``langasync`` says of a test."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pytest_langasync.config import LANES
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import AttemptOptions

__all__ = ["MarkerOptions"]


@dataclass(frozen=True)
class MarkerOptions:
    """The keywords of ``@pytest.mark.langasync``."""

    priority: Literal["high", "normal", "low"] = "normal"
    """The order in which jobs are created."""
    realtime: bool = False
    """Send this test's calls in place, as it makes them, at list price; they are still recorded and
    cached. For tests that measure times, and for those that differ each time they run."""
    lane: Literal["batch", "flex", "realtime"] | None = None
    """How this test's calls get their answers, where not as the run's: with ``realtime`` and
    ``flex`` they are gathered with those of other tests and sent side by side."""
    max_retries: int | None = None
    """How often a request that failed for no fault of its own is sent again."""
    chain: Any = None
    """What the fixture ``scored`` runs: a Runnable, a function or a coroutine function."""
    inputs: Any = None
    """Its cases: a list, a file, a function or a Dataset."""
    scorer: Any = None
    """One scorer, a list of them, or a dict of them by name."""
    repeats: int = 1
    """How many independent samples of the test are taken, each a test of its own."""
    min_pass_rate: float = 1.0
    """The share of the function's tests that must pass; single ones may then fail."""

    def attempt(self, sample: str = "") -> AttemptOptions:
        """Return what it says of each attempt; ``sample`` names one repeat of the test."""
        checked = AttemptOptions.of(priority=self.priority, max_retries=self.max_retries)
        return replace(checked, realtime=self.realtime, lane=self.lane or "", sample=sample)

    @classmethod
    def merged(cls, marks: Iterable[Any]) -> MarkerOptions:
        """Check the markers of a test, the nearest first: what that one leaves open, the next says.

        Raises:
            ConfigurationError: as ``parse`` does.
        """
        arguments: tuple[Any, ...] = ()
        keywords: dict[str, Any] = {}
        for mark in marks:
            arguments += mark.args
            keywords = {**mark.kwargs, **keywords}
        return cls.parse(arguments, keywords)

    @classmethod
    def parse(cls, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> MarkerOptions:
        """Check the marker's arguments.

        Raises:
            ConfigurationError: a positional argument, an unknown keyword or a wrong value.
        """
        known = [f.name for f in fields(cls)]
        if arguments:
            raise ConfigurationError(
                f"takes keywords only ({', '.join(known)}), got {arguments[0]!r}"
            )
        for name in keywords:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
                raise ConfigurationError(f"has no keyword {name!r}: {hint}")
        given = {n: keywords[n] for n in ("priority", "max_retries") if n in keywords}
        AttemptOptions.of(**given)
        if not isinstance(keywords.get("realtime", False), bool):
            raise ConfigurationError(f"realtime={keywords['realtime']!r} is not True or False")
        lane = keywords.get("lane")
        if lane not in (None, *LANES):
            raise ConfigurationError(f"lane={lane!r} is not one of 'batch', 'flex', 'realtime'")
        if keywords.get("realtime") and lane:
            raise ConfigurationError(
                "realtime=True and lane=… contradict each other: the one sends in place, the other "
                "gathers first"
            )
        repeats = keywords.get("repeats", 1)
        if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
            raise ConfigurationError(f"repeats={repeats!r} is not a whole number of 1 or more")
        rate = keywords.get("min_pass_rate", 1.0)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
            raise ConfigurationError(f"min_pass_rate={rate!r} is not a number from 0 to 1")
        chain, scorer = keywords.get("chain"), keywords.get("scorer")
        if not (chain is None or callable(chain) or hasattr(chain, "invoke")):
            raise ConfigurationError(f"chain={chain!r} is neither a Runnable nor a function")
        several = scorer if isinstance(scorer, (list, tuple)) else [scorer]
        for one in scorer.values() if isinstance(scorer, dict) else several:
            if one is not None:
                from pytest_langasync.scoring.evaluators import check

                check(one)
        return cls(**keywords)

"""The one list of what can be set: ``plugin.py`` registers it, ``--help`` prints it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.exceptions import ConfigurationError

__all__ = ["OPTIONS", "PREFIX", "Option", "duration"]

PREFIX = "langasync_"
REPORTS = (".json", ".md", ".html")
"""What a report's name ends in says what it is."""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def duration(text: str) -> float:
    """Return the seconds in ``0``, ``90s``, ``30m``, ``6h``, ``7d`` or ``1h30m``.

    Raises:
        ConfigurationError: the text is none of these.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip().lower())
    if not parts or "".join(n + u for n, u in parts) != text.strip().lower():
        raise ConfigurationError(
            f"{text!r} is not a duration: give a number and a unit, such as 0, 90s, 30m, 6h or 7d"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0 or math.isinf(value):
        raise ConfigurationError(f"{text!r} is not a number of 0 or more")
    return value


def _count(text: str) -> int:
    if not text.strip().isdigit():
        raise ConfigurationError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _rate(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise ConfigurationError(f"{text!r} is not a number from 0 to 1")
    return value


def _base_url(text: str) -> str:
    url = text.strip().rstrip("/")
    shown = re.sub(r"[^/]*@", "", url)  # a password is not repeated
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        whole = False
    if not whole:
        raise ConfigurationError(f"{shown!r} is no URL: type one such as http://localhost:11434/v1")
    if not parts.path:
        raise ConfigurationError(f"{shown!r} lacks the path of the API: type {shown}/v1")
    return url


def _scores(text: str) -> Mapping[str, float]:
    found = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            separator = ""
        if not separator or not name.strip() or not math.isfinite(found[name.strip()]):
            raise ConfigurationError(f"{part!r} is not NAME=VALUE, such as quality=7")
    return found


def _reports(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if not name.endswith(REPORTS):
            raise ConfigurationError(f"{name!r} must end in {', '.join(REPORTS)}")
    return names


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ConfigurationError(f"{text!r} is not one of {', '.join(allowed)}")
        return text

    return parse


def _flag(text: str) -> bool:
    if text.strip().lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ConfigurationError(f"{text!r} is neither true nor false")
    return text.strip().lower() in ("true", "1", "yes", "on")


@dataclass(frozen=True)
class Option:
    """One thing that can be set: ``--langasync-NAME`` and, where ``ini``, ``langasync_NAME``."""

    name: str
    help: str
    metavar: str = ""
    """Empty for a switch."""
    parse: Callable[[str], Any] = str
    ini: bool = False
    cli: bool = True

    @property
    def flag(self) -> str:
        """The command-line spelling."""
        return "--langasync-" + self.name.replace("_", "-")


OPTIONS: tuple[Option, ...] = (
    Option("batch", "run tests marked langasync through the providers' batch APIs"),
    Option("all", "treat every collected test as marked langasync", ini=True, parse=_flag),
    Option(
        "timeout",
        "how long to wait for the batches: 0, 90s, 30m, 6h (default 24h); 0 submits and leaves",
        "DURATION",
        duration,
        ini=True,
    ),
    Option(
        "on_timeout",
        "what becomes of what is not answered then: defer (default), realtime (cancel it and send "
        "it now, at list price) or cancel",
        "MODE",
        _choice("defer", "realtime", "cancel"),
        ini=True,
    ),
    Option(
        "realtime_under",
        "send waves of fewer than N calls at once, at list price (default 0: never)",
        "N",
        _count,
        ini=True,
    ),
    Option(
        "resume",
        "attach to this job (several with commas; or the last one) and go on",
        "JOB_ID|last",
    ),
    Option("offline", "answer from the cache alone: no network, no key"),
    Option("realtime", "send now, at list price, but record, price and cache"),
    Option("refresh", "buy new answers for every selected test; continues until all are judged"),
    Option(
        "max_age", "buy new answers for those bought longer ago", "DURATION", duration, ini=True
    ),
    Option("estimate", "print requests, tokens and prices of the first wave; send nothing"),
    Option(
        "max_cost",
        "send nothing more when what was paid and may come next exceed this",
        "USD",
        _positive,
        ini=True,
    ),
    Option("sandbox", "use the embedded local provider: no key, no network, no cost"),
    Option(
        "sandbox_url",
        "an OpenAI-compatible server (Ollama, vLLM, llama.cpp) that answers behind the sandbox",
        "URL",
        _base_url,
        ini=True,
    ),
    Option(
        "sandbox_latency",
        "how long a sandbox batch takes (default 0)",
        "DURATION",
        duration,
        ini=True,
    ),
    Option(
        "keep_files",
        "leave input and output files at OpenAI, where a later run would delete those no longer "
        "needed",
        ini=True,
        parse=_flag,
    ),
    Option("cache_dir", "where answers are kept (default .langasync)", "DIR", ini=True),
    Option(
        "poll_interval",
        "longest pause between two looks at a job, in seconds (default 60)",
        "S",
        _positive,
        ini=True,
    ),
    Option(
        "max_retries",
        "how often a request that failed for no fault of its own is sent again (default 3)",
        "N",
        _count,
        ini=True,
    ),
    Option(
        "min_pass_rate",
        "fail the run when less than this share of the marked tests pass, from 0 to 1",
        "RATE",
        _rate,
        ini=True,
    ),
    Option(
        "min_score",
        "fail the run when the mean of a score is below: NAME=VALUE, several with commas",
        "NAME=VALUE",
        _scores,
        ini=True,
    ),
    Option(
        "baseline",
        "compare with an earlier run: last, a run's name, or a report (.json)",
        "RUN",
        ini=True,
    ),
    Option(
        "fail_on_regression",
        "fail the run when it is worse than the baseline (the last run) by more than noise",
        ini=True,
        parse=_flag,
    ),
    Option(
        "report",
        "write the run to this file (.json, .md, .html; several with commas)",
        "FILE",
        _reports,
        ini=True,
    ),
    Option(
        "samples",
        "per-test (default): each test gets answers of its own; shared: one paid answer serves all",
        "MODE",
        _choice("per-test", "shared"),
        ini=True,
        cli=False,
    ),
    Option(
        "store_prompts",
        "whether request bodies are kept in the cache, or only digests of them (default true)",
        "BOOL",
        _flag,
        ini=True,
        cli=False,
    ),
    Option(
        "match_generated_ids",
        "whether a stored answer may serve a request that differs only in generated identifiers "
        "(default true)",
        "BOOL",
        _flag,
        ini=True,
        cli=False,
    ),
)

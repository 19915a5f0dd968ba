"""What can be set, and what this run was told: the table of options, and one frozen ``Settings``.

``plugin`` registers the table with pytest; ``--help`` and the docs print it. No setting is read
when this module is imported: ``settings_from`` is called once for each run. The run's own clock is
here, since this module is imported before any test can freeze the time.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.exceptions import ConfigurationError

__all__ = [
    "CLOCK", "OPTIONS", "PREFIX", "Clock", "Option", "Settings", "duration", "settings_from",
    "suite_of",
]  # fmt: skip

PREFIX = "langasync_"
LANES = ("batch", "flex", "realtime")
"""How missing calls may get their answers, the slowest first."""
REPORTS = (".json", ".md", ".html")
"""What a report's name ends in says what it is."""


class Clock:
    """The run's own time, which no test freezes and no setting of the machine's clock touches.

    freezegun replaces ``time.time`` and ``time.monotonic`` where modules hold them as attributes,
    time-machine replaces what they do; both leave ``clock_gettime`` of a steady clock alone
    (``tests/cache/test_clock.py`` would notice). Such a clock also goes on while a laptop sleeps.
    """

    def __init__(self) -> None:
        self.timer: Callable[[], float] = time.monotonic
        """Returns seconds, for intervals."""
        for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
            if hasattr(time, name):
                self.timer = partial(time.clock_gettime, getattr(time, name))
                break
        self._start = time.time() - self.timer()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._start + self.timer()


CLOCK = Clock()

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


def _number_of_calls(text: str) -> int:
    count = _count(text)
    if not count:
        raise ConfigurationError(f"{text!r} is not a whole number of 1 or more")
    return count


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


def _patterns(text: str) -> tuple[str, ...]:
    found = tuple(text.replace(",", " ").split())
    for one in found:
        if "://" in one or not one.removeprefix("!").partition("/")[1]:
            raise ConfigurationError(f"{one!r} is not HOST/PATH, such as llm.internal/v1/*")
    return found


@dataclass(frozen=True)
class Stage:
    """A lane, and for how many seconds calls may wait in it; None: as long as it takes."""

    lane: str
    seconds: float | None = None


def _stages(text: str) -> tuple[Stage, ...]:
    """Read ``batch:30m,flex:10m,realtime``."""
    stages: list[Stage] = []
    for part in text.split(","):
        lane, _, time = (piece.strip() for piece in part.partition(":"))
        if lane not in LANES or lane in [stage.lane for stage in stages]:
            raise ConfigurationError(
                f"{part.strip()!r} is not one of {', '.join(LANES)}, each once, with a time where "
                "another lane follows: batch:30m,flex:10m,realtime"
            )
        stages.append(Stage(lane, duration(time) if time else None))
    for stage in stages[:-1]:
        if stage.seconds is None or stage.lane == "realtime":
            raise ConfigurationError(
                f"{stage.lane!r} is followed by another lane, and so needs a time: such as "
                "batch:30m,flex:10m,realtime"
            )
    return tuple(stages)


def _places(text: str) -> tuple[str, ...]:
    places = tuple(part.strip() for part in text.split(",") if part.strip())
    for place in places:
        if not re.fullmatch(r"[^.\[\]\s]+(\[\])?(\.[^.\[\]\s]+(\[\])?)*", place):
            raise ConfigurationError(
                f"{place!r} is no place in a body: give one such as metadata.token or tools[].key"
            )
    return places


OwnPriceLine = tuple[str, tuple[tuple[str, float], ...]]
"""The name of a model or tool, and its rates by what they are for."""
RATES = ("input", "output", "cached", "cache_write", "batch")


def own_prices(text: str) -> tuple[OwnPriceLine, ...]:
    """Parse a table of prices: lines such as ``my-model = input 3, output 12``.

    Raises:
        ConfigurationError: a line is none.
    """
    found: list[OwnPriceLine] = []
    for line in filter(None, map(str.strip, re.split(r"[\n;]", text))):
        name, _, rates = (part.strip() for part in line.partition("="))
        words = rates.replace(",", " ").split()
        named = ["call", *words] if len(words) == 1 else words
        try:
            pairs = tuple((key, float(named[n + 1])) for n, key in enumerate(named) if n % 2 == 0)
        except (ValueError, IndexError):
            pairs = ()
        allowed = {"call"} if len(words) == 1 else {*RATES}
        if not (name and pairs) or any(
            key not in allowed or not 0 <= value < math.inf for key, value in pairs
        ):
            raise ConfigurationError(
                f"{line!r} is no price: give USD for a million tokens, such as "
                "'my-model = input 3, output 12, cached 0.3, batch 0.5' (batch: what a batch "
                "costs of the list price), or for one call of a tool, 'web_search_call = 0.01'"
            )
        found.append((name, pairs))
    return tuple(found)


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
    Option(
        "lane",
        "how calls get their answers: batch (default; half price, hours), flex (half price, "
        "minutes) or realtime (list price, seconds)",
        "LANE",
        _choice(*LANES),
        ini=True,
    ),
    Option(
        "lanes",
        "several lanes, and how long calls may wait in each: batch:30m,flex:10m,realtime",
        "LANES",
        _stages,
        ini=True,
    ),
    Option("flex", "send calls side by side with the provider's flex tier, at half price"),
    Option(
        "concurrency",
        "the most calls that are sent side by side, in flex and realtime (default 500; 1 sends "
        "them in place)",
        "N",
        _number_of_calls,
        ini=True,
    ),
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
        "what becomes of what is not answered then: defer (default), flex or realtime (cancel it "
        "and send it by that lane) or cancel",
        "MODE",
        _choice("defer", "flex", "realtime", "cancel"),
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
    Option(
        "adopt",
        "use answers that the provider has of this suite and the cache does not, where they were "
        "bought at most so long ago (default 1d; 0 looks for none)",
        "DURATION",
        duration,
        ini=True,
    ),
    Option("offline", "answer from the cache alone: no network, no key"),
    Option("realtime", "send calls side by side, at list price, but record, price and cache"),
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
        "model_calls",
        "HOST/PATH of further calls to models, to be recorded and replayed, with wildcards and "
        "apart by spaces; those that begin with ! are left alone",
        "PATTERNS",
        _patterns,
        ini=True,
        cli=False,
    ),
    Option(
        "prices",
        "prices that add to the published ones or go before them, one a line: "
        "'MODEL = input 3, output 12' in USD for a million tokens, 'TOOL_call = 0.01' for one call",
        "PRICES",
        own_prices,
        ini=True,
        cli=False,
    ),
    Option(
        "secret_places",
        "where request bodies hold further secrets, which are neither stored nor part of a "
        "request's identity: places such as metadata.token or tools[].config.key, with commas",
        "PLACES",
        _places,
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


MODES = ("batch", "resume", "offline", "flex", "realtime", "refresh", "estimate", "sandbox")
"""Options that switch batch mode on. The others only tune it, so that they may stand in addopts."""


HOW = ("lane", "lanes", "flex", "realtime")
"""Options that say how calls go out: one of them at a time, and the command line before the ini."""


@dataclass(frozen=True)
class Settings:
    """What this run was told. Durations and intervals in seconds, money in USD."""

    rootdir: Path
    batch: bool = False
    lane: str = "batch"
    lanes: tuple[Stage, ...] = ()
    flex: bool = False
    concurrency: int | None = None
    all: bool = False
    timeout: float = 86400.0
    on_timeout: str = "defer"
    realtime_under: int = 0
    resume: str = ""
    adopt: float = 86400.0
    offline: bool = False
    realtime: bool = False
    refresh: bool = False
    max_age: float | None = None
    estimate: bool = False
    max_cost: float | None = None
    sandbox: bool = False
    sandbox_url: str = ""
    sandbox_latency: float = 0.0
    keep_files: bool = False
    cache_dir: str = ".langasync"
    poll_interval: float = 60.0
    max_retries: int = 3
    min_pass_rate: float | None = None
    min_score: Mapping[str, float] = field(default_factory=dict)
    baseline: str = ""
    fail_on_regression: bool = False
    report: tuple[str, ...] = ()
    samples: str = "per-test"
    store_prompts: bool = True
    secret_places: tuple[str, ...] = ()
    match_generated_ids: bool = True
    model_calls: tuple[str, ...] = ()
    prices: tuple[OwnPriceLine, ...] = ()

    @property
    def active(self) -> bool:
        """Whether batch mode is on."""
        return any(bool(getattr(self, mode)) for mode in MODES)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The lanes of this run, in the order in which calls go through them."""
        if self.lanes:
            *first, last = self.lanes
            waits = last.seconds is None and last.lane != "realtime"
            return (*first, replace(last, seconds=self.timeout) if waits else last)
        lane = "realtime" if self.realtime else "flex" if self.flex else self.lane
        if lane == "realtime":
            return (Stage(lane),)
        later = (self.on_timeout,) if self.on_timeout in LANES and self.on_timeout != lane else ()
        follows = (Stage(one, None if one == "realtime" else self.timeout) for one in later)
        return (Stage(lane, self.timeout), *follows)

    @property
    def resumed(self) -> tuple[str, ...]:
        """The IDs of the jobs to attach to; none where it is the last one, whatever its ID."""
        given = "" if self.resume == "last" else self.resume
        return tuple(job_id.strip() for job_id in given.split(",") if job_id.strip())

    @property
    def silent(self) -> bool:
        """Whether nothing at all may be sent."""
        return self.offline or self.estimate

    def oldest(self, now: float) -> float:
        """Return the moment before which an answer was bought too long ago, for a run at ``now``.

        Both are seconds since the epoch.
        """
        if self.refresh:
            return now
        return 0.0 if self.max_age is None else now - self.max_age

    def shown(self) -> dict[str, Any]:
        """Return what differs from the defaults as JSON values, without any secret."""
        default = Settings(self.rootdir)
        names = (f.name for f in fields(self) if f.name != "rootdir")
        values = {n: v for n in names if (v := getattr(self, n)) != getattr(default, n)}
        if self.lanes:
            values["lanes"] = [vars(stage) for stage in self.lanes]
        if self.sandbox_url:
            parts = urlsplit(self.sandbox_url)
            values["sandbox_url"] = (
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            )
        return values

    @property
    def cache(self) -> Path:
        """The cache directory of this run; the sandbox has one of its own inside."""
        root = self.rootdir / self.cache_dir
        return root / "sandbox" if self.sandbox else root


def settings_from(
    rootdir: Path, cli: Mapping[str, Any], ini: Callable[[str], str | None]
) -> Settings:
    """Build the settings; the command line wins over the ini file, both over the defaults.

    Raises:
        ConfigurationError: a value makes no sense, or two options contradict each other.
    """
    values: dict[str, Any] = {}
    typed = [name for name in HOW if cli.get(PREFIX + name)]
    for option in OPTIONS:
        given = cli.get(PREFIX + option.name) if option.cli else None
        where = option.flag
        if given in (None, False) and option.ini and not (typed and option.name in HOW):
            given, where = ini(PREFIX + option.name) or None, PREFIX + option.name
        if given in (None, False):
            continue
        try:
            values[option.name] = given if given is True else option.parse(str(given))
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    if typed:  # who says how calls are to go wants them to go
        values["batch"] = True
    if values.get("sandbox_url"):
        values.setdefault("sandbox", bool(cli.get(PREFIX + "sandbox_url")))
    settings = Settings(rootdir=rootdir, **values)
    _check(settings, typed)
    return settings


def _check(settings: Settings, typed: list[str]) -> None:
    if len(typed) > 1:
        first, second = (f"--langasync-{name}" for name in typed[:2])
        raise ConfigurationError(f"{first} and {second} contradict each other: give one of them")
    exclusive = [m for m in ("offline", "realtime", "estimate", "resume") if getattr(settings, m)]
    if len(exclusive) > 1:
        first, second = (f"--langasync-{name}" for name in exclusive[:2])
        raise ConfigurationError(f"{first} and {second} contradict each other: give one of them")
    if settings.offline and settings.refresh:
        raise ConfigurationError(
            "--langasync-offline and --langasync-refresh contradict each other: give one of them"
        )


def suite_of(root: Path) -> str:
    """Return what names a suite at its provider: its project's name, else its folder's.

    CI checks a project out into folders of many names.
    """
    import tomllib

    try:
        name = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = ""
    return name if name and isinstance(name, str) else root.resolve().name

"""One frozen ``Settings`` object from the command line, the ini file and the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.options import OPTIONS, PREFIX

__all__ = ["Settings", "settings_from", "suite_of"]

MODES = ("batch", "resume", "offline", "realtime", "refresh", "estimate", "sandbox")
"""Options that switch batch mode on. The others only tune it, so that they may stand in addopts."""


@dataclass(frozen=True)
class Settings:
    """What this run was told. Durations and intervals in seconds, money in USD."""

    rootdir: Path
    batch: bool = False
    all: bool = False
    timeout: float = 86400.0
    on_timeout: str = "defer"
    realtime_under: int = 0
    resume: str = ""
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
    match_generated_ids: bool = True

    @property
    def active(self) -> bool:
        """Whether batch mode is on."""
        return any(bool(getattr(self, mode)) for mode in MODES)

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
    for option in OPTIONS:
        given = cli.get(PREFIX + option.name) if option.cli else None
        where = option.flag
        if given in (None, False) and option.ini:
            given, where = ini(PREFIX + option.name) or None, PREFIX + option.name
        if given in (None, False):
            continue
        try:
            values[option.name] = given if given is True else option.parse(str(given))
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    if values.get("sandbox_url"):
        values.setdefault("sandbox", bool(cli.get(PREFIX + "sandbox_url")))
    settings = Settings(rootdir=rootdir, **values)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
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

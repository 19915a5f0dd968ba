"""What is shown while a run uploads, submits and waits."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING

from pytest_langasync.config import CLOCK
from pytest_langasync.models import Event, Job, JobState, JobStatus
from pytest_langasync.reporting.text import duration, one_line

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

__all__ = ["Gathering", "Progress", "interrupted_lines", "progress_on_stderr"]

_PREFIX = "langasync: "
_BAR, _GAP, _LEAST = 12, 2, 12
"""Columns of a progress bar, between two columns of the live table, and of a shortened text."""


class Gathering:
    """One line of a terminal, written anew as tests are parked, gone before anything else is.

    Args:
        file: the terminal.
        clock: returns the time in seconds; the line changes ten times a second at most.
        width: columns of the terminal; a line that wraps could not be taken away.
    """

    def __init__(self, file: IO[str], clock: Callable[[], float], width: int = 80) -> None:
        self._file = file
        self._clock = clock
        self._width = width
        self._shown_at: float | None = None

    def show(self, tests: int) -> None:
        """Say how many tests wait for answers so far."""
        now = self._clock()
        if self._shown_at is None or now - self._shown_at >= 0.1:
            noun = "test waits" if tests == 1 else "tests wait"
            self._shown_at = now
            line = _cut(f"{_PREFIX}gathering: {tests:,} {noun} for answers", self._width - 1)
            self._file.write(f"\r\x1b[2K{line}")
            self._file.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown_at is not None:
            self._shown_at = None
            self._file.write("\r\x1b[2K")
            self._file.flush()


@dataclass
class _Shown:
    """A job on display. Times are readings of the clock."""

    job: Job
    since: float
    """When it was created, as a reading of the clock."""
    told_at: float
    status: JobStatus | None = None
    told: tuple[str, int, int] = ("", 0, 0)
    """The last line's status word, completed and failed."""

    @property
    def running(self) -> bool:
        ended = self.status is not None and self.status.state is not JobState.RUNNING
        return self.job.state is JobState.RUNNING and not ended


@dataclass(frozen=True)
class _Row:
    """A line of the live table."""

    name: str
    total: int
    done: int
    words: str
    elapsed: str
    job_id: str


class Progress:
    """Shows ``Event`` as it comes: a live table on a terminal, lines elsewhere.

    In lines, a new status word is told at once. New counts, and a heartbeat where nothing changes,
    come at a distance that grows with the time waited: the heartbeat's from 1 minute to 10.
    A context manager: the live table is on the terminal between enter and exit. Thread-safe.

    Args:
        write_line: takes one finished line.
        live: whether to show the table; lines are then written above it.
        clock: returns the time in seconds since the epoch.
        file: where the table goes; standard output by default.
    """

    def __init__(
        self,
        write_line: Callable[[str], None],
        *,
        live: bool,
        clock: Callable[[], float],
        file: IO[str] | None = None,
    ) -> None:
        self._write_line = write_line
        self._clock = clock
        self._file = file
        self._wants_live = live
        self._live: Live | None = None
        self._jobs: dict[str, _Shown] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> Progress:
        with self._lock:  # the jobs of an earlier wave have been shown
            self._jobs = {key: one for key, one in self._jobs.items() if one.running}
        if self._wants_live:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._file, highlight=False)
            self._live = Live(
                get_renderable=lambda: self._table(console.width),
                console=console,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            if event.job is not None:
                self._track(event.job, event.status)
            if event.kind == "progress" and event.job is not None:
                self._tell_progress(self._jobs[event.job.id])
            elif event.kind == "uploading" and self._live is not None:
                self._live.refresh()
            else:
                self._tell(_sentence(event) + self._after(event))

    def _after(self, event: Event) -> str:
        if event.kind != "collected" or event.job is None:
            return ""
        waited = (event.job.ended_at or self._clock()) - self._jobs[event.job.id].since
        return f" after {duration(waited)}"

    def tick(self) -> None:
        """Give jobs that nothing was heard of their heartbeat; call it now and then."""
        with self._lock:
            for shown in self._jobs.values():
                if shown.running:
                    self._tell_progress(shown)

    def _track(self, job: Job, status: JobStatus | None) -> None:
        shown = self._jobs.get(job.id)
        if shown is None:
            shown = _Shown(job, job.created_at or self._clock(), self._clock())
            self._jobs[job.id] = shown
        shown.job = job
        shown.status = status or shown.status

    def _tell_progress(self, shown: _Shown) -> None:
        if self._live is not None or shown.status is None:
            return
        now, status = self._clock(), shown.status
        facts = (status.word, status.completed, status.failed)
        silent, waited = now - shown.told_at, now - shown.since
        due = _clamp(waited / 20, 5, 300) if facts != shown.told else _clamp(waited / 10, 60, 600)
        last_change = facts != shown.told and _complete(status)
        if status.word != shown.told[0] or silent >= due or last_change:
            shown.told, shown.told_at = facts, now
            self._tell(f"{one_line(shown.job.id)} {_standing(status)} after {duration(waited)}")

    def _tell(self, text: str) -> None:
        if self._live is None:
            self._write_line(_PREFIX + text)
            if self._file is not None:
                self._file.flush()  # a log is a pipe: its buffer would hide lines
        else:
            from rich.text import Text

            self._live.console.print(Text(_PREFIX + text), soft_wrap=True)

    def _table(self, width: int) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # Without our lock: rich calls this under its own, which _tell takes under ours.
        rows = [self._row(shown) for shown in tuple(self._jobs.values())]
        name, bar, job_id = _fitting(rows, width)
        table = Table.grid(padding=(0, 2))
        for row in rows:
            cells: list[Text | ProgressBar] = [Text(_cut(row.name, name))]
            if bar:
                cells.append(ProgressBar(row.total, row.done, width=_BAR))
            cells += [Text(row.words), Text(row.elapsed)]
            if job_id:
                cells.append(Text(_cut(row.job_id, job_id, (job_id - 1) // 2)))
            table.add_row(*cells)
        for column in table.columns:
            column.no_wrap = True
        return table

    def _row(self, shown: _Shown) -> _Row:
        job, status = shown.job, shown.status
        total = max(1, status.total if status and status.total else job.requests)
        done = status.completed + status.failed if status else 0
        words = _standing(status) if status else job.word
        if job.state is not JobState.RUNNING:
            done, words = total, job.word
        return _Row(
            name=one_line(f"{job.provider} {job.model}"),
            total=total,
            done=min(done, total),
            words=one_line(words),
            elapsed=duration((job.ended_at or self._clock()) - shown.since),
            job_id=one_line(job.id),
        )


def _fitting(rows: Sequence[_Row], width: int) -> tuple[int, bool, int]:
    """Return how wide names and IDs may be, and whether there is room for bars between them.

    Counts and elapsed times stay whole: bars give way first, then IDs, then names, and at last the
    IDs altogether.
    """
    columns = ("name", "job_id", "words", "elapsed")
    widths = (max((len(getattr(row, one)) for row in rows), default=0) for one in columns)
    name, job_id, words, elapsed = widths
    room = width - words - elapsed - 3 * _GAP
    bar = name + job_id + _BAR + _GAP <= room
    if name + job_id > room:
        job_id = max(_LEAST, room - name)
    if name + job_id > room:
        name = max(_LEAST, room - job_id)
    if name + job_id > room:
        name, job_id = max(_LEAST, room + _GAP), 0
    return name, bar, job_id


def _cut(text: str, width: int, tail: int = 0) -> str:
    """Shorten a text to ``width``; keep so many characters of its end."""
    if len(text) <= width:
        return text
    return text[: width - 1 - tail] + "…" + text[len(text) - tail :]


def progress_on_stderr() -> Progress:
    """Return a display on standard error, where no pytest owns the terminal."""

    def write_line(line: str) -> None:
        sys.stderr.write(line + "\n")

    return Progress(write_line, live=sys.stderr.isatty(), clock=CLOCK.now, file=sys.stderr)


def interrupted_lines(jobs: Iterable[Job]) -> list[str]:
    """Say, after Ctrl-C, what goes on at the provider and how to collect it."""
    running = [job for job in jobs if job.state is JobState.RUNNING]
    if not running:
        return ["langasync: interrupted; no job is running at a provider"]
    noun = "job goes" if len(running) == 1 else "jobs go"
    ids = " or ".join(f"--langasync-resume={one_line(job.id)}" for job in running[:3])
    return [
        f"langasync: interrupted; {len(running)} {noun} on at the provider:",
        *(f"  {_named(job)} {_requests(job.requests)}" for job in running),
        "Run the same command again to collect the answers: nothing is bought twice.",
        f"Without this cache directory, add {ids}{', …' if len(running) > 3 else ''}",
    ]


def _sentence(event: Event) -> str:
    job, about = event.job, one_line(event.message)
    where = _named(job) if job else one_line(f"{event.provider} {event.model}")
    count = _requests(event.requests) if event.requests else ""
    words = {
        "changed": "changed since it was stored",
        "left": "not used at",
        "collected": "collected answers of",
        "waiting": "waiting with",
        "trouble": "trouble with" if where else "trouble",
    }
    reason = one_line(event.status.reason) if event.status else ""
    head = " ".join(filter(None, (words.get(event.kind, event.kind), where, count)))
    return ": ".join(filter(None, (head, about or reason)))


def _named(job: Job) -> str:
    return one_line(f"{job.id} {job.provider} {job.model}")


def _requests(number: int) -> str:
    return f"{number:,} request{'' if number == 1 else 's'}"


def _standing(status: JobStatus) -> str:
    failed = f" ({status.failed} failed)" if status.failed else ""
    return f"{one_line(status.word)} {status.completed + status.failed}/{status.total}{failed}"


def _complete(status: JobStatus) -> bool:
    return status.total > 0 and status.completed + status.failed >= status.total


def _clamp(value: float, least: float, most: float) -> float:
    return max(least, min(most, value))

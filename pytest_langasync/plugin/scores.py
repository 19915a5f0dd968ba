"""Scored tests under pytest: cases, repeats, scores on reports, gates, and their summary.

Works in batch mode and without. Scores travel on the call's report as ``report.langasync``: plain
data, so that pytest-xdist carries it to the process that adds it up.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Container, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_langasync.config import Settings
from pytest_langasync.exceptions import ConfigurationError, ScoringError
from pytest_langasync.plugin.marker import MarkerOptions
from pytest_langasync.plugin.other_plugins import realtime_because
from pytest_langasync.plugin.terminal import MISSED
from pytest_langasync.reporting.text import escape
from pytest_langasync.scoring.gates import Gates

if TYPE_CHECKING:
    from pytest_langasync.scoring.cases import Case

__all__ = [
    "EVAL_KEY",
    "Call",
    "Langasync",
    "Scored",
    "Scores",
    "generate",
    "open_record",
    "run_case",
]  # fmt: skip

EVAL_KEY = pytest.StashKey[MarkerOptions]()
RECORD_KEY = pytest.StashKey["Langasync"]()
PROPERTY = "langasync_"
"""Begins the names of our JUnit properties."""


@dataclass(frozen=True)
class Call:
    """A model call that a test made. ``cost`` is what was paid for it in USD; None is unknown."""

    model: str
    status: int
    source: str
    """``batch``, ``realtime`` or ``cache``."""
    job_id: str
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None


@dataclass
class Langasync:
    """What the fixture ``langasync`` gives a test: its view of the run, and where scores go."""

    attempt: int
    """Which execution of the test this is: 1 for the first; always 1 without batch mode."""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    case: dict[str, Any] = field(default_factory=dict)
    _item: Any = field(default=None, repr=False)

    def score(self, name: str, value: float | bool | str, reason: str | None = None) -> None:
        """Record a score; the same name again replaces it.

        Args:
            name: of the score, such as ``"helpfulness"``.
            value: a number, a boolean, or a label.
            reason: why, in a judge's words.

        Raises:
            TypeError: the value is none of these.
            ValueError: it is not a finite number.
        """
        from pytest_langasync.scoring.scorers import plain_score

        value, reason = plain_score(value), None if reason is None else str(reason)
        self.scores[name] = {"value": value, "reason": reason}
        if self._item is not None:
            self._item.ihook.pytest_langasync_score(
                item=self._item, name=name, value=value, reason=reason
            )

    @property
    def calls(self) -> list[Call]:
        """The calls answered so far, where they are caught: in batch mode."""
        manager = self._item.config.pluginmanager if self._item is not None else None
        session = manager.get_plugin("langasync-session") if manager else None
        return [Call(**plain) for plain in session.calls()] if session else []

    @property
    def cost(self) -> float | None:
        """What the calls so far cost in USD; None where one is unknown, or none was caught."""
        costs = [call.cost for call in self.calls]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known and len(known) == len(costs) else None


@dataclass(frozen=True)
class Scored:
    """What the fixture ``scored`` gives a test: one case, run and scored."""

    input: Any
    output: Any
    expected: Any
    scores: dict[str, Any]
    """The values by name."""
    reasons: dict[str, str | None]
    calls: list[Call]
    cost: float | None

    @property
    def score(self) -> Any:
        """The score, where there is one scorer; the first one's otherwise."""
        return next(iter(self.scores.values()), None)

    @property
    def reason(self) -> str | None:
        """Why, as far as the scorer says."""
        return next(iter(self.reasons.values()), None)

    @property
    def usage(self) -> tuple[int, int] | None:
        """(input tokens, output tokens) of all calls whose answer reports them; None where no call
        was caught, as without batch mode."""
        if not self.calls:
            return None
        return (
            sum(call.input_tokens or 0 for call in self.calls),
            sum(call.output_tokens or 0 for call in self.calls),
        )

    @property
    def error(self) -> str | None:
        """The first call that failed although the chain went on, such as ``HTTP 429 from gpt-5``.

        A failure that ends the chain is the test's error instead.
        """
        failed = [call for call in self.calls if not 200 <= call.status < 300]
        return f"HTTP {failed[0].status} from {failed[0].model}" if failed else None

    @property
    def job_id(self) -> str:
        """The provider's job that the last batched call came from, or an empty string."""
        return next((call.job_id for call in reversed(self.calls) if call.job_id), "")


class Scores:
    """The plugin object; registered where a test is marked: scores work without a flag, too.

    ``gates`` is None in xdist workers, which see a part of the run only.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        worker = hasattr(config, "workerinput")
        self.gates = None if worker else Gates(settings.min_pass_rate, settings.min_score)
        self._misses: dict[str, str] = {}
        """The failures of missed tests, by node ID."""
        self._told: set[str] = set()
        """The missed tests whose gate failed."""

    # Around all others: what pytest makes of an xfail mark is known then.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put scores on the call's report; turn a failure that a gate allows for into a miss."""
        report = yield
        options = item.stash.get(EVAL_KEY, None)
        if options is not None and report.failed:
            from pytest_langasync.plugin.report_buffer import disarm

            disarm(report)
        # A test whose fixture failed was judged, too: its request may be what failed.
        if options is None or not (
            report.when == "call" or (report.when == "setup" and report.failed)
        ):
            return report
        record = item.stash.get(RECORD_KEY, None)
        data: dict[str, Any] = {"group": group_of(item), "required": options.min_pass_rate}
        if given := parameters_of(item):
            data["parameters"] = given
        if runner := realtime_because(item):
            data["realtime_because"] = runner
        if record is not None:
            data |= {"scores": record.scores} if record.scores else {}
            data |= {"case": record.case} if record.case else {}
            before = [one for one in item.user_properties if not one[0].startswith(PROPERTY)]
            item.user_properties[:] = before + properties(record)  # JUnit reads the teardown's
        if report.failed and report.when == "call" and options.min_pass_rate < 1.0:
            data["missed"] = True
            said = str(call.excinfo.value if call.excinfo else "failed").partition("\n")[0]
            reason = escape(said)
            report.sections.append((MISSED, report.longreprtext))
            report.outcome = "skipped"
            path, line, _ = item.location
            report.longrepr = (path, line or 0, f"missed: {reason}")
        report.langasync = data  # type: ignore[attr-defined]
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, str | tuple[str, dict[str, bool]]] | None:
        """Give misses a letter of their own."""
        if not getattr(report, "langasync", {}).get("missed"):
            return None
        return "missed", "m", ("MISSED", {"yellow": True})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a verdict up, wherever the test ran."""
        data = getattr(report, "langasync", None)
        if self.gates is None:
            return
        if hasattr(report, "langasync_deferred"):
            self.gates.deferred += 1
        elif data:
            self._misses.pop(report.nodeid, None)  # a rerun replaces what it repeats
            if data.get("missed"):
                self._misses[report.nodeid] = dict(report.sections).get(MISSED, "")
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self.gates.add(report.nodeid, report.outcome, data, why.removeprefix("missed: "))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail each test function, and the run, where a gate says so; ``--lf`` keeps its misses."""
        failed = self.gates.failed() if self.gates is not None else []
        if not failed:
            return
        from pytest_langasync.plugin.report_buffer import fail_run

        lf: Any = session.config.pluginmanager.get_plugin("lfplugin")
        for name, message, misses in failed:
            self._told.update(misses)
            fail_run(session, name, message)
            if getattr(lf, "lastfailed", None) is not None:
                lf.lastfailed.update(dict.fromkeys(misses, True))

    def pytest_unconfigure(self) -> None:
        """Close the loop in which coroutines were finished."""
        from pytest_langasync.interception.event_loop import close

        close()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show rates and scores of each group, and the failures of missed tests.

        Those whose gate failed are always shown; others with ``-v``: they were allowed for.
        """
        verbose = terminalreporter.config.get_verbosity() > 0
        shown = {one: text for one, text in self._misses.items() if verbose or one in self._told}
        if shown and terminalreporter.config.option.tbstyle != "no":
            terminalreporter.section("misses")
            for nodeid, text in shown.items():
                terminalreporter.section(f"missed: {nodeid}", sep="_", yellow=True)
                terminalreporter.write_line(text)
        lines = list(self.gates.lines()) if self.gates is not None else []
        if lines:
            terminalreporter.ensure_newline()
            terminalreporter.section("scores", sep="-", bold=True)
        for line in lines:
            terminalreporter.write_line(escape(line))  # a label may be a model's own words


# ---- what plugin.py hands over once a test is marked, or asks for a fixture


def generate(metafunc: pytest.Metafunc, options: MarkerOptions) -> None:
    """Make one test for each case, and for each repeat.

    Raises:
        ConfigurationError: the marker's inputs make no sense, or nobody would run them.
    """
    from pytest_langasync.scoring.cases import load_cases

    _check_form(metafunc, options)
    if options.inputs is not None and "langasync_case" in metafunc.fixturenames:
        cases = load_cases(options.inputs, metafunc.definition.path.parent)
        ids = [case.name or str(number) for number, case in enumerate(cases)]
        metafunc.parametrize("langasync_case", cases, ids=ids, indirect=True)
    if options.repeats > 1:
        metafunc.fixturenames.append("langasync_repeat")
        ids = [f"repeat{number}" for number in range(1, options.repeats + 1)]
        metafunc.parametrize("langasync_repeat", range(options.repeats), ids=ids, indirect=True)


def _check_form(metafunc: pytest.Metafunc, options: MarkerOptions) -> None:
    form = ("chain", "inputs", "scorer")
    if "langasync_case" in metafunc.fixturenames:
        lacking = [name for name in form[:2] if getattr(options, name) is None]
        if lacking:
            raise ConfigurationError(
                f"needs {' and '.join(f'{name}=…' for name in lacking)} for the fixture 'scored'"
            )
        return
    # One on a class or module may be meant for its other tests.
    own = [mark for mark in metafunc.definition.own_markers if mark.name == "langasync"]
    given = [name for name in form if any(name in mark.kwargs for mark in own)]
    if given:
        raise ConfigurationError(
            f"{given[0]}=… is of no use here: the test does not ask for the fixture 'scored'"
        )


def open_record(request: pytest.FixtureRequest) -> Langasync:
    """Return the record of a test that begins to run."""
    session = request.config.pluginmanager.get_plugin("langasync-session")
    attempt = session.attempt_number(request.node) if session else 1
    record = request.node.stash[RECORD_KEY] = Langasync(attempt, _item=request.node)
    return record


def run_case(request: pytest.FixtureRequest, langasync: Langasync, case: Case) -> Scored:
    """Run a case through the marker's ``chain``, and score it by its ``scorer``."""
    __tracebackhide__ = True
    from pytest_langasync.chains.invoke import Invoker
    from pytest_langasync.scoring.evaluators import apply

    options = request.node.stash[EVAL_KEY]
    session = request.config.pluginmanager.get_plugin("langasync-session")
    langasync.case |= {"input": plain(case.input), "expected": plain(case.expected)}
    started = time.perf_counter()
    attempt = session.attempt if session else None
    output = Invoker(options.chain).invoke(case.input, attempt=attempt)
    duration = time.perf_counter() - started
    langasync.case["output"] = plain(output)
    named = [*_named(options.scorer), *(("", one) for one in case.evaluators)]
    works = [partial(apply, scorer, case, output, duration) for _, scorer in named]
    try:
        found = session.side_by_side(works) if session else [work() for work in works]
    except ScoringError as error:  # how we came to read it is of no use to anybody
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    reasons: dict[str, str | None] = {}
    for (given, _), scores in zip(named, found, strict=True):
        for name, score in scores.items():
            whole = name if not given else given if len(scores) == 1 else f"{given} {name}"
            key = _free(whole, reasons)
            langasync.score(key, score.value, score.reason)
            reasons[key] = score.reason
    values = {name: one["value"] for name, one in langasync.scores.items()}
    return Scored(
        case.input, output, case.expected, values, reasons, langasync.calls, langasync.cost
    )


def _named(scorer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the marker's scorers, each with the name that the marker gives it."""
    if isinstance(scorer, dict):
        yield from scorer.items()
    else:
        several = scorer if isinstance(scorer, (list, tuple)) else [scorer]
        yield from (("", one) for one in several if one is not None)


def _free(name: str, taken: Container[str]) -> str:
    """Return a name for a score that no other scorer of the same case has taken."""
    names = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
    return next(one for one in names if one not in taken)


def group_of(item: pytest.Item) -> str:
    """Return the node ID of a test function without its parameters."""
    name = getattr(item, "originalname", None) or item.name
    return f"{item.parent.nodeid}::{name}" if item.parent is not None else item.nodeid


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """Return what a test is parametrized with, as far as these are plain values."""
    callspec = getattr(item, "callspec", None)
    given: dict[str, Any] = {} if callspec is None else callspec.params
    return {
        name: value
        for name, value in given.items()
        if name not in ("langasync_case", "langasync_repeat")
        and (value is None or isinstance(value, (str, bool, int, float)))
    }


def properties(record: Langasync) -> list[tuple[str, object]]:
    """Return what JUnit reports: scores, cost (USD) and jobs."""
    found: list[tuple[str, object]] = [
        (f"{PROPERTY}score_{name}", score["value"]) for name, score in record.scores.items()
    ]
    if record.cost is not None:
        found.append((f"{PROPERTY}cost_usd", f"{record.cost:.9f}"))
    jobs = dict.fromkeys(call.job_id for call in record.calls if call.job_id)
    return found + [(f"{PROPERTY}job", job) for job in jobs]


def plain(value: Any) -> Any:
    """Return JSON data for a report; what is none becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value)

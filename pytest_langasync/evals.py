"""Scored tests under pytest: cases, repeats, scores on reports, gates, and their summary.

Works in batch mode and without. Scores travel on the call's report as ``report.langasync``: plain
data, so that pytest-xdist carries it to the process that adds it up.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_langasync.config import Settings
from pytest_langasync.gates import Gates
from pytest_langasync.marker import MarkerOptions

if TYPE_CHECKING:
    from pytest_langasync.cases import Case

__all__ = [
    "EVAL_KEY", "Call", "Evals", "Langasync", "Scored", "generate", "open_record", "run_case",
]  # fmt: skip

EVAL_KEY = pytest.StashKey[MarkerOptions]()
RECORD_KEY = pytest.StashKey["Langasync"]()


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
        if not isinstance(value, (bool, int, float, str)):
            raise TypeError(f"{value!r} is no score: scores are numbers, booleans or labels")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the score {name!r} is {value}: scores are finite")
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


class Evals:
    """The plugin object; registered where a test is marked: scores work without a flag, too.

    ``gates`` is None in xdist workers, which see a part of the run only.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        worker = hasattr(config, "workerinput")
        self.gates = None if worker else Gates(settings.min_pass_rate, settings.min_score)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put scores on the call's report; turn a failure that a gate allows for into a miss."""
        report = yield
        options = item.stash.get(EVAL_KEY, None)
        if options is not None and report.failed:
            from pytest_langasync.reports import disarm

            disarm(report)
        # A test whose fixture failed was judged, too: its request may be what failed.
        if options is None or not (
            report.when == "call" or (report.when == "setup" and report.failed)
        ):
            return report
        record = item.stash.get(RECORD_KEY, None)
        data: dict[str, Any] = {"group": group_of(item), "required": options.min_pass_rate}
        if record is not None:
            data |= {"scores": record.scores} if record.scores else {}
            data |= {"case": record.case} if record.case else {}
            item.user_properties += properties(record)  # JUnit reads the teardown's
        if report.failed and report.when == "call" and options.min_pass_rate < 1.0:
            data["missed"] = True
            reason = str(call.excinfo.value if call.excinfo else "failed").partition("\n")[0]
            report.sections.append(("missed", report.longreprtext))
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
        if self.gates is not None and data and not hasattr(report, "langasync_deferred"):
            self.gates.add(report.nodeid, report.outcome, data)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail each test function, and the run, where a gate says so."""
        if self.gates is None:
            return
        failed = self.gates.failed()
        if not failed:
            return
        from pytest_langasync.reports import fail_run

        for name, message in failed:
            fail_run(session, name, message)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show rates and scores of each group."""
        lines = list(self.gates.lines()) if self.gates is not None else []
        if lines:
            terminalreporter.section("scores", sep="-", bold=True)
        for line in lines:
            terminalreporter.write_line(line)


# ---- what plugin.py hands over once a test is marked, or asks for a fixture


def generate(metafunc: pytest.Metafunc, marker: pytest.Mark) -> None:
    """Make one test for each case, and for each repeat.

    Raises:
        ConfigurationError: the marker's keywords, or its inputs, make no sense.
    """
    from pytest_langasync.cases import load_cases

    options = MarkerOptions.parse(marker.args, marker.kwargs)
    if options.inputs is not None and "scored" in metafunc.fixturenames:
        cases = load_cases(options.inputs, metafunc.definition.path.parent)
        ids = [case.name or str(number) for number, case in enumerate(cases)]
        metafunc.parametrize("langasync_case", cases, ids=ids, indirect=True)
    if options.repeats > 1:
        metafunc.fixturenames.append("langasync_repeat")
        ids = [f"repeat{number}" for number in range(1, options.repeats + 1)]
        metafunc.parametrize("langasync_repeat", range(options.repeats), ids=ids, indirect=True)


def open_record(request: pytest.FixtureRequest) -> Langasync:
    """Return the record of a test that begins to run."""
    session = request.config.pluginmanager.get_plugin("langasync-session")
    attempt = session.attempt_number(request.node) if session else 1
    record = request.node.stash[RECORD_KEY] = Langasync(attempt, _item=request.node)
    return record


def run_case(request: pytest.FixtureRequest, langasync: Langasync, case: Case) -> Scored:
    """Run a case through the marker's ``chain``, and score it by its ``scorer``."""
    from pytest_langasync.scoring import apply

    options = request.node.stash[EVAL_KEY]
    if options.chain is None:
        pytest.fail("@pytest.mark.langasync needs chain=… to score its inputs", pytrace=False)
    langasync.case |= {"input": plain(case.input), "expected": plain(case.expected)}
    output = run_chain(options.chain, case.input)
    langasync.case["output"] = plain(output)
    given = options.scorer
    named = given if isinstance(given, dict) else {}
    scorers = list(named.values()) if named else given if isinstance(given, list) else [given]
    reasons: dict[str, str | None] = {}
    for index, scorer in enumerate(one for one in scorers if one is not None):
        for name, score in apply(scorer, case.input, output, case.expected).items():
            key = list(named)[index] if named else name
            langasync.score(key, score.value, score.reason)
            reasons[key] = score.reason
    values = {name: one["value"] for name, one in langasync.scores.items()}
    return Scored(
        case.input, output, case.expected, values, reasons, langasync.calls, langasync.cost
    )


def run_chain(chain: Any, value: Any) -> Any:
    """Run a Runnable, a function or a coroutine function on one input."""
    if hasattr(chain, "invoke"):
        return chain.invoke(value)
    result = chain(value)
    if not inspect.isawaitable(result):
        return result

    import asyncio

    async def main() -> Any:
        return await result

    return asyncio.run(main())


def group_of(item: pytest.Item) -> str:
    """Return the node ID of a test function without its parameters."""
    name = getattr(item, "originalname", None) or item.name
    return f"{item.parent.nodeid}::{name}" if item.parent is not None else item.nodeid


def properties(record: Langasync) -> list[tuple[str, object]]:
    """Return what JUnit reports: scores, cost (USD) and jobs."""
    found: list[tuple[str, object]] = [
        (f"langasync_score_{name}", score["value"]) for name, score in record.scores.items()
    ]
    if record.cost is not None:
        found.append(("langasync_cost_usd", f"{record.cost:.9f}"))
    jobs = dict.fromkeys(call.job_id for call in record.calls if call.job_id)
    return found + [("langasync_job", job) for job in jobs]


def plain(value: Any) -> Any:
    """Return JSON data for a report; what is none becomes its text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value)

"""The report of a run, schema 1: what a run did and cost, as it is kept, written and handed on.

``RunReport`` is the one reader and writer of runs. Whatever comes from disk, also from an earlier
version, is validated here, once: what is unknown is ignored, what is missing has a default. A field
that was never set is not written, so that what is read and written again stays as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pytest_langasync.reporting.text import nothing_bought
from pytest_langasync.scoring.gates import GateResult

__all__ = [
    "SCHEMA", "CallReport", "Case", "Comparison", "CostRow", "Move", "NewerReportError",
    "PassedCalls", "RetriedRequests",
    "RunReport", "Score", "ScoreChange", "ScoreValue", "TestReport", "TokenUsage", "WaitingCall",
    "json_schema", "read_report",
]  # fmt: skip

SCHEMA = 1
"""A higher number means fields that changed their meaning."""

ScoreValue = bool | int | float | str | None
"""A number, a boolean or a label."""


def _may_lack(*names: str) -> Callable[[dict[str, Any]], None]:
    """Return what tells the JSON schema that these fields are not always written."""

    def change(schema: dict[str, Any]) -> None:
        schema["required"] = [name for name in schema.get("required", ()) if name not in names]

    return change


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Score(_Model):
    """A score that a test recorded."""

    model_config = ConfigDict(json_schema_extra=_may_lack("reason"))

    value: ScoreValue = None
    reason: str | None = None
    """Why, in a judge's words. Not kept in the cache."""


class Case(_Model):
    """The case of a declarative evaluation: JSON values, or their texts."""

    model_config = ConfigDict(json_schema_extra=_may_lack("input", "expected", "output"))

    input: Any = None
    expected: Any = None
    output: Any = None


class TokenUsage(_Model):
    """Tokens of one answer. ``input_tokens`` includes both cache figures."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class CallReport(_Model):
    """One call to a model and its answer. Money is in USD, None where unknown."""

    model_config = ConfigDict(json_schema_extra=_may_lack("request", "answer"))

    key: str = ""
    provider: str = ""
    endpoint: str = ""
    model: str = ""
    served_model: str = ""
    source: str = ""
    """``batch``, ``flex``, ``realtime`` or ``cache``."""
    job_id: str | None = None
    request_id: str | None = None
    status: int = 0
    usage: TokenUsage | None = None
    list_price_usd: float | None = None
    paid_usd: float | None = None
    """What this run paid for it: 0 where it came from the cache."""
    age_seconds: float = 0.0
    """How old the answer was when the run ended."""
    request: Any = None
    """The request's body; only in a written report."""
    answer: Any = None


class WaitingCall(_Model):
    """A call that still waits for its answer."""

    key: str = ""
    provider: str = ""
    endpoint: str = ""
    asked: str = ""
    """The model."""
    job_id: str | None = None
    """None when it was not submitted."""


class TestReport(_Model):
    """A test, or another owner of calls: a wide fixture, or ``(unused)`` answers."""

    __test__ = False
    model_config = ConfigDict(
        json_schema_extra=_may_lack(
            "outcome",
            "group",
            "parameters",
            "scores",
            "missed",
            "xfail",
            "failure",
            "case",
            "calls",
            "deferred",
        )
    )

    id: str
    """The node ID."""
    outcome: str | None = None
    """``passed``, ``failed``, ``error``, ``skipped``, ``deferred``; None where it came to no
    verdict: the run was stopped before, or this is no test."""
    group: str | None = None
    """The test function, of a marked test."""
    parameters: dict[str, ScoreValue] = {}
    """What the test is parametrized with, as far as these are numbers, booleans or texts."""
    scores: dict[str, Score] = {}
    missed: bool = False
    """Whether it failed and its gate allows for that."""
    xfail: str | None = None
    """The reason of a mark ``xfail`` that decided the outcome."""
    failure: str | None = None
    """The message of a failure."""
    case: Case | None = None
    calls: list[CallReport] = []
    deferred: list[WaitingCall] = []

    @property
    def verdict(self) -> str:
        """The outcome in a word, also where there is none."""
        if self.missed:
            return "missed"
        if self.xfail is not None and self.outcome in ("skipped", "passed"):
            return "xfailed" if self.outcome == "skipped" else "xpassed"
        return self.outcome or "not judged"

    @property
    def judged(self) -> bool:
        """Whether it is a marked test that came to a verdict."""
        return self.group is not None and (
            self.missed or self.outcome in ("passed", "failed", "error")
        )


class CostRow(_Model):
    """Sums over requests, of one model or of all. Money is in USD; what is unknown is left out.

    ``list_price_usd``, ``paid_usd`` and ``saved_usd`` are of this run, in which an answer of the
    cache costs nothing.
    """

    model_config = ConfigDict(
        json_schema_extra=_may_lack("verdicts_list_price_usd", "verdicts_cost_usd")
    )

    provider: str = ""
    model: str = ""
    served: list[str] = []
    """The models that served, where they differ from the one asked for."""
    requests: int = 0
    """How many have an answer: the sum of the next four."""
    batched: int = 0
    cached: int = 0
    realtime: int = 0
    flex: int = 0
    failed: int = 0
    deferred: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    list_price_usd: float | None = None
    paid_usd: float | None = None
    saved_usd: float | None = None
    saved_percent: float | None = None
    verdicts_list_price_usd: float | None = None
    """The list price of the answers that verdicts used: what real time would have cost."""
    verdicts_cost_usd: float | None = None
    """What these cost when they were bought, in this run or an earlier one, whoever paid."""
    unknown_price: int = 0
    """How many requests have no known price."""


class PassedCalls(_Model):
    """Calls that were sent in real time because they could not be batched."""

    host: str
    calls: int
    why: str


class RetriedRequests(_Model):
    """Requests of a job that were sent again."""

    job_id: str
    reason: str
    count: int


class ScoreChange(_Model):
    """How a score's mean changed over the tests that both runs have it for."""

    name: str
    n: int
    before: float
    after: float
    change: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


class Move(_Model):
    """A score of one test that is another than before."""

    id: str
    name: str
    before: ScoreValue = None
    after: ScoreValue = None


class Comparison(_Model):
    """A run against an earlier one."""

    baseline: str = ""
    started_at: float | None = None
    """When the earlier one began, in seconds since the epoch."""
    paired: int = 0
    """How many tests both judged."""
    added: list[str] = []
    removed: list[str] = []
    newly_failing: list[str] = []
    newly_passing: list[str] = []
    p_value: float | None = None
    scores: list[ScoreChange] = []
    moves: list[Move] = []
    regressions: list[str] = []
    """A sentence for each change for the worse that is more than noise."""


_TEXTS: dict[str, Any] = {
    "case": True,
    "failure": True,
    "parameters": True,
    "scores": {"__all__": {"reason"}},
}
"""Of a test, what a prompt or an answer stands in."""


class RunReport(_Model):
    """What a run did and cost. Times are seconds since the epoch, money is in USD."""

    model_config = ConfigDict(json_schema_extra=_may_lack("cache_ages_seconds"))

    version: int = Field(
        default=SCHEMA,
        validation_alias=AliasChoices("schema", "version"),
        serialization_alias="schema",
    )
    name: str = ""
    """Under which the run is kept."""
    started_at: float = 0.0
    ended_at: float = 0.0
    exit_status: int = 0
    settings: dict[str, Any] = {}
    """The options that differ from their defaults."""
    totals: CostRow = CostRow()
    models: list[CostRow] = []
    jobs: list[str] = []
    passed: list[PassedCalls] = []
    retries: list[RetriedRequests] = []
    cache_ages_seconds: tuple[float, float] | None = None
    """How old the youngest and the oldest answer of the cache were when the run began."""
    masked: int = 0
    """Answers that served a request with other generated identifiers."""
    changed: list[str] = []
    """Tests whose requests changed since they were last bought."""
    gates: list[GateResult] = []
    comparison: Comparison | None = None
    tests: list[TestReport]

    @property
    def freshness(self) -> str:
        """A sentence where a run bought nothing and judged old answers alone; else empty."""
        bought_nothing = 0 < self.totals.requests == self.totals.cached
        return nothing_bought(self.cache_ages_seconds) if bought_nothing else ""

    def judged(self) -> dict[str, TestReport]:
        """Return the marked tests that came to a verdict, by node ID."""
        return {test.id: test for test in self.tests if test.judged}

    def with_bodies(
        self, request_body: Callable[[str], Any], answer_body: Callable[[str], Any]
    ) -> RunReport:
        """Return the report with what each call asked and was answered, by the call's key."""

        def told(call: CallReport) -> CallReport:
            bodies = {"request": request_body(call.key), "answer": answer_body(call.key)}
            return call.model_copy(update=bodies)

        tests = [test.model_copy(update={"calls": [*map(told, test.calls)]}) for test in self.tests]
        return self.model_copy(update={"tests": tests})

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return self._dump({})

    def without_texts(self) -> dict[str, Any]:
        """Return JSON values without what a prompt or an answer stands in."""
        return self._dump(_TEXTS | {"calls": {"__all__": {"request", "answer"}}})

    def kept(self) -> dict[str, Any]:
        """Return what the cache keeps as JSON values: verdicts, scores and sums."""
        return self._dump(_TEXTS | {"calls": True, "deferred": True})

    def text(self) -> str:
        """Return the report as a JSON file holds it."""
        # Not by pydantic: a body may hold half of a surrogate pair, which it cannot encode.
        return json.dumps(self.document(), ensure_ascii=False, indent=1, default=str) + "\n"

    def _dump(self, exclude: Mapping[str, Any]) -> dict[str, Any]:
        left_out = {"tests": {"__all__": dict(exclude)}} if exclude else None
        return self.model_dump(by_alias=True, exclude_unset=True, exclude=left_out)


class NewerReportError(ValueError):
    """A report whose fields may mean something else."""


def read_report(document: Any) -> RunReport:
    """Validate what was read from disk.

    Raises:
        NewerReportError: it is of a newer schema.
        ValueError: it is no report of a run.
    """
    try:
        report = RunReport.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place or 'all of it'}: {first['msg']}") from None
    if report.version > SCHEMA:
        raise NewerReportError("it was written by a newer pytest-langasync")
    return report


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a written report; it is shipped as ``report.schema.json``."""
    schema = RunReport.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    import sys

    sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")

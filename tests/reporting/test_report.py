"""What the person sees, and what a machine reads."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pytest_langasync.costs.ledger import Ledger, Retry, Summary, SummaryRow
from pytest_langasync.costs.prices import Estimate, PriceBook
from pytest_langasync.models import (
    Answer,
    Call,
    Credentials,
    Event,
    Job,
    JobState,
    JobStatus,
    MissingCall,
    Request,
    Target,
)
from pytest_langasync.reporting import model
from pytest_langasync.reporting.comparison import compare
from pytest_langasync.reporting.history import figures
from pytest_langasync.reporting.html import html_page
from pytest_langasync.reporting.jsonfile import run_report, write_text
from pytest_langasync.reporting.markdown import markdown
from pytest_langasync.reporting.model import RunReport, TestReport, json_schema, read_report
from pytest_langasync.reporting.progress import Gathering, Progress, interrupted_lines
from pytest_langasync.reporting.terminal import (
    Line,
    escape,
    estimate_lines,
    failure_section,
    summary_lines,
)
from pytest_langasync.reporting.text import duration, money, nothing_bought, shorten

START = 1_793_500_000.0
HOSTILE = "a\x1b[2J\x9b31m\r\u202eb\u2028c\x07\ud800"
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")


def a_row(**values: Any) -> SummaryRow:
    given: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "batched": 12,
        "input_tokens": 12_000,
        "output_tokens": 1_200,
        "list_price": Decimal("0.0246"),
        "paid": Decimal("0.0123"),
        "verdicts_list_price": Decimal("0.0246"),
        "verdicts_cost": Decimal("0.0123"),
    }
    return SummaryRow(**(given | values))


def a_summary(*rows: SummaryRow, **values: Any) -> Summary:
    total = rows[0] if len(rows) == 1 else SummaryRow(model="total", **values.pop("total", {}))
    given: dict[str, Any] = {
        "jobs": (),
        "cache_ages": None,
        "passed": (),
        "masked": 0,
        "changed": (),
        "retries": (),
    }
    return Summary(rows=rows, total=total, **(given | values))


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def a_call(body: dict[str, Any], endpoint: str = "/chat/completions") -> Call:
    request = Request(Target("openai", "https://api.example/v1", endpoint), body)
    return Call(request, "t.py::test", 0)


CALL = a_call({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Capital?"}]})
BODY = {
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"message": {"role": "assistant", "content": "Paris"}}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
}
ANSWER = Answer(
    CALL.key, 200, BODY, job_id="batch_1", bought_at=START - 600, received_at=START - 500
)


# --- text


def test_escape_leaves_nothing_that_controls_a_terminal() -> None:
    assert not RAW.search(escape(HOSTILE))
    assert escape("\x1b]0;t\x07") == "\\x1b]0;t\\x07"
    assert escape("one\r\n\ttwo – Größe 漢字 👍🏽") == "one\n\ttwo – Größe 漢字 👍🏽"
    escape(HOSTILE).encode("utf-8")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.0012", "$0.0012"),
        ("0.0123", "$0.0123"),
        ("0.00000016", "$0.00000016"),
        ("0.5", "$0.5000"),
        ("12.345", "$12.34"),
        ("1234.5", "$1,234.50"),
        ("-0.0031", "-$0.0031"),
    ],
)
def test_money(amount: str, text: str) -> None:
    assert money(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (45, "45s"), (190, "3m10s"), (7500, "2h05m"), (273_600, "3d04h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_shorten_keeps_both_ends() -> None:
    short = shorten("a" * 900 + "end", 100)
    assert short.startswith("aaa")
    assert short.endswith("end")
    assert "803 characters left out" in short
    assert shorten("abc", 3) == "abc"


# --- summary


def test_summary_ends_with_what_was_saved() -> None:
    lines = summary_lines(a_summary(a_row()))
    assert lines[-1].text == (
        "these verdicts: saved $0.0123 (50.0 %) of $0.0246 list price; their answers cost $0.0123 "
        "when they were bought"
    )
    assert lines[-1].markup == {"bold": True, "green": True}
    head = ["provider", "model", "batch", "in", "out", "list", "paid"]
    assert lines[0].text.split() == [*head, "saved"]
    middle = texts(summary_lines(a_summary(a_row()), width=70))
    assert middle[0].split() == [*head, "saved"] and middle[1].endswith("$0.0123  $0.0123")
    narrow = texts(summary_lines(a_summary(a_row()), width=60))
    assert narrow[0].split() == ["provider", "model", "batch", "list", "paid", "saved"]
    narrowest = texts(summary_lines(a_summary(a_row()), width=48))
    assert narrowest[0].split() == ["provider", "model", "batch", "list", "paid"]
    for table, width in ((middle, 70), (narrow, 60), (narrowest, 48)):
        assert max(map(len, table[:2])) <= width
    assert lines[1].text.split() == (
        [
            "openai",
            "gpt-4o-mini",
            "12",
            "12,000",
            "1,200",
            "$0.0246",
            "$0.0123",
            "$0.0123",
            "50",
            "%",
        ]
    )


def test_summary_of_nothing_is_nothing() -> None:
    assert summary_lines(a_summary(total={})) == []


def test_summary_has_a_total_and_columns_for_what_happened() -> None:
    summary = a_summary(
        a_row(),
        a_row(provider="anthropic", model="claude-sonnet-4-5", cached=3, deferred=2),
        total={"batched": 24, "cached": 3, "deferred": 2, "list_price": Decimal("0.0492")},
    )
    table = texts(summary_lines(summary))
    assert re.split(r"  +", table[0])[2:5] == ["batch", "cache", "deferred"]
    assert table[3].split()[0:4] == ["total", "24", "3", "2"]
    assert len({len(line) for line in table[0:4]}) == 1


def test_summary_fits_the_width() -> None:
    long_name = a_row(model="a-provider/a-very-long-model-name-" + "x" * 60)
    wide = texts(summary_lines(a_summary(long_name), width=80))
    assert all(len(line) <= 80 for line in wide[:2])
    assert "…" in wide[1] and not [line for line in wide if "tokens in" in line]
    narrow = texts(summary_lines(a_summary(long_name), width=60))
    assert all(len(line) <= 60 for line in narrow[:2])
    row = a_row()
    assert f"{row.input_tokens:,} tokens in, {row.output_tokens:,} out" in narrow


def test_summary_names_the_unknown_and_the_unusual() -> None:
    summary = a_summary(
        a_row(model="foo", unknown=12, served=("foo-2",), list_price=Decimal(0), paid=Decimal(0)),
        cache_ages=(60.0, 7200.0),
        passed=(("llm.example", 2, "no batch API"),),
        masked=3,
        changed=("t.py::a",),
        jobs=("batch_1",),
        retries=(Retry("batch_1", "rate limit", 1),),
    )
    plain, more = texts(summary_lines(summary)), texts(summary_lines(summary, verbose=True))
    assert "12 requests of model foo have no known price" in plain
    assert plain[1].split()[-2:] == ["?", "?"]
    assert "foo was served by foo-2" in plain
    assert "cached answers are 1m00s to 2h00m old" in plain
    assert "2 calls to llm.example ran in real time: no batch API" in plain
    assert "1 request of batch_1 sent again: rate limit" in plain
    assert plain[-2].endswith("12 requests of unknown price left out")
    assert set(more) - set(plain) == {
        "changed: t.py::a",
        "job: batch_1",
        "3 answers replayed although generated identifiers in the request differed",
    }


def test_summary_escapes_names() -> None:
    row = a_row(model=HOSTILE, served=(HOSTILE,), unknown=1)
    summary = a_summary(row, passed=((HOSTILE, 1, HOSTILE),), jobs=(HOSTILE,))
    assert not any(RAW.search(line) for line in texts(summary_lines(summary, verbose=True)))


# --- estimate


def test_estimate_names_both_prices_and_the_first_wave() -> None:
    low, high, low_batch, high_batch = (Decimal(n) / 10_000 for n in (20, 60, 10, 30))
    one = Estimate(1000, 500, low, low_batch, high, high_batch, requests=4)
    lines = texts(estimate_lines({("openai", "gpt-4o-mini"): one}))
    assert "$0.0020 to $0.0060" in lines[1]
    assert "$0.0010 to $0.0030" in lines[1]
    assert lines[-2] == "$0.0020 to $0.0060 in real time, $0.0010 to $0.0030 as a batch"
    assert lines[-1].startswith("first wave only")


def test_estimate_names_what_is_unknown() -> None:
    unknown = Estimate(10, 5, None, None, None, None, requests=3)
    no_batch = Estimate(10, 5, Decimal(1), None, Decimal(1), None, requests=2)
    unbounded = Estimate(10, None, Decimal(1), Decimal(1), None, None)
    keys = [("openai", "foo"), ("openai", "bar"), ("openai", "baz")]
    lines = texts(estimate_lines(dict(zip(keys, [unknown, no_batch, unbounded], strict=True))))
    assert "3 requests of model foo have no known price" in lines
    assert "2 requests of model bar have no known batch price" in lines
    assert "1 request of model baz has no known upper bound" in lines
    assert lines[-2] == "$1.00 or more in real time, $1.00 or more as a batch"
    assert len(texts(estimate_lines({}))) == 1


# --- failing test


def test_failure_section_tells_each_call() -> None:
    text = failure_section([(CALL, ANSWER)], started_at=START, now=START)
    assert text.split("\n") == [
        "[1] gpt-4o-mini (served by gpt-4o-mini-2024-07-18), /chat/completions, batch_1,"
        " cache, 10m00s old",
        "    asked     Capital?",
        "    answered  Paris",
    ]


def test_failure_section_is_safe_and_short() -> None:
    body = {"choices": [{"message": {"content": HOSTILE + "x" * 100_000}}]}
    hostile = replace(ANSWER, body=body, status=500, job_id="")
    text = failure_section([(CALL, hostile), (CALL, ANSWER)], started_at=START - 900, now=START)
    assert not RAW.search(text)
    assert len(text) < 1_500
    assert "status 500, real time" in text
    assert "[2] " in text
    assert "batch_1, batch, " in text


# --- progress


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


def a_job(**values: Any) -> Job:
    given: dict[str, Any] = {
        "id": "batch_abc",
        "provider": "openai",
        "base_url": "https://api.example/v1",
        "endpoint": "/chat/completions",
        "model": "gpt-4o-mini",
        "headers": (),
        "nonce": "n",
        "created_at": START,
        "requests": 12,
    }
    return Job(**(given | values))


def a_status(completed: int, word: str = "in_progress", **values: Any) -> JobStatus:
    return JobStatus(JobState.RUNNING, word, total=12, completed=completed, **values)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def progress(clock: Clock, lines: list[str]) -> Iterator[Progress]:
    with Progress(lines.append, live=False, clock=clock) as shown:
        yield shown


def test_lines_tell_what_happens(progress: Progress, clock: Clock, lines: list[str]) -> None:
    job = a_job()
    progress(Event("uploading", "openai", "gpt-4o-mini", 12))
    progress(Event("submitted", "openai", "gpt-4o-mini", 12, job))
    clock.now += 190
    progress(Event("progress", job=job, status=a_status(5)))
    progress(Event("retrying", "openai", "gpt-4o-mini", 2, job, message="rate limit"))
    rejected = JobStatus(JobState.REJECTED, "failed", reason="too many\x1b tokens")
    progress(Event("rejected", job=job, status=rejected))
    progress(Event("trouble", message="the provider cannot be reached"))
    progress(Event("collected", job=job, requests=1))
    assert lines == [
        "langasync: uploading openai gpt-4o-mini 12 requests",
        "langasync: submitted batch_abc openai gpt-4o-mini 12 requests",
        "langasync: batch_abc in_progress 5/12 after 3m10s",
        "langasync: retrying batch_abc openai gpt-4o-mini 2 requests: rate limit",
        "langasync: rejected batch_abc openai gpt-4o-mini: too many\\x1b tokens",
        "langasync: trouble: the provider cannot be reached",
        "langasync: collected answers of batch_abc openai gpt-4o-mini 1 request after 3m10s",
    ]


def test_a_day_of_polls_is_told_in_few_lines(
    progress: Progress, clock: Clock, lines: list[str]
) -> None:
    job = a_job()
    told_at = []
    for _ in range(24 * 60):
        before = len(lines)
        progress(Event("progress", job=job, status=a_status(5)))
        told_at += [clock.now] * (len(lines) - before)
        clock.now += 60
    gaps = [later - earlier for earlier, later in pairwise(told_at)]
    assert gaps[0] == 60
    assert max(gaps) == 600
    assert 100 < len(lines) < 200


def test_new_words_are_told_at_once_and_new_counts_soon(
    progress: Progress, clock: Clock, lines: list[str]
) -> None:
    job = a_job()
    for done, word, later in (
        (0, "validating", 0.1),
        (0, "in_progress", 0.1),  # a new word
        (1, "in_progress", 0.1),  # too soon after the line before
        (2, "in_progress", 6),
        (12, "in_progress", 0.1),  # the last of them
    ):
        clock.now += later
        progress(Event("progress", job=job, status=a_status(done, word)))
    assert [re.findall(r"(\w+) (\d+)/", line)[0] for line in lines] == [
        ("validating", "0"),
        ("in_progress", "0"),
        ("in_progress", "2"),
        ("in_progress", "12"),
    ]


def test_a_tick_is_a_heartbeat_for_running_jobs_only(
    progress: Progress, clock: Clock, lines: list[str]
) -> None:
    ended = JobStatus(JobState.ENDED, "completed", total=12, completed=12)
    progress(Event("progress", job=a_job(), status=a_status(5)))
    progress(Event("progress", job=a_job(id="batch_done"), status=ended))
    clock.now += 59
    progress.tick()
    assert len(lines) == 2
    clock.now += 1
    progress.tick()
    assert [line.split()[1] for line in lines[2:]] == ["batch_abc"]


def test_live_shows_a_table_and_obeys_no_markup(
    clock: Clock, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    file = io.StringIO()
    with Progress(lines.append, live=True, clock=clock, file=file) as shown:
        shown(Event("submitted", "openai", "gpt-4o-mini", 12, a_job()))
        clock.now += 190
        shown(Event("progress", job=a_job(), status=a_status(5, failed=1)))
        shown(Event("trouble", message="[red]\x1b]0;title\x07[/red]"))
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert lines == []
    assert "in_progress 6/12 (1 failed)" in seen
    assert "3m10s" in seen
    assert "━" in seen
    assert "langasync: trouble: [red]\\x1b]0;title\\x07[/red]" in seen
    assert "\x07" not in seen


@pytest.mark.parametrize(
    ("columns", "shown_as"),
    [
        (100, "openai gpt-4o-mini  ━━━━━         in_progress 5/12  3m10s  batch_0123456789abcdef"),
        (80, "openai gpt-4o-mini  in_progress 5/12  3m10s  batch_0123456789abcdef"),
        (60, "openai gpt-4o-mini  in_progress 5/12  3m10s  batch_0…9abcdef"),
        (55, "openai gpt-4o-m…  in_progress 5/12  3m10s  batch_…bcdef"),
        (40, "openai gpt-4o-…  in_progress 5/12  3m10s"),
    ],
)
def test_live_gives_way_in_order(
    clock: Clock, lines: list[str], monkeypatch: pytest.MonkeyPatch, columns: int, shown_as: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    file, job = io.StringIO(), a_job(id="batch_0123456789abcdef")
    with Progress(lines.append, live=True, clock=clock, file=file) as shown:
        shown(Event("submitted", "openai", "gpt-4o-mini", 12, job))
        clock.now += 190
        shown(Event("progress", job=job, status=a_status(5)))
    assert file.getvalue().splitlines()[-1].rstrip() == shown_as


def test_gathering_stays_in_its_line(clock: Clock) -> None:
    file = io.StringIO()
    shown = Gathering(file, clock, width=40)
    shown.show(12)
    shown.clear()
    line, _ = file.getvalue().removeprefix("\r\x1b[2K").split("\r")
    assert line == "langasync: gathering: 12 tests wait fo…"


def test_a_later_wave_does_not_show_ended_jobs(clock: Clock, lines: list[str]) -> None:
    ended = JobStatus(JobState.ENDED, "completed", total=12, completed=12)
    file = io.StringIO()
    later = Progress(lines.append, live=True, clock=clock, file=file)
    with later:
        later(Event("progress", job=a_job(id="batch_one"), status=ended))
    file.seek(0)
    file.truncate()
    with later:
        later(Event("progress", job=a_job(id="batch_two"), status=a_status(1)))
    assert "batch_two" in file.getvalue()
    assert "batch_one" not in file.getvalue()


def test_interrupted_says_how_to_go_on() -> None:
    text = interrupted_lines([a_job(), a_job(id="batch_old", state=JobState.ENDED)])
    assert "1 job goes on" in text[0]
    assert "batch_abc openai gpt-4o-mini 12 requests" in text[1]
    assert "same command" in text[2]
    assert text[3].endswith("--langasync-resume=batch_abc")
    assert "no job is running" in interrupted_lines([])[0]


def test_forty_columns_stay_readable() -> None:
    lines = texts(summary_lines(a_summary(a_row(), cache_ages=(5.0, 777_600.0)), width=40))
    assert max(map(len, lines)) <= 40
    assert lines[:2] == ["openai gpt-4o-mini", "  batch 12, list $0.0246, paid $0.0123"]


def test_old_answers_alone_are_told_loudly() -> None:
    row = a_row(batched=0, cached=12, paid=Decimal(0))
    for ages, loud in (((60.0, 777_600.0), True), ((60.0, 3600.0), False)):
        lines = summary_lines(a_summary(row, cache_ages=ages))
        (line,) = [line for line in lines if line.text.startswith("nothing was bought")]
        assert bool(line.markup.get("bold")) is loud
    assert texts(lines)[-2:] == [
        "this run: paid $0.00 for 12 requests, 12 of them answered from the cache",
        "these verdicts: saved $0.0123 (50.0 %) of $0.0246 list price; their answers cost $0.0123 "
        "when they were bought",
    ]
    assert (
        nothing_bought((60.0, 777_600.0)) == "nothing was bought: answers are 1m00s to 9 days old"
    )
    bought = texts(summary_lines(a_summary(a_row(cached=1), cache_ages=(60.0, 60.0))))
    assert "cached answers are 1m00s old" in bought and "nothing was bought" not in str(bought)


# --- JSON


def a_ledger() -> Ledger:
    ledger = Ledger(START, PriceBook())
    ledger.used("t.py::test", CALL, replace(ANSWER, bought_at=START, received_at=START + 60))
    target = replace(
        CALL.request.target, credentials=Credentials({"authorization": "Bearer sk-secret"})
    )
    pending = MissingCall(
        key="k2",
        owner="t.py::other",
        occurrence=0,
        target=target,
        model="gpt-4o-mini",
        size=1,
    )
    ledger.deferred("t.py::other", pending, "batch_2")
    return ledger


def test_run_json_holds_verdicts_calls_and_costs() -> None:
    bare = run_report(
        a_ledger(),
        [TestReport(id="t.py::test", outcome="passed")],
        exit_status=75,
        now=START + 100,
        settings={"timeout": 0},
    )
    assert "Paris" not in bare.text()
    asked, answered = {CALL.key: CALL.request.body}, {CALL.key: BODY}
    document = bare.with_bodies(asked.__getitem__, answered.__getitem__).document()
    assert (document["schema"], document["exit_status"]) == (1, 75)
    totals = document["totals"]
    assert totals["list_price_usd"] == pytest.approx(0.00021)
    assert totals["paid_usd"] == pytest.approx(0.000105)
    assert (totals["batched"], totals["deferred"]) == (1, 1)
    test, other = document["tests"]
    assert (test["id"], test["outcome"]) == ("t.py::test", "passed")
    (call,) = test["calls"]
    assert call["answer"] == BODY
    assert call["request"] == CALL.request.body
    assert (call["job_id"], call["source"], call["age_seconds"]) == ("batch_1", "batch", 100)
    assert call["usage"]["input_tokens"] == 1000
    assert [waiting["job_id"] for waiting in other["deferred"]] == ["batch_2"]
    assert "secret" not in json.dumps(document)


def test_write_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    settings = {"text": "ä\ud800", "path": tmp_path}
    write_text(path, RunReport(settings=settings, tests=[]).text())
    shown = json.loads(path.read_text("utf-8"))["settings"]
    assert shown == {"text": "ä\ud800", "path": str(tmp_path)}
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_text(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


SHIPPED = Path(model.__file__).with_name("report.schema.json")
OLD: dict[str, Any] = {
    "name": "old",
    "tests": [{"id": "(unused)"}, {"id": "stopped", "group": "g", "more": 1}, {"id": "t"}],
}
"""A run as earlier versions kept it: tests that came to no verdict, and nothing more."""


def test_the_json_schema_is_shipped_and_fits() -> None:
    """After a change: ``python -m pytest_langasync.reporting.model > …/report.schema.json``."""
    schema = json.loads(SHIPPED.read_text("utf-8"))
    assert schema == json_schema()
    jsonschema = pytest.importorskip("jsonschema")
    report = run_report(a_ledger(), [TestReport(id="t", outcome="passed")], now=START)
    for document in (report.document(), report.without_texts(), report.kept()):
        jsonschema.validate(json.loads(json.dumps(document)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 1, "tests": [{"outcome": "passed"}]}, schema)


def test_what_is_read_is_written_again_as_it_was() -> None:
    for document in (OLD | {"schema": 1}, run_report(a_ledger(), [], now=START).document()):
        again = read_report(document).document()
        assert again == json.loads(json.dumps(document).replace(', "more": 1', ""))


def test_runs_without_verdicts_are_read_and_shown() -> None:
    old = read_report(OLD)
    assert [test.verdict for test in old.tests] == ["not judged"] * 3 and not old.judged()
    now = read_report({"tests": [{"id": "t", "group": "g", "outcome": "passed"}]})
    assert compare(old, now).added == ["t"]
    assert "LLM evaluations" in markdown(old)
    assert "not judged" in html_page(old, history=[figures(old)])


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "all of it"),
        ({"name": "x"}, "tests"),
        ({"tests": [{"outcome": "passed"}]}, r"tests\.0\.id"),
        ({"schema": 2, "tests": []}, "newer"),
        ({"tests": [], "totals": {"requests": "many"}}, r"totals\.requests"),
    ],
)
def test_what_is_no_report_is_told_in_a_line(document: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        read_report(document)
    assert "\n" not in str(error.value)


def test_the_page_shows_failures_first_and_parameters() -> None:
    words = ("passed", "skipped", "failed", "error")
    tests = [{"id": f"t::{word}", "group": "t", "outcome": word} for word in words]
    tests[0]["parameters"] = {"model": "gpt-5", "temperature": 0.5}  # type: ignore[assignment]
    page = html_page(read_report({"tests": tests}))
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [case["verdict"] for case in data["cases"]] == ["failed", "error", "passed", "skipped"]
    assert data["cases"][2]["parameters"] == [["model", "gpt-5"], ["temperature", "0.5"]]
    report = read_report({"tests": tests, "totals": {"requests": 1, "paid_usd": 0.0}})
    cards = html_page(report)
    assert cards.index("<dt>Failed</dt>") < cards.index("<dt>Paid</dt>")

"""The cache: nothing lost, nothing wrong, whatever happens to its files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import tempfile
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_langasync.cache import files
from pytest_langasync.cache.store import Intent, OwnerState, RequestMeta, Store
from pytest_langasync.exceptions import CacheError
from pytest_langasync.models import (
    Answer,
    Call,
    Credentials,
    Job,
    JobState,
    MissingCall,
    Request,
    ResultRow,
    Target,
    make_custom_id,
)

NONCE = "abcdefghijkl"
META = RequestMeta("openai", "https://api.openai.com/v1", "/chat/completions", (), "gpt-x")
TARGET = Target(
    META.provider,
    META.base_url,
    META.endpoint,
    (),
    Credentials({"authorization": "Bearer secret-key"}),
)

texts = st.text(st.characters(codec=None), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def key_of(number: int) -> str:
    return f"{number:040x}"


def pending(number: int, owner: str = "t.py::test") -> MissingCall:
    return MissingCall(key_of(number), owner, 0, TARGET, META.model, 10)


def job_of(job_id: str = "batch_1", *, created_at: float = 100.0, requests: int = 3) -> Job:
    return Job(
        id=job_id, provider=META.provider, base_url=META.base_url, endpoint=META.endpoint,
        model=META.model, headers=(("anthropic-beta", "x"),), nonce=NONCE, created_at=created_at,
        requests=requests,
    )  # fmt: skip


def row(
    number: int, body: Any = "answer", *, status: int = 200, retryable: bool = False
) -> ResultRow:
    return ResultRow(make_custom_id(NONCE, key_of(number)), status, body, "req_1", retryable)


def submit(store: Store, job: Job, numbers: list[int]) -> Job:
    missing_calls = [pending(number, f"t.py::test_{number}") for number in numbers]
    for item, number in zip(missing_calls, numbers, strict=True):
        store.spool(item, {"model": "gpt-x", "n": number})
    intent = Intent(job.nonce, META, job.created_at, len(numbers))
    with store.lock():
        store.write_intent(intent, missing_calls)
        return store.promote(job.nonce, job)


def noted(number: int) -> OwnerState:
    return OwnerState(waiting=(key_of(number),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path / "cache", clock=lambda: 1000.0)
    opened.open()
    return opened


def reopened(store: Store) -> Store:
    again = Store(store.root)
    again.open()
    return again


class TestLayout:
    def test_reading_creates_nothing(self, store: Store) -> None:
        assert store.answer(key_of(1)) is None
        assert store.jobs() == [] and not list(store.history) and store.owners.read() == {}
        assert not store.root.exists()

    def test_files_are_private_and_ignored_by_git(self, store: Store) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1)])
        store.history.add("r1", {"a": 1})
        store.owners.update({"o": noted(1)})
        paths = [store.root, *store.root.rglob("*")]
        loose = [p for p in paths if stat.S_IMODE(p.stat().st_mode) & 0o077]
        assert loose == [] and (store.root / ".gitignore").read_text() == "*\n"

    def test_no_secret_on_disk(self, store: Store) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1)])
        files = [p for p in store.root.rglob("*") if p.is_file()]
        assert len(files) > 3 and not any(b"secret-key" in p.read_bytes() for p in files)

    @pytest.mark.parametrize("job_id", ["../../evil", "/etc/x", "a/b", "..", ".", "", "x" * 300])
    def test_job_id_cannot_leave_the_folder(self, store: Store, job_id: str) -> None:
        job = job_of(job_id, requests=1)
        store.finish(submit(store, job, [1]), [row(1)])
        inside = store.root.resolve()
        outside = [
            p for p in inside.parent.rglob("*") if p.is_file() and not p.is_relative_to(inside)
        ]
        assert outside == [] and len(list((inside / "jobs").iterdir())) == 1
        answer = reopened(store).answer(key_of(1))
        assert answer is not None and answer.job_id == job_id

    def test_newer_version_is_refused(self, store: Store) -> None:
        store.history.add("r", {})
        (store.root / "version").write_text("2\n")
        with pytest.raises(CacheError, match=r"newer version"):
            reopened(store)

    def test_a_damaged_version_is_named_and_written_anew(self, store: Store) -> None:
        store.history.add("r", {})
        (store.root / "version").write_bytes(b"\xff\xfe")
        again = reopened(store)
        assert "version: damaged" in again.problems[0]
        again.history.add("r", {})
        assert reopened(store).problems == []

    def test_a_file_in_the_place_of_the_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("")
        with pytest.raises(CacheError, match=r"not writable"):
            Store(tmp_path / "cache").open()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_unwritable_directory_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(CacheError, match=r"not writable"):
            Store(tmp_path / "cache").open()

    def test_failing_write_is_one_clear_line(self, store: Store) -> None:
        store.history.add("r", {})
        (store.root / "jobs").write_text("a file where a folder should be")
        with pytest.raises(CacheError, match=r"cannot write the cache at .*jobs"):
            store.update_job(job_of())


class TestAnswers:
    @settings(max_examples=40, deadline=None)
    @given(bodies=st.lists(json_values, min_size=1, max_size=6))
    def test_any_body_comes_back(self, bodies: list[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "c", clock=lambda: 1000.0)
            store.finish(job_of(requests=len(bodies)), [row(n, b) for n, b in enumerate(bodies)])
            again = reopened(store)
            found = [again.answer(key_of(n)) for n in range(len(bodies))]
            assert [a.body if a else "?" for a in found] == bodies
            assert again.problems == []

    def test_facts_of_an_answer(self, store: Store) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1, {"x": "\u2028"}, status=429)])
        answer = reopened(store).answer(key_of(1))
        assert answer == Answer(key_of(1), 429, {"x": "\u2028"}, "batch_1", "req_1", 100.0, 1000.0)

    def test_newest_answer_wins_whatever_the_order_of_loading(self, store: Store) -> None:
        old = dataclasses.replace(job_of("batch_z_old", created_at=1.0), nonce="old")
        new = dataclasses.replace(job_of("batch_a_new", created_at=2.0), nonce="new")
        for job in (new, old):
            custom_id = make_custom_id(job.nonce, key_of(1))
            store.finish(submit(store, job, [1]), [ResultRow(custom_id, 200, job.id)])
        for view in (store, reopened(store)):
            answer = view.answer(key_of(1))
            assert answer is not None and answer.body == "batch_a_new"

    def test_first_success_of_repeated_rows_wins(self, store: Store) -> None:
        rows = [row(1, "bad", status=500), row(1, "first"), row(1, "second"), row(1, "x", status=1)]
        finished = store.finish(submit(store, job_of(), [1]), rows)
        for view in (store, reopened(store)):
            answer = view.answer(key_of(1))
            assert answer is not None and answer.body == "first"
        assert (finished.ok, finished.failed) == (1, 0)

    def test_account_of_a_job(self, store: Store) -> None:
        job = submit(store, job_of(requests=4), [1, 2, 3, 4])
        rows = [
            row(2), row(1, status=503, retryable=True), row(4, status=400), row(9),
            ResultRow("stranger", 200, {}),
        ]  # fmt: skip
        finished = store.finish(job, rows)
        assert (finished.ok, finished.failed, finished.unknown) == (1, 2, 2)
        assert finished.retryable == {key_of(1): 503} and finished.missing == (key_of(3),)
        assert store.answer(key_of(9)) is None and store.in_flight(key_of(3)) is None
        stored = json.loads((store.root / "jobs/batch_1/job.json").read_text())["metadata"]
        assert stored == {"answers": "3"}

    def test_memory_does_not_grow_with_what_a_job_returned(self, store: Store) -> None:
        job, text = submit(store, job_of(requests=1000), list(range(1000))), "x" * 20_000
        tracemalloc.start()
        try:
            store.finish(job, (row(number, text) for number in range(1000)))
            reopened(store)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        size = (store.root / "jobs/batch_1/results.jsonl").stat().st_size
        assert size > 20_000_000 and peak < 5_000_000

    def test_a_download_that_breaks_off_leaves_the_job_running(self, store: Store) -> None:
        job = submit(store, job_of(), [1, 2])

        def broken() -> Any:
            yield row(1)
            raise ConnectionResetError("cut")

        with pytest.raises(ConnectionResetError):
            store.finish(job, broken())
        assert store.answer(key_of(1)) is None and store.in_flight(key_of(1)) is not None
        assert not list(store.root.rglob("*.tmp"))

    def test_a_failure_being_sent_again_is_no_answer_yet(self, store: Store) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1, status=503, retryable=True)])
        assert store.answer(key_of(1)) is not None
        submit(store, dataclasses.replace(job_of("batch_2"), nonce="second"), [1])
        assert store.answer(key_of(1)) is None

    def test_other_processes_work_is_taken_in(self, store: Store) -> None:
        other = Store(store.root)
        job = submit(other, job_of(), [1])
        store.refresh()
        running = store.in_flight(key_of(1))
        assert running is not None and running.id == "batch_1"
        other.finish(job, [row(1)])
        store.refresh()
        assert store.answer(key_of(1)) is not None and store.in_flight(key_of(1)) is None

    def test_a_refresh_without_news_reads_no_file(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1)])
        monkeypatch.setattr(files, "scan", lambda path: pytest.fail(f"read {path}"))
        monkeypatch.setattr(files, "read_document", lambda path: pytest.fail(f"read {path}"))
        store.refresh()

    def test_adopted_job_without_requests(self, store: Store) -> None:
        job = dataclasses.replace(job_of(requests=0), nonce="")
        store.adopt(job)
        assert not store.contents_known("batch_1")
        store.finish(job, [row(1), ResultRow("stranger", 200, {})])
        assert store.answer(key_of(1)) is not None

    def test_adopted_job_with_known_ids(self, store: Store) -> None:
        job = store.adopt(job_of(requests=2), [make_custom_id(NONCE, key_of(n)) for n in (1, 2)])
        assert store.contents_known("batch_1") and store.in_flight(key_of(2)) is not None
        assert store.finish(job, [row(1)]).missing == (key_of(2),)


class TestDamage:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_any_cut_loses_only_what_it_cut(self, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "c", clock=lambda: 1000.0)
            store.finish(submit(store, job_of(), [1, 2, 3]), [row(n, f"a{n}") for n in (1, 2, 3)])
            path = store.root / "jobs/batch_1/results.jsonl"
            whole = path.read_bytes()
            cut = data.draw(st.integers(0, len(whole)))
            path.write_bytes(whole[:cut])
            again = reopened(store)
            kept = whole[:cut].count(b"\n")
            for n in (1, 2, 3):
                answer = again.answer(key_of(n))
                assert (answer.body if answer else None) == (f"a{n}" if n <= kept else None)
                assert (again.in_flight(key_of(n)) is not None) == (kept < 3)
            assert bool(again.problems) == (kept < 3)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_a_flipped_bit_never_gives_a_wrong_answer(self, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "c", clock=lambda: 1000.0)
            store.finish(submit(store, job_of(), [1, 2]), [row(n, f"a{n}") for n in (1, 2)])
            path = store.root / "jobs/batch_1/results.jsonl"
            damaged = bytearray(path.read_bytes())
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(bytes(damaged))
            again = reopened(store)
            bodies = {n: again.answer(key_of(n)) for n in (1, 2)}
            assert all(a is None or a.body == f"a{n}" for n, a in bodies.items())
            assert again.problems and again.in_flight(key_of(1)) is not None

    def test_a_damaged_job_is_collected_again_and_keeps_what_it_has(self, store: Store) -> None:
        job = submit(store, job_of(), [1, 2])
        store.finish(job, [row(1, "one"), row(2, "two")])
        path = store.root / "jobs/batch_1/results.jsonl"
        first, second = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first[:-9] + b"garbage!\n" + second)
        again = reopened(store)
        running = again.in_flight(key_of(1))
        assert running is not None
        again.finish(running, [row(1, "one"), row(2, "another")])
        bodies = [a.body if (a := again.answer(key_of(n))) else None for n in (1, 2)]
        assert bodies == ["one", "two"] and reopened(store).problems == []

    def test_damage_after_opening_is_noticed_when_the_answer_is_read(self, store: Store) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1, "one")])
        path = store.root / "jobs/batch_1/results.jsonl"
        path.write_bytes(path.read_bytes().replace(b"one", b"two"))
        assert store.answer(key_of(1)) is None and "damaged" in store.problems[0]

    def test_damaged_documents_are_named(self, store: Store) -> None:
        submit(store, job_of(), [1])
        store.history.add("r1", {"a": 1})
        store.owners.update({"o": noted(1)})
        for path in store.root.rglob("*.json*"):
            if path.suffix in (".json", ".copy"):
                path.write_text(path.read_text().replace("1", "2"))
        again = reopened(store)
        assert again.jobs() == [] and not list(again.history) and again.owners.read() == {}
        assert len(again.problems) == 3


class TestIntents:
    def test_a_crash_after_any_step_of_promote_is_repaired(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = self.count_steps(tmp_path / "count", monkeypatch)
        assert steps >= 6
        for stop in range(steps):
            root = tmp_path / str(stop)
            with monkeypatch.context() as patch:
                self.crash_at(patch, stop)
                with pytest.raises(Crash):
                    submit(Store(root), job_of(), [1, 2])
            again = Store(root)
            again.open()
            with again.lock():
                open_ = again.open_submissions()
            if open_:
                assert again.jobs() == [] and again.intents.keys(NONCE) == {key_of(1), key_of(2)}
                with again.lock():
                    again.promote(NONCE, job_of())
                assert again.in_flight(key_of(2)) is not None
            elif again.jobs():
                assert again.in_flight(key_of(2)) is not None
            else:
                assert not list(root.glob("jobs/*/requests.jsonl"))
            assert again.open_submissions() == [] and not list((root / "intents").glob("[!.]*"))
            if again.jobs():
                assert [r.body()["n"] for r in again.requests_in("batch_1")] == [1, 2]

    @staticmethod
    def count_steps(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
        with monkeypatch.context() as patch:
            steps = TestIntents.crash_at(patch, 10**9)
            submit(Store(root), job_of(), [1, 2])
        return len(steps)

    @staticmethod
    def crash_at(patch: pytest.MonkeyPatch, stop: int) -> list[str]:
        steps: list[str] = []

        def before(name: str, act: Any) -> Any:
            def step(*args: Any, **kwargs: Any) -> Any:
                if len(steps) == stop:
                    raise Crash
                steps.append(name)
                return act(*args, **kwargs)

            return step

        patch.setattr(Path, "replace", before("replace", Path.replace))
        patch.setattr(files, "remove", before("remove", files.remove))
        return steps

    def test_drop(self, store: Store) -> None:
        store.spool(pending(1), {})
        store.write_intent(Intent(NONCE, META, 1.0, 1, suite="b"), [pending(1)])
        (found,) = store.open_submissions()
        assert (found.meta, found.count, found.suite) == (META, 1, "b")
        store.intents.drop(NONCE)
        store.intents.drop(NONCE)
        assert store.open_submissions() == [] and not list((store.root / "intents").iterdir())

    def test_the_lock_excludes_and_tells_who_waits(self, store: Store) -> None:
        other, told, inside = Store(store.root), threading.Event(), threading.Event()

        def wait() -> None:
            with other.lock(told.set):
                inside.set()

        with store.lock():
            thread = threading.Thread(target=wait)
            thread.start()
            assert told.wait(10) and not inside.is_set()
        thread.join(10)
        assert inside.is_set()


class Crash(BaseException):
    pass


def call(number: int, text: str = "hi") -> Call:
    body = {"model": "m", "text": text, "n": number}
    return Call(Request(TARGET, body), "t.py::test", 0)


class TestRealtime:
    def test_comes_back_with_its_request(self, store: Store) -> None:
        asked = call(1)
        store.add_realtime(asked, "t.py::test", Answer(asked.key, 200, {"a": 1}, "", "r", 5.0, 5.0))
        for view in (store, reopened(store)):
            assert view.answer(asked.key) == Answer(asked.key, 200, {"a": 1}, "", "r", 5.0, 5.0)
            (stored,) = view.requests_of("t.py::test")
            assert stored.body() == dict(asked.request.body) and stored.meta.model == "m"
            assert view.request_body(asked.key) == dict(asked.request.body)

    def test_a_torn_last_line_is_cut_off_before_the_next(self, store: Store) -> None:
        calls = [call(1), call(2), call(3)]
        for asked in calls[:2]:
            store.add_realtime(asked, "o", Answer(asked.key, 200, "x", received_at=1.0))
        (path,) = store.root.glob("realtime/*/results.jsonl")
        path.write_bytes(path.read_bytes()[:-5])
        again = reopened(store)
        assert again.answer(calls[0].key) is not None and again.answer(calls[1].key) is None
        assert again.problems == []
        store.add_realtime(calls[2], "o", Answer(calls[2].key, 200, "y", received_at=1.0))
        final = reopened(store)
        found = [final.answer(asked.key) is not None for asked in calls]
        assert found == [True, False, True] and final.problems == []

    def test_newer_than_the_batch(self, store: Store) -> None:
        asked = call(1)
        job = job_of()
        custom_id = make_custom_id(NONCE, asked.key)
        store.finish(store.adopt(job, [custom_id]), [ResultRow(custom_id, 200, "batch")])
        store.add_realtime(asked, "o", Answer(asked.key, 200, "now", received_at=2000.0))
        answer = reopened(store).answer(asked.key)
        assert answer is not None and answer.body == "now" and answer.source == "realtime"


class TestRequestsAndNotes:
    def test_requests_of_an_owner(self, store: Store) -> None:
        submit(store, job_of(), [1, 2])
        for view in (store, reopened(store)):
            (found,) = view.requests_of("t.py::test_2")
            assert found.body() == {"model": "gpt-x", "n": 2} and found.job_id == "batch_1"
            assert view.requests_of("nobody") == []
            assert view.request_body(key_of(1)) == {"model": "gpt-x", "n": 1}
            assert view.request_body(key_of(7)) is None

    @settings(max_examples=30, deadline=None)
    @given(owner=texts, body=st.dictionaries(texts, json_values, max_size=3))
    def test_any_owner_and_body_come_back(self, owner: str, body: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "c", clock=lambda: 1000.0)
            item = pending(1, owner)
            store.spool(item, body)
            assert store.spooled(item.key) == body
            store.write_intent(Intent(NONCE, META, 1.0, 1), [item])
            store.promote(NONCE, job_of())
            (found,) = reopened(store).requests_of(owner)
            assert (found.owner, found.body()) == (owner, body)

    def test_requests_can_be_forgotten(self, store: Store) -> None:
        job = submit(store, job_of(), [1])
        store.finish(job, (), state=JobState.REJECTED)
        store.forget_requests(job.id)
        assert store.requests_in(job.id) == [] and not store.contents_known(job.id)

    def test_owner_state_merges(self, store: Store) -> None:
        store.owners.update({"a": noted(1), "b": noted(2)})
        Store(store.root).owners.update({"b": None, "c": noted(3)})
        assert store.owners.read() == {"a": noted(1), "c": noted(3)}

    def test_runs_are_sorted_and_cannot_escape(self, store: Store) -> None:
        for run_id in ("2026-02", "2026-01"):
            store.history.add(run_id, {"id": run_id, "cost": 0.5})
        store.history.add("../evil", {"id": "evil"})
        assert [run["id"] for run in store.history][-2:] == ["2026-02", "2026-01"]
        assert len(list(store.history)) == 3 and not (store.root / "evil.json").exists()

    def test_moved_cache_still_answers(self, store: Store, tmp_path: Path) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1)])
        shutil.move(store.root, tmp_path / "elsewhere")
        moved = Store(tmp_path / "elsewhere")
        moved.open()
        assert moved.answer(key_of(1)) is not None

    def test_lines_are_plain_json(self, store: Store) -> None:
        store.finish(submit(store, job_of(), [1]), [row(1, {"text": "Grüße"})])
        folder = store.root / "jobs/batch_1"
        (line,) = (folder / "results.jsonl").read_text().splitlines()
        parsed = json.loads(line)
        assert next(iter(parsed)) == "custom_id" and parsed["body"] == {"text": "Grüße"}
        assert json.loads((folder / "job.json").read_text())["id"] == "batch_1"

"""A cache may come from a stranger: nothing in it leads a key away, or to other files."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support.cloud import RUNNING, World, ask, key_of
from support.suite import LEAVE, ONE_STEP, SLOW, Suite, output

from pytest_langasync.cache import files
from pytest_langasync.cache.store import OwnerState, Store
from pytest_langasync.cli import main
from pytest_langasync.exceptions import CacheError
from pytest_langasync.models import ResultRow
from pytest_langasync.sandbox import Sandbox

EVIL = "https://evil.test/v1"
DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


@pytest.fixture
def thief() -> Iterator[tuple[str, list[str]]]:
    """Serve on this machine; the list gets the path of each request that comes."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            seen.append(self.rfile.readline().decode())
            self.close_connection = True

        def log_message(self, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    server.server_close()
    thread.join()


class TestKeys:
    def test_a_job_that_names_another_place(
        self, suite: Suite, provider: Sandbox, thief: tuple[str, list[str]]
    ) -> None:
        url, seen = thief
        suite.write(ONE_STEP)
        provider.set_faults(SLOW)
        assert suite.plain(*LEAVE).ret == 75
        store = Store(suite.path / ".langasync")
        store.open()
        (job,) = store.jobs()
        store.update_job(replace(job, base_url=url))
        assert suite.plain(*LEAVE).ret == 75
        assert [path.name for path in (store.root / "jobs").iterdir()] == [job.id]
        store.update_job(replace(job, base_url=url))
        suite.plain(*LEAVE, f"--langasync-resume={job.id}")
        for command in (["doctor"], ["cancel", job.id]):
            main(["--cache-dir", str(store.root), *command], io.StringIO())
        assert seen == []

    def test_a_job_or_submission_is_asked_about_where_its_call_goes(self, world: World) -> None:
        world.cloud.default = RUNNING
        world.run(ask(1), ask(2), timeout=0)
        job = world.store.job("batch_1")
        assert job is not None
        world.store.update_job(replace(job, base_url=EVIL))
        world.start()
        world.run(ask(1), timeout=0)
        assert {url for _, url, _ in world.cloud.connected} == {ask(1).target.base_url}

    def test_a_submission_that_names_another_place(self, world: World) -> None:
        def killed() -> None:
            raise KeyboardInterrupt

        world.cloud.creates = [killed]
        with pytest.raises(KeyboardInterrupt):
            world.run(ask(1))
        (intent,) = world.store.intents
        forged = replace(intent, meta=replace(intent.meta, base_url=EVIL))
        world.store.intents.write(
            forged, [files.raw_line(path, line) for path, line in requests_of(world.store)]
        )
        world.start()
        world.run(ask(1))
        assert {url for _, url, _ in world.cloud.connected} == {ask(1).target.base_url}


def requests_of(store: Store) -> list[tuple[Path, files.Line[bytes]]]:
    (path,) = (store.root / "intents").glob("*.requests.jsonl")
    return [(path, line) for line in files.scan(path, bytes) if line]


def filled(root: Path) -> None:
    """Write one of everything that a cache holds."""
    world = World(root)
    world.run(ask(1))
    world.store.owners.update({"t": OwnerState(waiting=(key_of(1),))})
    world.store.history.add("run", {"name": "run"})
    world.store.close()


def read_all(root: Path) -> Store:
    """Read everything that a cache holds."""
    store = Store(root)
    store.open()
    store.answer(key_of(1))
    store.request_body(key_of(1))
    store.owners.read()
    list(store.history)
    list(store.intents)
    return store


INSIDE = [
    "jobs/batch_1/job.json",
    "jobs/batch_1/results.jsonl",
    "jobs/batch_1/requests.jsonl",
    "state.json",
    "runs/run.json",
    "version",
]


class TestFiles:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        filled(tmp_path / "cache")
        return tmp_path / "cache"

    @pytest.mark.parametrize("name", [*INSIDE, "jobs", "jobs/batch_1", "runs"])
    def test_a_link_is_refused(self, root: Path, tmp_path: Path, name: str) -> None:
        place = root / name
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CacheError, match=r"symbolic link: refused") as error:
            read_all(root)
        assert "\n" not in str(error.value) and str(place) in str(error.value)

    def test_a_lock_that_is_a_link_leaves_its_target_alone(
        self, root: Path, tmp_path: Path
    ) -> None:
        precious = tmp_path / "precious"
        precious.write_text("kept")
        for name in ("submit.lock", "state.lock"):
            (root / name).unlink(missing_ok=True)
            (root / name).symlink_to(precious)
        with pytest.raises(CacheError, match="symbolic link"):
            read_all(root)
        assert precious.read_text() == "kept"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    @pytest.mark.parametrize("name", INSIDE)
    def test_a_pipe_is_refused(self, root: Path, name: str) -> None:
        (root / name).unlink()
        os.mkfifo(root / name)
        with pytest.raises(CacheError, match="no plain file: refused"):
            read_all(root)

    @pytest.mark.parametrize("name", ["jobs/batch_1/job.json", "version"])
    def test_a_huge_document_is_refused(self, root: Path, name: str) -> None:
        with (root / name).open("r+b") as file:
            file.truncate(20_000_000_000)
        with pytest.raises(CacheError, match="larger than 1,000,000 bytes: refused"):
            read_all(root)

    @pytest.mark.parametrize("name", ["jobs/batch_1/results.jsonl", "jobs/batch_1/requests.jsonl"])
    def test_an_endless_line_is_refused(
        self, root: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "LARGE", 1_000_000)
        with (root / name).open("r+b") as file:
            file.truncate(2_000_000)
        with pytest.raises(CacheError, match="line of more than 1,000,000 bytes: refused"):
            read_all(root)

    @pytest.mark.parametrize("name", ["jobs/batch_1/job.json", "state.json", "runs/run.json"])
    def test_a_deeply_nested_document_is_damage(self, root: Path, name: str) -> None:
        for path in (root / name, files.copy_of(root / name)):
            path.write_text(f'{{"deep": {DEEP}}}')
        problems = read_all(root).problems
        assert any("nested too deeply" in one and "\n" not in one for one in problems)

    def test_a_deeply_nested_answer_is_none(self, root: Path) -> None:
        path = root / "jobs/batch_1/results.jsonl"
        (line,) = (line for line in files.scan(path, bytes) if line)
        forged = files.encode_line(json.loads(line.head), "PLACE").replace(
            b'"PLACE"', DEEP.encode()
        )
        path.write_bytes(checked(forged))
        assert any("damaged line" in one for one in read_all(root).problems)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("status", "200"), ("status", None), ("custom_id", 7), ("received_at", "NaN")],
    )  # fmt: skip
    def test_a_value_of_another_kind_is_damage(self, root: Path, name: str, value: object) -> None:
        path = root / "jobs/batch_1/results.jsonl"
        (line,) = (line for line in files.scan(path, bytes) if line)
        path.write_bytes(files.encode_line({**json.loads(line.head), name: value}, "x"))
        store = read_all(root)
        assert store.answer(key_of(1)) is None or store.peek(key_of(1)).status == 200  # type: ignore[union-attr]

    @pytest.mark.parametrize("job_id", ["../../evil", "/etc/passwd", "..", "\x1b[2J"])
    def test_a_job_of_any_name_stays_in_its_folder(self, root: Path, job_id: str) -> None:
        store = Store(root)
        store.open()
        job = store.job("batch_1")
        assert job is not None
        store.finish(store.adopt(replace(job, id=job_id)), [ResultRow("x", 200, {})])
        paths = {p.relative_to(root.parent).parts[0] for p in root.parent.rglob("*")}
        assert paths == {"cache"}


def checked(line: bytes) -> bytes:
    """Give a forged line its checksum."""
    import zlib

    start, _, rest = line.partition(b',"crc":"')
    content = rest.partition(b'","body":')[2][:-2]
    crc = b"%08x" % zlib.crc32(content, zlib.crc32(start))
    return start + b',"crc":"' + crc + b'","body":' + content + b"}\n"


def test_a_run_ends_in_one_line(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP)
    assert suite.plain("--langasync-batch").ret == 0
    (results,) = (suite.path / ".langasync").rglob("results.jsonl")
    results.rename(suite.path / "elsewhere")
    results.symlink_to(suite.path / "elsewhere")
    result = suite.plain("--langasync-batch")
    assert result.ret == 4 and "symbolic link: refused" in output(result)
    assert "Traceback" not in output(result) and len(provider.ledger()) == 1

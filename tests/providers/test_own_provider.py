"""A provider that another package adds: an entry point, and nothing here touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loopback import Loopback, Say, Seen, loopback
from support.suite import BATCH, Suite, output, verdict

from pytest_langasync import providers
from pytest_langasync.exceptions import ConfigurationError

TOY = (Path(__file__).parents[2] / "examples" / "own_provider.py").read_text(encoding="utf-8")
EVAL = """
import httpx

def toy(question):
    asked = {{"model": "toy-1", "question": question}}
    answer = httpx.post("{url}/v1/ask", json=asked, headers={{"authorization": "Bearer k"}})
    answer.raise_for_status()
    return answer.json()["answer"]

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(3))
def test_two_steps(n):
    assert toy("twice " + toy(f"once {{n}}")) == f"[twice [once {{n}}]]"

@pytest.mark.langasync(realtime=True)
def test_now():
    assert toy("now") == "[now]"

@pytest.mark.langasync
def test_red():
    assert toy("red") == "blue"
"""


class ToyServer:
    """The other end: jobs that are done at the second poll."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, object]] = {}
        self.asked: list[str] = []

    def answer(self, body: dict[str, str]) -> dict[str, str]:
        return {"answer": f"[{body['question']}]"}

    def __call__(self, seen: Seen) -> Say:
        name = seen.path.rpartition("/")[2]
        if (seen.method, seen.path) == ("POST", "/v1/ask"):
            self.asked.append(seen.json["question"])
            return Say(self.answer(seen.json))
        if (seen.method, seen.path) == ("POST", "/v1/jobs"):
            rows = [
                {"id": one["id"], "status": 200, "body": self.answer(one["body"])}
                for one in seen.json["questions"]
            ]
            job_id = f"toy_{len(self.jobs) + 1}"
            facts = {"name": seen.json["name"], "suite": seen.json["suite"], "created": 2e9}
            self.jobs[job_id] = {**facts, "id": job_id, "count": len(rows), "answers": rows}
            self.jobs[job_id]["done"] = False
            return Say({"id": job_id, "created": 2e9})
        if name == "jobs":
            return Say({"jobs": list(self.jobs.values())[::-1]})
        job = self.jobs[name]
        said = Say(json.loads(json.dumps(job)))
        job["done"] = True
        return said


@pytest.fixture
def toy(suite: Suite) -> Iterator[tuple[Loopback, ToyServer]]:
    suite.path.joinpath("own_provider.py").write_text(TOY)
    info = suite.path / "own_provider-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: own-provider\nVersion: 1\n")
    point = f"[{providers.GROUP}]\ntoy = own_provider:Toy\n"
    info.joinpath("entry_points.txt").write_text(point)
    providers.providers.cache_clear()
    with loopback() as server:
        played = server.other = ToyServer()
        yield server, played
    providers.providers.cache_clear()


def test_a_provider_of_another_package(suite: Suite, toy: tuple[Loopback, ToyServer]) -> None:
    server, played = toy
    suite.write(EVAL.format(url=server.url))
    result = suite.plain(*BATCH)
    assert verdict(result) == {"passed": 4, "failed": 1}
    assert [job["count"] for job in played.jobs.values()] == [4, 3]
    assert played.asked == ["now"]
    assert all(seen.headers["authorization"] == "Bearer k" for seen in server.seen)
    text = output(result)
    assert "asked     red" in text and "answered  [red]" in text and "toy" in text
    # Warm it costs nothing, and its job is found again with an empty cache.
    before = len(server.seen)
    assert verdict(suite.plain(*BATCH)) == {"passed": 4, "failed": 1}
    assert len(server.seen) == before


def test_a_provider_that_cannot_be_loaded_is_named(suite: Suite) -> None:
    info = suite.path / "broken-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    info.joinpath("entry_points.txt").write_text(f"[{providers.GROUP}]\nx = nowhere:Nothing\n")
    providers.providers.cache_clear()
    with pytest.raises(ConfigurationError, match=r"'x' \(nowhere:Nothing\) cannot be loaded"):
        providers.providers()
    providers.providers.cache_clear()

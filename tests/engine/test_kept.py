"""What a test keeps at its provider: made once, read by batches, deleted after the verdict."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.suite import BATCH, LEAVE, Suite, end_jobs

from pytest_langasync.engine.kept import identifier, is_final
from pytest_langasync.sandbox import Sandbox

pytestmark = pytest.mark.filterwarnings("ignore")


class Keeper(ThreadingHTTPServer):
    """A provider that keeps conversations, stores and responses; a sandbox has the rest.

    ``log`` says what was made, asked and deleted, in order. A batch that names a file which is not
    there any more says so in the log.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = urlsplit(sandbox.url).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.log: list[str] = []
        self.objects: dict[str, Any] = {}
        self.polls: dict[str, int] = {}

    def made(self, kind: str) -> int:
        return len([one for one in self.log if one.startswith(f"made {kind}")])


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Keeper

    def do_POST(self) -> None:
        """Make something, or add to it."""
        length = int(self.headers.get("content-length") or 0)
        data = self.rfile.read(length)
        body = json.loads(data) if self.headers.get("content-type") == "application/json" else {}
        path = urlsplit(self.path).path.removeprefix("/v1")
        kept = self.server
        if path == "/conversations":
            self._make("conv", {"object": "conversation", "items": []})
        elif path == "/vector_stores":
            self._make("vs", {"object": "vector_store", "status": "in_progress"})
        elif path == "/responses" and body.get("background"):
            self._make("resp", {**response("late"), "status": "queued"}, 202)
        elif path == "/responses" and body.get("conversation"):
            items = kept.objects[body["conversation"]]["items"]
            items.append(body["input"])
            kept.log.append(f"asked {body['input']}")
            self._say({**response(f"{len(items)} said: {', '.join(items)}"), "id": "resp_now"})
        elif path == "/files" and b"user_data" in data:
            self._make("file", {"object": "file", "status": "processed", "purpose": "user_data"})
        else:
            for object_id in [one for one in kept.polls if one.encode() in data]:
                there = "alive" if object_id in kept.objects else "GONE"
                kept.log.append(f"batched {object_id}: {there}")
            self._forward(data)

    def do_GET(self) -> None:
        """Look at something; the second look finds it done."""
        object_id = self.path.rpartition("/")[2]
        if object_id not in self.server.polls:
            self._forward(b"")
        elif object_id not in self.server.objects:
            self._say({"error": {"message": "gone"}}, 404)
        else:
            self.server.polls[object_id] += 1
            found = self.server.objects[object_id]
            if "status" in found and self.server.polls[object_id] > 1:
                found["status"] = "completed"
            self._say(found)

    def do_DELETE(self) -> None:
        """Delete something."""
        object_id = self.path.rpartition("/")[2]
        if object_id not in self.server.polls:
            return self._forward(b"")
        self.server.log.append(f"deleted {object_id}")
        found = self.server.objects.pop(object_id, None)
        self._say({"id": object_id, "object": "x", "deleted": True}, 200 if found else 404)

    def _make(self, kind: str, body: dict[str, Any], status: int = 200) -> None:
        object_id = f"{kind}_{self.server.made(kind)}"
        self.server.log.append(f"made {object_id}")
        self.server.polls[object_id] = 0
        self.server.objects[object_id] = {**body, "id": object_id, "created_at": 1}
        self._say(self.server.objects[object_id], status)

    def _forward(self, data: bytes) -> None:
        connection = http.client.HTTPConnection(self.server.behind)
        headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
        connection.request(self.command, self.path, data or None, headers)
        reply = connection.getresponse()
        self._write(reply.status, reply.getheader("content-type") or "", reply.read())
        connection.close()

    def _say(self, body: Any, status: int = 200) -> None:
        self._write(status, "application/json", json.dumps(body).encode())

    def _write(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


def response(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
    return {"object": "response", "status": "completed", "model": "m", "output": [message]}


@pytest.fixture
def keeper(provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """Run the keeper in front of the sandbox."""
    with Keeper(provider) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        yield server
        server.shutdown()
        thread.join()


HEAD = "import time\nimport openai\nCLIENT = openai.OpenAI(max_retries=0)\n"
CONVERSATION = """
@pytest.mark.langasync
def test_it():
    talk = CLIENT.conversations.create()
    say = lambda text: CLIENT.responses.create(model="m", input=text, conversation=talk.id)
    assert say("one").output_text == "1 said: one"
    assert say("two").output_text == "2 said: one, two"
    assert "judge" in ask("judge it")
    CLIENT.conversations.delete(talk.id)
"""
FILE = """
@pytest.fixture(scope="SCOPE")
def upload():
    made = CLIENT.files.create(file=("a.txt", b"hello"), purpose="user_data")
    yield made.id
    assert CLIENT.files.delete(made.id).deleted

def about(text, file_id):
    content = [{"type": "text", "text": text}, {"type": "file", "file": {"file_id": file_id}}]
    done = CLIENT.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": content}])
    return done.choices[0].message.content

@pytest.mark.langasync
def test_one(upload):
    assert about("one", upload)

@pytest.mark.langasync
def test_two(upload):
    assert ask("judge " + about("two", upload))
"""
STORE = """
@pytest.mark.langasync
def test_it():
    store = CLIENT.vector_stores.create(name="x")
    while store.status == "in_progress":
        store = CLIENT.vector_stores.retrieve(store.id)
    assert store.status == "completed" and ask("about " + store.id)
    CLIENT.vector_stores.delete(store.id)
    with pytest.raises(openai.NotFoundError):
        CLIENT.vector_stores.retrieve(store.id)
"""
BACKGROUND = """
@pytest.mark.langasync
def test_it():
    made = CLIENT.responses.create(model="m", input="hi", background=True)
    while made.status in ("queued", "in_progress"):
        made = CLIENT.responses.retrieve(made.id)
    assert made.output_text == "late" and "judge" in ask("judge " + made.output_text)
    assert CLIENT.responses.retrieve(made.id).id == made.id
"""


def test_a_conversation(suite: Suite, keeper: Keeper, provider: Sandbox) -> None:
    suite.write(HEAD + CONVERSATION)
    result = suite.plain(*BATCH)
    result.assert_outcomes(passed=1)
    assert keeper.log == ["made conv_0", "asked one", "asked two", "deleted conv_0"]
    why = "it goes on in a conversation that the provider keeps"
    result.stdout.fnmatch_lines([f"2 calls to * ran in real time: {why}"])
    suite.plain(*BATCH).assert_outcomes(passed=1)
    suite.plain("--langasync-offline").assert_outcomes(passed=1)
    assert len(keeper.log) == 4 and len(provider.ledger()) == 1


@pytest.mark.parametrize("scope", ["function", "module"])
def test_a_file_lives_until_the_verdict(
    suite: Suite, keeper: Keeper, provider: Sandbox, scope: str
) -> None:
    suite.write(HEAD + FILE.replace("SCOPE", scope))
    suite.plain(*BATCH).assert_outcomes(passed=2)
    files = 2 if scope == "function" else 1
    assert keeper.made("file") == files
    assert [one for one in keeper.log if "GONE" in one] == []
    assert len([one for one in keeper.log if "batched" in one]) == files
    assert len([one for one in keeper.log if "deleted" in one]) == files
    before = list(keeper.log)
    suite.plain(*BATCH).assert_outcomes(passed=2)
    suite.plain("--langasync-offline").assert_outcomes(passed=2)
    assert keeper.log == before


def test_a_new_question_makes_what_was_deleted_anew(suite: Suite, keeper: Keeper) -> None:
    source = HEAD + FILE.replace("SCOPE", "function")
    suite.write(source)
    suite.plain(*BATCH).assert_outcomes(passed=2)
    suite.write(source.replace('about("one"', 'about("edited"'))
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert keeper.made("file") == 3 and not [one for one in keeper.log if "GONE" in one]
    assert len([one for one in keeper.log if "deleted" in one]) == 3


def test_a_file_outlives_a_run_that_does_not_wait(
    suite: Suite, keeper: Keeper, provider: Sandbox
) -> None:
    suite.write(HEAD + FILE.replace("SCOPE", "module"))
    provider.set_faults({"batch": [{"count": 0, "latency": 3600.0}]})
    suite.plain(*LEAVE)
    assert keeper.made("file") == 1 and not [one for one in keeper.log if "deleted" in one]
    end_jobs(provider)
    provider.set_faults({})
    suite.plain(*BATCH).assert_outcomes(passed=2)
    assert keeper.made("file") == 1 and keeper.log[-1] == "deleted file_0"
    assert not [one for one in keeper.log if "GONE" in one]


def test_a_store_that_takes_its_time(suite: Suite, keeper: Keeper) -> None:
    suite.write(HEAD + STORE)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    assert keeper.log == ["made vs_0", "batched vs_0: alive", "deleted vs_0"]
    suite.plain(*BATCH).assert_outcomes(passed=1)
    suite.plain("--langasync-offline").assert_outcomes(passed=1)
    assert keeper.log == ["made vs_0", "batched vs_0: alive", "deleted vs_0"]
    rows = b"".join(path.read_bytes() for path in suite.path.rglob("results.jsonl"))
    assert b"in_progress" not in rows


def test_a_background_response(suite: Suite, keeper: Keeper, provider: Sandbox) -> None:
    suite.write(HEAD + BACKGROUND)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    suite.plain(*BATCH).assert_outcomes(passed=1)
    suite.plain("--langasync-offline").assert_outcomes(passed=1)
    assert keeper.log == ["made resp_0"] and len(provider.ledger()) == 1
    rows = b"".join(path.read_bytes() for path in suite.path.rglob("results.jsonl"))
    assert b"queued" not in rows and b"late" in rows


def test_nothing_is_made_where_nothing_may_be_sent(suite: Suite, keeper: Keeper) -> None:
    suite.write(HEAD + CONVERSATION + FILE.replace("SCOPE", "module"))
    for option in ("--langasync-offline", "--langasync-estimate"):
        assert "passed" not in suite.plain(option).parseoutcomes()
    assert keeper.log == []


def test_what_is_managed_costs_nothing(suite: Suite, keeper: Keeper) -> None:
    suite.write(HEAD + STORE)
    suite.plain(*BATCH, "--langasync-max-cost=10").assert_outcomes(passed=1)


def test_words() -> None:
    assert not is_final({"status": "queued"}) and is_final({"status": "completed"})
    assert is_final({}) and is_final(None) and is_final({"status": {"x": 1}})
    assert identifier({"file": {"name": "files/abc"}}) == "abc" == identifier({"id": "abc"})
    assert identifier([]) == "" == identifier({"id": 1})

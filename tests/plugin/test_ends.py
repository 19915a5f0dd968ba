"""Every way in which a job can end, how requests are grouped, and what the cache holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from support.loopback import Say, loopback
from support.suite import BATCH, CLAUDE, ONE_STEP, TWO_STEPS, Suite, output, verdict

from pytest_langasync.cache.store import Store
from pytest_langasync.sandbox import Sandbox

assert anthropic and openai  # imported here once, not anew by each run inside this process

ENDS: list[tuple[dict[str, Any], int]] = [
    ({"end": "expired", "done": 2}, 0),
    ({"end": "cancelled", "done": 2}, 0),
    ({"missing": 2}, 0),
    ({"duplicate": 2, "unknown": 2}, 0),
    ({"rows": {"0": "expire", "1": 429, "2": 500}}, 0),
    ({"word": "musing", "latency": 0.2}, 0),
    ({"empty_ids": True}, 0),
    ({"empty_ids": True, "end": "expired", "done": 0}, 0),
    ({"counts": {"total": 99, "completed": 0, "failed": 7, "succeeded": 50, "errored": 1}}, 0),
    ({"rows": {"0": 400}}, 1),
    ({"rows": {str(n): 400 for n in range(4)}}, 4),
    ({"end": "expired", "done": 0, "count": 0}, 4),
    ({"end": "cancelled", "done": 0, "count": 0}, 4),
    ({"missing": 1, "count": 0}, 1),
]


def opened(suite: Suite) -> Store:
    """Return the suite's cache."""
    store = Store(suite.path / ".langasync")
    store.open()
    return store


class TestEnds:
    """Every way in which a job can end."""

    def suite_of_four(self, suite: Suite, provider: str) -> None:
        source = ONE_STEP if provider == "openai" else CLAUDE
        head, mark, rest = source.partition("@pytest.mark.langasync\n")
        rest = rest.replace("():", "(number):", 1).replace('"))', '" + str(number)))')
        rest = rest.replace('"Say hi"}', '"Say hi" + str(number)}').replace(
            'Spain?")', 'Spain?" + str(number))'
        )
        suite.write(head + "@pytest.mark.parametrize('number', range(4))\n" + mark + rest)

    @pytest.mark.parametrize("name", ["openai", "anthropic"])
    @pytest.mark.parametrize(("fault", "failed"), ENDS, ids=[str(fault) for fault, _ in ENDS])
    def test_it(
        self, suite: Suite, provider: Sandbox, name: str, fault: dict[str, Any], failed: int
    ) -> None:
        self.suite_of_four(suite, name)
        provider.set_faults({"batch": [{"provider": name, **fault}]})
        result = suite.plain(*BATCH)
        counts = {"failed": failed, "passed": 4 - failed}
        assert verdict(result) == {k: v for k, v in counts.items() if v}
        paid = [row for row in provider.ledger() if row["status"] == 200]
        assert len({str(row["body"]) for row in paid}) == len(paid), "nothing is bought twice"
        if words := {"expired": "expired or timed out", "cancelled": "cancelled or un"}.get(
            fault.get("end", "")
        ):
            result.stdout.fnmatch_lines([f"langasync: retrying *: * sent again: {words}* (50?)"])
        provider.set_faults({})
        if 400 in fault.get("rows", {}).values():  # an answer until the request changes
            assert verdict(suite.plain(*BATCH)) == verdict(result)
            assert verdict(suite.plain(*BATCH, "--langasync-refresh")) == {"passed": 4}
        else:
            assert verdict(suite.plain(*BATCH)) == {"passed": 4}

    def test_failed_after_progress(self, suite: Suite, provider: Sandbox) -> None:
        self.suite_of_four(suite, "openai")
        provider.set_faults({"batch": [{"end": "failed", "done": 2}]})
        result = suite.plain(*BATCH)
        assert verdict(result) == {"passed": 4}
        result.stdout.fnmatch_lines(["langasync: retrying *: 2 sent again: missing*"])
        paid = Counter(str(row["body"]) for row in provider.ledger())
        assert list(paid.values()) == [1, 1, 1, 1], "what had come is kept"
        jobs = {job.id: job for job in opened(suite).jobs()}
        (again,) = [job for job in jobs.values() if job.retry_of]
        assert jobs[again.retry_of].word == "failed" and again.requests == 2

    @pytest.mark.parametrize("source", [ONE_STEP, CLAUDE], ids=["openai", "anthropic"])
    def test_a_raw_line_separator(self, suite: Suite, source: str) -> None:
        suite.pytester.makeconftest(
            "def pytest_langasync_sandbox_reply(request): return 'Spain\\u2028Say hi'\n"
        )
        suite.write(source)
        assert verdict(suite.run()) == {"passed": 1}
        raw = b"".join(path.read_bytes() for path in suite.provider.rglob("*") if path.is_file())
        assert "Spain\u2028Say hi".encode() in raw, "the provider sent it raw"
        (job,) = (suite.path / ".langasync" / "sandbox" / "jobs").iterdir()
        assert "Spain\u2028Say hi" in (job / "results.jsonl").read_text()

    def test_a_batch_that_fails_validation(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP + CLAUDE)
        fault = {"provider": "openai", "end": "failed", "failure": "invalid_request"}
        provider.set_faults({"batch": [{**fault, "message": "Your file is haunted."}]})
        result = suite.plain(*BATCH)
        assert verdict(result) == {"passed": 1, "failed": 1}
        result.stdout.fnmatch_lines(["langasync: rejected *haunted*", "*BadRequestError*haunted*"])
        assert verdict(suite.plain(*BATCH)) == {"passed": 2}

    def test_an_unknown_model(self, suite: Suite) -> None:
        suite.write(
            ONE_STEP + CLAUDE + ONE_STEP.replace("test_plain", "test_model").replace(
                '?")', '?", model="unknown-model")').replace("ask(", "other(")
            + CLAUDE.replace("claude-sonnet-4-5", "unknown-model").replace("_claude", "_c")
            + "\ndef other(text, model):\n    import llm\n    llm.MODEL = model\n"
            "    try:\n        return ask(text)\n    finally:\n        llm.MODEL = 'gpt-4o-mini'\n"
        )  # fmt: skip
        result = suite.run()
        assert verdict(result) == {"passed": 2, "failed": 2}
        result.stdout.fnmatch_lines(
            [
                "langasync: rejected batch_* openai unknown-model 1 request: *unknown-model*",
                "E *openai.NotFoundError: *unknown-model*",
                "E *anthropic.NotFoundError: *unknown-model*",
            ]
        )


PASSWORD = """
import openai, os

@pytest.mark.langasync
def test_it():
    url = os.environ["OPENAI_BASE_URL"].replace("://", "://me:Topsecret%21@")
    question = [{"role": "user", "content": "hi"}]
    openai.OpenAI(base_url=url).chat.completions.create(model="gpt-4o", messages=question)
"""


class TestGroups:
    """One job per provider, base URL, account, endpoint, headers and (OpenAI) model."""

    def test_models_betas_accounts_and_endpoints(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(
            """
import anthropic, openai
MESSAGE = [{"role": "user", "content": "hi"}]

@pytest.mark.langasync
@pytest.mark.parametrize("key", ["sk-one", "sk-two"])
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini"])
def test_chat(key, model):
    openai.OpenAI(api_key=key).chat.completions.create(model=model, messages=MESSAGE)

@pytest.mark.langasync
def test_response():
    openai.OpenAI(api_key="sk-one").responses.create(model="gpt-4o", input="hi")

@pytest.mark.langasync
@pytest.mark.parametrize("model", ["claude-opus-4-5", "claude-haiku-4-5"])
@pytest.mark.parametrize("beta", ["", "context-1m-2025-08-07"])
def test_claude(model, beta):
    anthropic.Anthropic().messages.create(model=model, max_tokens=9, messages=MESSAGE,
        extra_headers={"anthropic-beta": beta} if beta else {})
"""
        )
        assert suite.plain(*BATCH).ret == 0
        jobs: dict[str, int] = {}
        for row in provider.ledger():
            jobs[row["job_id"]] = jobs.get(row["job_id"], 0) + 1
        assert sorted(jobs.values()) == [1, 1, 1, 1, 1, 2, 2]
        betas = {row["headers"].get("anthropic-beta", "") for row in provider.ledger()}
        assert betas == {"", "context-1m-2025-08-07"}
        assert provider.requests()["POST /v1/batches"] == 5

    def test_the_batch_is_charged_to_whom_the_call_named(
        self, suite: Suite, provider: Sandbox
    ) -> None:
        """Organisation, project, a gateway's own headers and betas go with the batch."""
        suite.write(
            """
import anthropic, openai
MESSAGE = [{"role": "user", "content": "hi"}]
GATEWAY = {"x-gateway-team": "evals"}

@pytest.mark.langasync
def test_openai():
    client = openai.OpenAI(organization="org-one", project="proj-two", default_headers=GATEWAY)
    client.chat.completions.create(model="gpt-4o", messages=MESSAGE)

@pytest.mark.langasync
def test_claude():
    client = anthropic.Anthropic(default_headers=GATEWAY)
    client.beta.messages.create(model="claude-opus-4-5", max_tokens=9, messages=MESSAGE,
        betas=["context-1m-2025-08-07"])
"""
        )
        assert suite.plain(*BATCH).ret == 0
        seen = {row["provider"]: row["headers"] for row in provider.ledger()}
        assert seen["openai"]["openai-organization"] == "org-one"
        assert seen["openai"]["openai-project"] == "proj-two"
        assert "context-1m-2025-08-07" in seen["anthropic"]["anthropic-beta"]
        assert {headers["x-gateway-team"] for headers in seen.values()} == {"evals"}

    def test_the_password_of_a_url_goes_as_the_client_sends_it(
        self, suite: Suite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite.write(PASSWORD)
        with loopback() as gateway:
            monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway.url}/v1")
            monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
            gateway.on("GET /v1/batches", Say({"object": "list", "data": [], "has_more": False}))
            gateway.on("POST /v1/files", Say({"error": {"message": "no", "code": "x"}}, 401))
            assert suite.plain(*BATCH).ret == 4
            (upload,) = gateway.at("POST /v1/files")
        assert upload.headers["authorization"] == "Basic bWU6VG9wc2VjcmV0IQ=="

    def test_split_at_the_limits(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pytest_langasync.providers import Limits
        from pytest_langasync.providers.openai import OpenAI

        monkeypatch.setattr(OpenAI, "limits", Limits(requests=3, bytes=10_000, one_model=True))
        suite.write(
            "@pytest.mark.langasync\n@pytest.mark.parametrize('n', range(7))\n"
            "def test_it(n): assert ask(f'{n}' + 'x' * (6000 if n > 4 else 1))\n"
        )
        assert suite.plain(*BATCH).ret == 0
        sizes: dict[str, int] = {}
        for row in provider.ledger():
            sizes[row["job_id"]] = sizes.get(row["job_id"], 0) + 1
        assert sorted(sizes.values()) == [1, 3, 3]


class TestCache:
    """What lies on disk."""

    def test_layout(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(ONE_STEP + CLAUDE)
        suite.plain(*BATCH)
        root = suite.path / ".langasync"
        assert (root / ".gitignore").read_text() == "*\n"
        names = sorted(path.name for path in next((root / "jobs").iterdir()).iterdir())
        assert names == ["job.json", "job.json.copy", "requests.jsonl", "results.jsonl"]
        assert not list((root / "intents").iterdir())
        answer = next((root / "jobs").glob("batch_*/results.jsonl")).read_text()
        assert "Sandbox answer to" in answer

    def test_damage_is_named_and_repaired(self, suite: Suite, provider: Sandbox) -> None:
        """What the disk lost is asked for again where the provider still has it: not bought."""
        suite.write(ONE_STEP + CLAUDE)
        suite.plain(*BATCH)
        for path in (suite.path / ".langasync/jobs").glob("*/results.jsonl"):
            path.write_text(path.read_text()[:-30])
        result = suite.plain(*BATCH)
        assert result.ret == 0 and len(provider.ledger()) == 2
        assert len([one for one in result.outlines if "results.jsonl: 1 damaged line" in one]) == 2
        assert "damaged" not in output(suite.plain(*BATCH))

    def test_no_key_on_disk(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            monkeypatch.setenv(name, "sk-topsecret-0123456789")
        suite.write(TWO_STEPS + CLAUDE + "@pytest.mark.langasync\ndef test_no(): ask('x'); 1/0\n")
        reports = ["--langasync-report=run.json,run.md,run.html", "--junitxml=out.xml"]
        loud = ["-vv", "--showlocals", "--log-level=DEBUG", "-olog_cli=true", "--log-file=all.log"]
        texts = [suite.plain(*BATCH, *reports, *loud)]
        down = {"path": "POST /v1/chat/*", "status": 500, "count": 2}
        provider.set_faults({"http": [down]})
        texts.append(suite.plain("--langasync-realtime", "--langasync-refresh", *loud))
        provider.set_faults({"http": [{"path": "*batches", "status": 401, "count": 0}]})
        texts.append(suite.plain(*BATCH, "--langasync-refresh", *loud))
        assert not ["topsecret" for one in texts if "topsecret" in output(one)]
        assert "HTTP Request" in (suite.path / "all.log").read_text()
        files = [path for path in suite.path.rglob("*") if path.is_file()]
        assert len(files) > 8 and not [f for f in files if b"topsecret" in f.read_bytes()]

    def test_no_password_of_a_url_on_disk(self, suite: Suite, provider: Sandbox) -> None:
        suite.write(PASSWORD)
        result = suite.plain(*BATCH, "--langasync-report=run.json")
        assert result.ret == 0 and "topsecret" not in output(result).lower()
        assert provider.ledger()[0]["job_id"]
        cache = [path for path in (suite.path / ".langasync").rglob("*") if path.is_file()]
        for path in (*cache, suite.path / "run.json"):
            assert b"topsecret" not in path.read_bytes().lower()


def test_sandbox_answers_stay_in_the_sandbox(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP)
    suite.run()
    suite.plain(*BATCH)
    assert len(provider.ledger()) == 1 and len(suite.ledger()) == 1
    assert Path(suite.path / ".langasync/jobs").exists()

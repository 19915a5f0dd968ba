"""Secrets in bodies: never on disk, no part of what is asked, given back from the call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.suite import BATCH, LEAVE, SLOW, Suite, end_jobs, output

from pytest_langasync.cache.secret_places import SecretPlaces, with_secrets
from pytest_langasync.config import OPTIONS
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.sandbox import Sandbox

SECRET = "xyzzy-4711-token"
TOOLS = """
import os

import anthropic
import openai

SECRET = os.environ["SECRET"]

@pytest.mark.langasync
def test_tools():
    tool = {"type": "mcp", "server_label": "deep", "require_approval": "never",
            "server_url": f"https://mcp.test/s/{SECRET}0123456789/mcp?profile={SECRET}",
            "authorization": SECRET, "headers": {"x-tenant-key": SECRET}}
    image = f"https://store.test/a.png?se=2030&sig={SECRET}"
    asked = [{"role": "user", "content": [
        {"type": "input_text", "text": "Say it"},
        {"type": "input_image", "image_url": image, "detail": "auto"}]}]
    with openai.OpenAI(max_retries=0) as client:
        made = {"model": "gpt-4o-mini", "input": asked, "tools": [tool],
                "metadata": {"token": SECRET, "run": "a"}}
        if os.environ.get("STREAM"):
            for event in client.responses.create(**made, stream=True):
                answer = getattr(event, "response", None) or answer
        else:
            answer = client.responses.create(**made)
    assert answer.tools[0].authorization == SECRET
    assert answer.tools[0].headers == {"x-tenant-key": SECRET}
    assert answer.metadata["token"] == SECRET

@pytest.mark.langasync
def test_servers():
    server = {"type": "url", "url": "https://mcp.test/sse", "name": "deep",
              "authorization_token": SECRET}
    with anthropic.Anthropic(max_retries=0) as client:
        answer = client.beta.messages.create(
            model="claude-sonnet-4-5", max_tokens=64, betas=["mcp-client-2025-04-04"],
            messages=[{"role": "user", "content": f"Say {SECRET}"}], mcp_servers=[server])
    assert SECRET in answer.content[0].text
"""
INI = "[pytest]\nlangasync_secret_places = metadata.token, other[].key\n"


def holding(folder: Path, secret: str) -> list[str]:
    """Return the files that a secret is in."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.fixture
def secrets(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Suite:
    suite.pytester.makeini(INI)
    suite.write(TOOLS.replace('f"Say {SECRET}"', '"Say it"').replace(
        "assert SECRET in answer.content[0].text", "assert answer.content[0].text"))  # fmt: skip
    monkeypatch.setenv("SECRET", SECRET)
    return suite


class TestSuites:
    @pytest.mark.parametrize("mode", [BATCH, ["--langasync-realtime"]], ids=["batch", "realtime"])
    @pytest.mark.parametrize("stream", ["", "1"], ids=["whole", "streamed"])
    def test_never_on_disk_and_given_back(
        self,
        secrets: Suite,
        provider: Sandbox,
        mode: list[str],
        stream: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("STREAM", stream)
        for _ in range(2):  # from the provider, then from the cache
            secrets.plain(*mode, "--langasync-report=run.json,run.html").assert_outcomes(passed=2)
        sent = [row["body"] for row in provider.ledger()]
        assert len(sent) == 2 and all(SECRET in json.dumps(body) for body in sent)
        tool = next(body["tools"][0] for body in sent if "tools" in body)
        assert tool["authorization"] == SECRET and tool["server_url"].endswith(SECRET)
        assert holding(secrets.path / ".langasync", SECRET) == []
        assert holding(secrets.path, SECRET) == []

    def test_a_rotated_token_buys_nothing(
        self, secrets: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider.set_faults(SLOW)
        assert secrets.plain(*LEAVE).ret == 75
        monkeypatch.setenv("SECRET", "another-0815-token")
        end_jobs(provider)
        result = secrets.plain(*BATCH)
        result.assert_outcomes(passed=2)
        assert "changed" not in output(result)
        monkeypatch.setenv("SECRET", "a-third-2342-token")
        secrets.plain("--langasync-offline").assert_outcomes(passed=2)
        assert len(provider.ledger()) == 2

    def test_workers_hand_them_on(self, secrets: Suite, provider: Sandbox) -> None:
        secrets.plain(*BATCH, "-n1").assert_outcomes(passed=2)
        assert all(SECRET in json.dumps(row["body"]) for row in provider.ledger())
        assert holding(secrets.path, SECRET) == []

    def test_what_a_model_repeats_of_them(
        self, suite: Suite, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The sandbox repeats the question, in which the token of the server stands, too."""
        suite.write(TOOLS)
        monkeypatch.setenv("SECRET", SECRET)
        suite.plain(*BATCH, "-k", "servers").assert_outcomes(passed=1, deselected=1)
        (results,) = (suite.path / ".langasync").rglob("results.jsonl")
        assert SECRET not in results.read_text()


class TestPlaces:
    @pytest.mark.parametrize(
        ("body", "hidden"),
        [
            ({"tools": [{"authorization": "s1"}]}, "s1"),
            ({"tools": [{"headers": {"a": "s2", "b": ["s3"]}}]}, "s2 s3"),
            ({"mcp_servers": [{"authorization_token": "s1"}]}, "s1"),
            ({"mcp_servers": [{"url": "https://u:s2@h/p"}]}, "u:s2"),
            ({"tools": [{"server_url": "https://h/p?apiKey=s1&profile=s2"}]}, "s1 s2"),
            (
                {"input": "see https://b.test/x?X-Amz-Signature=abcdefgh12&X-Amz-Date=2030"},
                "abcdefgh12 2030",
            ),
            ({"a": ["https://b.test/x?sv=24&sig=abcdefgh%2B1&se=20"]}, "abcdefgh%2B1 24 20"),
            (
                {"a": "https://cdn.test/x?Expires=17&Signature=abcdefgh1&Key-Pair-Id=K1"},
                "17 abcdefgh1 K1",
            ),
            ({"a": "https://h.test/?access_token=abcdefgh1"}, "abcdefgh1"),
        ],
    )
    def test_are_known(self, body: dict[str, Any], hidden: str) -> None:
        kept, secrets = SecretPlaces().take(body)
        assert sorted(secrets.values()) == sorted(hidden.split())
        assert not any(f'"{value}"' in json.dumps(kept) for value in secrets.values())
        assert with_secrets(kept, secrets) == body
        assert SecretPlaces().take(kept) == (kept, {}), "marks are no secrets"

    @pytest.mark.parametrize(
        "text",
        [
            "Who wrote https://shop.test/?author=somebody-famous&design=a-long-name ?",
            "authorization: Bearer or tools[].headers",
            "https://h.test/?key=short&code=de",
            "https://arxiv.org/abs/2401.12345v2?expires=never",
            "$langasync_secret:unknown$",
        ],
    )
    def test_content_is_none(self, text: str) -> None:
        body = {"input": text, "tools": [{"name": "authorization", "type": "function"}]}
        kept, secrets = SecretPlaces().take(body)
        assert kept == body and not secrets
        assert with_secrets(kept, {"x": "y"}) == body

    def test_what_an_answer_has_of_its_own_stays(self) -> None:
        image = "https://images.test/a.png?se=2030-01-01&sig=abcdefghijklmnop%2B"
        tool = {"type": "mcp", "server_url": "https://h.test/?k=1", "authorization": "token-1"}
        answer = {"data": [{"url": image}], "tools": [tool], "metadata": {"url": image}}
        kept = SecretPlaces().take_from_answer(answer, {"input": "secret-of-the-request"})
        assert kept["data"] == answer["data"] and kept["metadata"] == answer["metadata"]
        assert "token-1" not in json.dumps(kept) and "k=1" not in json.dumps(kept)

    def test_more_of_them(self) -> None:
        body = {"metadata": {"token": "t", "run": "a"}, "other": [{"key": "k", "name": "n"}]}
        kept, secrets = SecretPlaces(["metadata.token", "other[].key"]).take(body)
        assert set(secrets.values()) == {"t", "k"}
        assert kept["metadata"]["run"] == "a" and kept["other"][0]["name"] == "n"

    @pytest.mark.parametrize("text", ["tools[]..key", "a b", ".a", "tools[0].x"])
    def test_no_place(self, text: str) -> None:
        (option,) = (one for one in OPTIONS if one.name == "secret_places")
        with pytest.raises(ConfigurationError, match="no place in a body"):
            option.parse(text)


texts = st.text(max_size=20) | st.sampled_from(
    ["https://h.test/a?sig=abcdefgh1&x=1", "https://u:p@h.test/?token=abcdefghi", "x"]
)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["authorization", "headers", "server_url", "url", "name"]), inner
        )
    ),
    max_leaves=10,
)


@given(
    body=st.fixed_dictionaries({"tools": values, "mcp_servers": st.lists(values), "input": values})
)
def test_any_body_comes_back_and_keeps_nothing(body: dict[str, Any]) -> None:
    places = SecretPlaces()
    kept, secrets = places.take(body)
    assert with_secrets(kept, secrets) == json.loads(json.dumps(body))
    assert places.take(kept)[1] == {}
    echoed = places.take_from_answer({"object": "response", "tools": body["tools"]}, secrets)
    assert with_secrets(echoed["tools"], secrets) == json.loads(json.dumps(body["tools"]))

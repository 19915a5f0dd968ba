"""Both providers' clients, from creation to rows, against the strict embedded sandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_langasync.models import Credentials, JobState
from pytest_langasync.providers import Client, Provider, Submission, providers
from pytest_langasync.providers.hosts import PLAYED
from pytest_langasync.sandbox import Sandbox

BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "Hi \u2028 é"}]},
    "/responses": {"input": "Hi"},
    "/embeddings": {"input": "Hi"},
    "/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
}
PLAYS = [one for one in providers() if one.name in PLAYED]
CASES = [(one, dialect.endpoint) for one in PLAYS for dialect in one.dialects]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path).start()
    yield sandbox
    sandbox.stop()


def client_of(provider: Provider, sandbox: Sandbox) -> Client:
    headers = {"authorization": "Bearer sk-any"}
    return provider.client(f"{sandbox.url}/v1", Credentials(headers), ())


def submit(provider: Provider, client: Client, endpoint: str, count: int) -> str:
    model = "claude-sonnet-4-5" if endpoint == "/messages" else "gpt-4o-mini"
    body = {"model": model, **BODIES[endpoint]}
    lines = [(f"nonce-{n}", body) for n in range(count)]
    return client.create(Submission("nonce", endpoint, (), lines, count, "suite")).job_id


@pytest.mark.parametrize(("provider", "endpoint"), CASES, ids=[e for _, e in CASES])
def test_a_batch_from_creation_to_rows(provider: Provider, endpoint: str, sandbox: Sandbox) -> None:
    client = client_of(provider, sandbox)
    assert client.has_batch_api()
    before = time.time()
    job_id = submit(provider, client, endpoint, 20)
    assert job_id.startswith(provider.job_id_prefix)

    (found,) = client.find(before)
    assert (found.job_id, found.total or 20) == (job_id, 20)
    assert found.nonce == ("nonce" if provider.name == "openai" else "")

    until = time.monotonic() + 30
    while (status := client.status(job_id)).state is JobState.RUNNING:
        assert time.monotonic() < until
    assert (status.state, status.completed, status.failed) == (JobState.ENDED, 20, 0)

    rows = list(client.rows(job_id, status))
    assert {row.custom_id for row in rows} == {f"nonce-{n}" for n in range(20)}
    assert {row.status for row in rows} == {200}
    assert all(row.body["usage"] for row in rows)
    assert client.input_ids(job_id) == {row.custom_id for row in rows}
    client.cancel(job_id)
    client.delete_files(status.output_refs)
    client.close()

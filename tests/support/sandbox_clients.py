"""What the tests of the sandbox share: clients, and short ways to batches."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai

from pytest_langasync.sandbox import Sandbox

USER: Any = [{"role": "user", "content": "What is the capital of France?"}]


def oai(sandbox: Sandbox, key: str = "sk-secret-o", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sandbox.url}/v1", api_key=key, max_retries=0, **more)


def ant(sandbox: Sandbox, key: str = "sk-secret-a", **more: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=sandbox.url, api_key=key, max_retries=0, **more)


def line(custom_id: str, content: str = "hi", **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body,
            **more}  # fmt: skip


def submit(client: openai.OpenAI, lines: list[Any], **more: Any) -> openai.types.Batch:
    data = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in lines)
    file = client.files.create(file=("in.jsonl", data.encode()), purpose="batch")
    given: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return client.batches.create(**{"input_file_id": file.id, **given})


def read(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    if not file_id:
        return {}
    rows = [json.loads(row) for row in client.files.content(file_id).text.split("\n") if row]
    return {row["custom_id"]: row for row in rows}


def params(content: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "c", "max_tokens": 99, "messages": [{"role": "user", "content": content}],
            **more}  # fmt: skip


def send(client: anthropic.Anthropic, requests: dict[str, dict[str, Any]]) -> Any:
    rows: Any = [{"custom_id": key, "params": value} for key, value in requests.items()]
    return client.messages.batches.create(requests=rows)


def age(sandbox: Sandbox, batch_id: str, **more: Any) -> None:
    """Let the time of a batch be over."""
    sandbox._state.update_batch(batch_id, lambda batch: batch.update(due=0, **more))

"""What every run of pytest under the plugin imports, imported once."""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from pathlib import Path

import pytest_langasync
from pytest_langasync.sandbox import Sandbox

LIBRARIES = (
    "filelock",
    "genai_prices.data_snapshot",
    "genai_prices.decompose",
    "genai_prices.validation",
    "pytest_asyncio.plugin",
    "rich.live",
    "rich.table",
    "tenacity",
)


def warm_up() -> None:
    """Import, and use once, what every run needs: the SDKs import most of their parts when used."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(pytest_langasync.__path__, "pytest_langasync."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    import anthropic
    import openai

    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(Path(folder)) as sandbox,
        openai.OpenAI(base_url=f"{sandbox.url}/v1", api_key="sk-test") as client,
        anthropic.Anthropic(base_url=sandbox.url, api_key="sk-ant-test") as claude,
    ):
        client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]
        )
        client.files.list()
        client.batches.list()
        claude.messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "hello"}]
        )
        claude.messages.batches.list()

"""Providers that speak OpenAI's Files and Batches as they are, each with its host and limits."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_langasync.providers.base import Limits
from pytest_langasync.providers.dialects import CHAT_COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from pytest_langasync.providers.openai import FilesAndBatches

__all__ = ["DOUBLEWORD", "GROQ", "Doubleword", "Groq"]


class Groq(FilesAndBatches):
    """The provider ``groq``. Its free plan has no batches: then calls go in real time."""

    name = "groq"
    title = "Groq"
    dialects = (CHAT_COMPLETIONS,)
    # The guide says 200 MB, the reference 100.
    limits = Limits(requests=50_000, bytes=99_000_000, one_model=True)
    hosts = ("api.groq.com",)
    base_url = "https://api.groq.com/openai/v1"
    key_variables: Mapping[str, str] = MappingProxyType({"GROQ_API_KEY": "gsk-placeholder"})
    sdk_error = "GroqError"


class Doubleword(FilesAndBatches):
    """The provider ``doubleword``."""

    name = "doubleword"
    title = "Doubleword"
    dialects = (CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES)
    limits = Limits(requests=50_000, bytes=99_000_000, one_model=True)
    hosts = ("api.doubleword.ai",)
    base_url = "https://api.doubleword.ai/v1"
    key_variables: Mapping[str, str] = MappingProxyType({"DOUBLEWORD_API_KEY": "placeholder"})


GROQ = Groq()
DOUBLEWORD = Doubleword()

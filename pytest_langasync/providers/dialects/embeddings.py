"""OpenAI's embeddings."""

from __future__ import annotations

from pytest_langasync.providers.dialects.base import Dialect, Json

__all__ = ["EMBEDDINGS", "Embeddings"]


class Embeddings(Dialect):
    """``/embeddings``."""

    endpoint = "/embeddings"
    usage_flavor = "embeddings"
    conversation = ("input",)
    preamble = ()
    without_output = True

    def inputs(self, body: Json) -> int:
        """Return how many texts, or lists of tokens, are to be embedded."""
        given = body.get("input")
        if not isinstance(given, list):
            return 1
        return len(given) if any(isinstance(one, (str, list)) for one in given) else 1

    def said(self, body: Json) -> str:
        """Return how many vectors came."""
        data = body.get("data")
        return f"{len(data)} embeddings" if isinstance(data, list) else ""


EMBEDDINGS = Embeddings()

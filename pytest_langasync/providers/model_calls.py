"""Model calls that no batch takes here: by host and path, whoever sells them.

They are sent once in real time, recorded and replayed. What is missing in this list answers anew on
each attempt of a test, so that a batched judge of its answers is asked something else each time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pytest_langasync.providers import providers
from pytest_langasync.providers.base import is_one_of
from pytest_langasync.providers.hosts import OTHERS

__all__ = ["ModelCall", "ModelCalls", "set_placeholder_keys"]

ANYWHERE = re.compile(
    r"""
    : (generateContent | streamGenerateContent | embedContent | batchEmbedContents | countTokens) $
    | /images/ (generations | edits | variations) $
    | /audio/ (speech | transcriptions | translations) $
    | /v\d [^/]* / ( .* / )? (moderations | rerank | completions) $
    | /messages/count_tokens $
    | /model/ [^/]+ / (invoke | converse | invoke-with-response-stream | converse-stream) $
    """,
    re.VERBOSE,
)
"""Paths that say by themselves what they are, on whichever host: gateways keep them."""
OLLAMA = re.compile(r"/api/(chat|generate|embed|embeddings)$")
OLLAMA_PORT = 11434
NO_MODEL = re.compile(
    r"""
    / (files | uploads | batches | batchPredictionJobs | fine_tuning | fine-tunes | tuning | tune
       | vector_stores | containers | threads | assistants | evals | models
       | organization | organizations | projects | datasets | cachedContents | corpora | agents
       | operations | oauth | oauth2 | auth | token | guardrail | knowledgebases | ragCorpora
       | conversations | responses/[^/]+ | chat/completions/[^/]+ | realtime )
    (/ [^:]* )? $ (?<! /predictions )
    """,
    re.VERBOSE,
)
"""Paths at a provider's own host that no model answers: what is managed there, and keys."""
TALKS = (("*.mistral.ai", "/conversations"),)
"""Hosts where a path by which others only keep something is answered by a model."""
BY_PATH_ALONE = ("*.amazonaws.com", "*.api.aws")
"""Hosts where most of what is posted is no model call."""
NAMES = {
    "generativelanguage.googleapis.com": "google",
    "*aiplatform.googleapis.com": "google",
    "bedrock*.amazonaws.com": "aws",
    "*.openai.azure.com": "azure",
    "*.cognitiveservices.azure.com": "azure",
    "*.services.ai.azure.com": "azure",
    "api.mistral.ai": "mistral",
    "api.groq.com": "groq",
    "api.together.*": "together",
    "api.x.ai": "x-ai",
    "api.cohere.*": "cohere",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks",
    "openrouter.ai": "openrouter",
    "api.perplexity.ai": "perplexity",
}
"""How prices and reports call the owner of a host that is no provider's here; the rest are called
by their host."""
KEY_VARIABLES = (
    *("AZURE_OPENAI_API_KEY", "CO_API_KEY", "COHERE_API_KEY", "DEEPSEEK_API_KEY"),
    *(
        "FIREWORKS_API_KEY",
        "OPENROUTER_API_KEY",
        "TOGETHER_API_KEY",
        "VOYAGE_API_KEY",
        "XAI_API_KEY",
    ),
)
"""Where the SDKs of others read their keys. Not AWS's: a key there hides a profile or a role, which
other tests may need."""
MODEL_IN_PATH = (
    re.compile(r"/model/([^/]+)/[a-z-]+$"),
    re.compile(r"/models/([^/:]+):\w+$"),
    re.compile(r"/deployments/([^/]+)/"),
)


KEPT = re.compile(
    r"""
    / (files | uploads | vector_stores | conversations | containers | threads | assistants | skills
       | responses/[^/]+ | videos/[^/]+ | predictions/[^/]+ | cachedContents | corpora | ragCorpora)
    (/ | $ | :)
    """,
    re.VERBOSE,
)
"""Paths at a provider's host where a test makes, reads and deletes what is kept there."""


def set_placeholder_keys() -> list[str]:
    """Set the key variables of others that are absent, so that clients can be made; return them.

    For runs that send nothing.
    """
    absent = [name for name in KEY_VARIABLES if not os.environ.get(name)]
    os.environ.update(dict.fromkeys(absent, "placeholder"))
    return absent


@dataclass(frozen=True)
class ModelCall:
    """Whose model a call is for. ``endpoint`` is the whole path."""

    provider: str
    base_url: str
    endpoint: str
    model: str
    """Empty where only the body names it."""


class ModelCalls:
    """Knows a model call when it sees one.

    ``added`` are patterns such as ``llm.internal/*`` or ``*/api/chat``, with the wildcards of
    file names in the host and in the path; one that begins with ``!`` is to be left alone.
    """

    def __init__(self, added: Sequence[str] = ()) -> None:
        self._left_alone = [one[1:].lower() for one in added if one.startswith("!")]
        self._added = [one.lower() for one in added if not one.startswith("!")]
        self._names = {host: one.name for one in providers() for host in one.hosts} | NAMES
        self._hosts = (*self._names, *OTHERS)
        self._places: set[str] = set()
        """Hosts, with their ports, that models were called at."""

    def matches(self, url: str) -> bool:
        """Return whether a POST to this URL asks a model something."""
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition('@')[2].lower()}{parts.path}"
        if is_one_of(self._left_alone, place):
            return False
        if is_one_of(self._added, place) or ANYWHERE.search(parts.path):
            return True
        host = parts.hostname or ""
        if is_one_of(BY_PATH_ALONE, host):
            return False
        if _talks(host, parts.path):
            return True
        if OLLAMA.search(parts.path) and (parts.port == OLLAMA_PORT or host in _ollama_host()):
            return True
        return is_one_of(self._hosts, host) and not NO_MODEL.search(parts.path)

    def called_at(self, base_url: str) -> None:
        """Note that there is a model behind a base URL."""
        self._places.add(urlsplit(base_url).netloc)

    def keeps(self, url: str) -> bool:
        """Return whether a request manages what is kept at a provider, and is no model call."""
        parts = urlsplit(url)
        if not KEPT.search(parts.path) or _talks(parts.hostname or "", parts.path):
            return False
        place = parts.netloc.rpartition("@")[2].lower()
        if is_one_of(self._left_alone, f"{place}{parts.path}"):
            return False
        named = (os.environ.get(n) for one in providers() for n in one.base_url_variables)
        homes = {urlsplit(url).netloc for url in named if url} | self._places
        return place in homes or is_one_of(self._hosts, parts.hostname or "")

    def read(self, url: str) -> ModelCall:
        """Return what a URL that matches tells."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        provider = next((n for one, n in self._names.items() if is_one_of((one,), host)), host)
        found = (pattern.search(parts.path) for pattern in MODEL_IN_PATH)
        model = next((unquote(match[1]) for match in found if match), "")
        netloc = parts.netloc.rpartition("@")[2].lower()
        return ModelCall(provider, f"{parts.scheme}://{netloc}", parts.path, model)


def _talks(host: str, path: str) -> bool:
    return any(is_one_of((one,), host) and part in path for one, part in TALKS)


def _ollama_host() -> str:
    return os.environ.get("OLLAMA_HOST", "")

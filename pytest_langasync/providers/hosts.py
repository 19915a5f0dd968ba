"""With the sandbox nothing reaches a real provider: which requests that is about, where they go."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pytest_langasync.providers import by_name
from pytest_langasync.providers.base import is_one_of

__all__ = ["PLAYED", "detour"]

PLAYED = ("openai", "anthropic")
"""The providers that the sandbox stands in for."""
ALIASES = ("AZURE_OPENAI_ENDPOINT",)
"""Environment variables that name other hosts for the same."""
OTHERS = (
    "*.openai.azure.com",
    "*.cognitiveservices.azure.com",
    "*.services.ai.azure.com",
    "*.models.ai.azure.com",
    "models.github.ai",
    "models.inference.ai.azure.com",
    "bedrock*.amazonaws.com",
    "bedrock*.api.aws",
    "generativelanguage.googleapis.com",
    "*aiplatform.googleapis.com",
    "api.mistral.ai",
    "codestral.mistral.ai",
    "api.groq.com",
    "api.together.ai",
    "api.together.xyz",
    "api.x.ai",
    "*.api.x.ai",
    "api.fireworks.ai",
    "openrouter.ai",
    "api.cohere.ai",
    "api.cohere.com",
    "api.deepseek.com",
    "api.perplexity.ai",
    "api.cerebras.ai",
    "api.sambanova.ai",
    "api.deepinfra.com",
    "api.doubleword.ai",
    "api.novita.ai",
    "api.studio.nebius.*",
    "api.tokenfactory.nebius.com",
    "api.voyageai.com",
    "api.jina.ai",
    "api.ai21.com",
    "api.moonshot.*",
    "api.z.ai",
    "dashscope*.aliyuncs.com",
    "integrate.api.nvidia.com",
    "router.huggingface.co",
    "api.replicate.com",
    "ai-gateway.vercel.sh",
    "gateway.ai.cloudflare.com",
)
"""Other providers. The sandbox has their model calls, told by the path, and refuses the rest."""


def detour(local_url: str, url: str) -> str:
    """Return where a request goes instead, or an empty string when its host is no provider's.

    The sandbox at ``local_url`` (with ``/v1``) itself refuses what it does not serve, in a
    provider's own words.
    """
    parts = urlsplit(url)
    netloc, host = _netloc(url), (parts.hostname or "").lower()
    if not local_url or netloc == _netloc(local_url):
        return ""
    query = f"?{parts.query}" if parts.query else ""
    played = [by_name(name) for name in PLAYED]
    names = (*ALIASES, *(name for one in played for name in one.base_url_variables))
    elsewhere = {_netloc(os.environ.get(name, "")) for name in names}
    if any(is_one_of(one.hosts, host) for one in played) or netloc in elsewhere:
        _, version, rest = parts.path.partition("/v1/")
        if version:
            return f"{local_url}/{rest}{query}"
    elif not is_one_of(OTHERS, host):
        return ""
    return f"{local_url.removesuffix('/v1')}/{host}{parts.path}{query}"


def _netloc(url: str) -> str:
    """Return host and port, without the scheme's own port."""
    parts = urlsplit(url.lower())
    own = ":443" if parts.scheme == "https" else ":80"
    return parts.netloc.rpartition("@")[2].removesuffix(own)

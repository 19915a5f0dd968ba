"""With the sandbox nothing reaches a real provider: which requests that is about, where they go."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

__all__ = ["detour"]

PLAYED = ("api.openai.com", "*.api.openai.com", "api.anthropic.com")
"""Hosts that the sandbox stands in for."""
VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "AZURE_OPENAI_ENDPOINT")
"""Environment variables of the SDKs that name another host for the same."""
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
    if _is_one_of(PLAYED, host) or netloc in {_netloc(os.environ.get(v, "")) for v in VARIABLES}:
        _, version, rest = parts.path.partition("/v1/")
        if version:
            return f"{local_url}/{rest}{query}"
    elif not _is_one_of(OTHERS, host):
        return ""
    return f"{local_url.removesuffix('/v1')}/{host}{parts.path}{query}"


def _is_one_of(patterns: tuple[str, ...], host: str) -> bool:
    return any(fnmatchcase(host, pattern) for pattern in patterns)


def _netloc(url: str) -> str:
    """Return host and port, without the scheme's own port."""
    parts = urlsplit(url.lower())
    own = ":443" if parts.scheme == "https" else ":80"
    return parts.netloc.rpartition("@")[2].removesuffix(own)

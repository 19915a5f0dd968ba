"""What the engine asks of a provider. Each provider is one module beside this one.

SDKs are imported inside the functions that need them: an inactive run loads none of them.

* In: requests to be batched, the account that their calls came with.
* Out: jobs, their status and rows, in one shape for all providers.
* May import: ``interception`` (its own calls go out untouched).

``base`` has what a provider is, ``dialects`` are the shapes of bodies that providers share. Here
is which providers there are: ours, and those of other packages.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import Job, Target
from pytest_langasync.providers import dialects
from pytest_langasync.providers.base import (
    Client,
    Created,
    Found,
    Limits,
    Provider,
    Submission,
    is_management,
    is_one_of,
    telling_headers,
)
from pytest_langasync.providers.dialects import Dialect

__all__ = [
    "GROUP", "Called", "Client", "Created", "Found", "Limits", "Provider", "Submission",
    "by_name", "check_job_id", "dialect", "dialect_of", "echoed", "halves_batches", "is_free",
    "lacking_key", "may_have_job", "providers", "recognise", "set_placeholder_keys",
    "telling_headers",
]  # fmt: skip

GROUP = "pytest_langasync.providers"
"""The group of entry points by which another package adds a provider."""


@dataclass(frozen=True)
class Called:
    """Whose model a call is for, in which shape, and where."""

    provider: Provider
    dialect: Dialect
    base_url: str
    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What its query says in place of headers."""


@functools.cache
def providers() -> tuple[Provider, ...]:
    """Return all providers, in the order in which a path is offered to them.

    Ours are named here and not in the metadata, which may be missing (a source tree on the path, a
    frozen program). A name that is taken is not given twice.

    Raises:
        ConfigurationError: a provider of another package cannot be loaded.
    """
    from pytest_langasync.providers.anthropic import ANTHROPIC
    from pytest_langasync.providers.compatible import DOUBLEWORD, GROQ
    from pytest_langasync.providers.google import GOOGLE
    from pytest_langasync.providers.mistral import MISTRAL
    from pytest_langasync.providers.openai import OPENAI

    ours = (OPENAI, ANTHROPIC, GOOGLE, MISTRAL, GROQ, DOUBLEWORD)
    found: dict[str, Provider] = {one.name: one for one in ours}
    for point in metadata.entry_points(group=GROUP):
        try:
            one = point.load()
        except Exception as error:
            raise ConfigurationError(
                f"the provider {point.name!r} ({point.value}) cannot be loaded: {error!r}"
            ) from error
        one = one() if isinstance(one, type) else one
        if found.setdefault(one.name, one) is not one:
            raise ConfigurationError(
                f"the provider {point.name!r} ({point.value}) has a name that is taken: {one.name}"
            )
    return tuple(found.values())


def recognise(url: str, headers: Mapping[str, str]) -> Called | None:
    """Return whose model a POST to ``url`` calls; None for anything but a call of a model.

    A provider's own host speaks its protocol alone. ``headers`` have names in lower case.
    """
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2].lower()
    for provider in _at(parts.hostname or "", place):
        for dialect in provider.dialects:
            if found := dialect.split(parts.path, headers):
                path, endpoint = found
                base_url = f"{parts.scheme}://{place}{path}"
                keys = [pair for pair in parse_qsl(parts.query) if pair[0] in provider.query_keys]
                headers = {provider.query_keys[name]: value for name, value in keys}
                return Called(provider, dialect, base_url, endpoint, headers)
    return None


def _at(host: str, place: str) -> Iterator[Provider]:
    at_home = [one for one in providers() if is_one_of(one.hosts, host)]
    if at_home:
        yield from at_home
        return
    for one in providers():
        usual = urlsplit(one.usual_base_url()).netloc.rpartition("@")[2].lower()
        if one.spoken_elsewhere or usual == place:
            yield one


def set_placeholder_keys() -> list[str]:
    """Give each provider without a key a placeholder, so that clients can be made.

    Returns the names of the variables that were set: one for each, since an SDK that reads several
    may prefer the placeholder to the person's own.
    """
    without = (one.key_variables.items() for one in providers() if not one.key())
    absent = dict(pair for pairs in without for pair in list(pairs)[:1])
    os.environ.update(absent)
    return list(absent)


def lacking_key(error: BaseException | None) -> str:
    """Return the variable of the key that an SDK lacks, where ``error`` says so, or ''."""
    while error is not None:
        for provider in providers():
            if provider.lacks_key(error):
                return next(iter(provider.key_variables))
        error = error.__cause__  # not the context: what a test has handled is no complaint
    return ""


def by_name(name: str) -> Provider:
    """Return the provider of this name.

    Raises:
        ConfigurationError: there is none, such as of a job that another package submitted.
    """
    for provider in providers():
        if provider.name == name:
            return provider
    known = ", ".join(provider.name for provider in providers())
    raise ConfigurationError(f"no provider is named {name!r}; known are {known}")


def dialect(provider: str, endpoint: str) -> Dialect:
    """Return the shape that a provider's endpoint speaks, as well as it is known."""
    own = (one.dialects for one in providers() if one.name == provider)
    return dialects.dialect_of(endpoint, next(own, dialects.DIALECTS))


def dialect_of(where: Target | Job) -> Dialect:
    """Return the shape that is spoken there."""
    return dialect(where.provider, where.endpoint)


def is_free(provider: str, endpoint: str) -> bool:
    """Return whether a provider charges nothing for calls to an endpoint."""
    if is_management(endpoint):
        return not endpoint.endswith("/runs")  # an assistant's, which answers
    return any(one.name == provider and endpoint.endswith(one.free) for one in providers())


def halves_batches(provider: str) -> bool:
    """Return whether a provider documents half the price for a batch with any model."""
    return any(one.name == provider and one.halves_batches for one in providers())


def echoed(body: Any) -> frozenset[str]:
    """Return what the body of an answer may repeat of its request, at its top."""
    every = (one for provider in providers() for one in provider.dialects)
    return next((one.echoed for one in every if one.echoed and one.is_answer(body)), frozenset())


def check_job_id(job_id: str) -> None:
    """Refuse what no provider has given: an ID has a known beginning, or was generated.

    Raises:
        ConfigurationError: it is neither.
    """
    known = dict.fromkeys(one.job_id_prefix for one in providers() if one.job_id_prefix)
    generated = len(job_id) >= 12 and any(letter.isdigit() for letter in job_id)
    if not (job_id.startswith(tuple(known)) or generated):
        named = ", ".join(f"{prefix}…" for prefix in known)
        raise ConfigurationError(f"{job_id!r} is not a job ID of a known provider ({named})")


def may_have_job(target: Target, job_id: str) -> bool:
    """Return whether a job at the base URL of ``target`` may have this ID.

    Servers that speak a provider's protocol make IDs in ways of their own.
    """
    prefixes = {one.name: one.job_id_prefix for one in providers()}
    own = prefixes.get(target.provider, "")
    if own and job_id.startswith(own):
        return True
    if any(prefix and job_id.startswith(prefix) for prefix in prefixes.values()):
        return not own
    return not own or not by_name(target.provider).is_official(target.base_url)

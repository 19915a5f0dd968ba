"""What the commands share: the cache, where lines go, jobs by their ID, clients of providers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from pytest_langasync import providers
from pytest_langasync.cache.chain_jobs import JobRecord, load_record
from pytest_langasync.cache.store import Store
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.models import Credentials, Job
from pytest_langasync.reporting.text import escape

__all__ = ["Cli"]


@dataclass
class Cli:
    """One call of the command line."""

    store: Store
    out: TextIO

    def write(self, line: str = "") -> None:
        """Write a line; nothing in it controls the terminal."""
        self.out.write(escape(line) + "\n")

    def known(self, job_id: str) -> tuple[JobRecord | None, Sequence[Job]]:
        """Return a provider's job, or a chain's job and what it has at providers.

        Raises:
            ConfigurationError: neither is known by this ID.
        """
        job = self.store.job(job_id)
        if job is not None:
            return None, [job]
        record = load_record(self.store.root, job_id)
        if record is None:
            raise ConfigurationError(
                f"there is no job {job_id!r} in {self.store.root}: `jobs` lists those there are"
            )
        found = (self.store.job(one) for one in record.provider_jobs)
        return record, [one for one in found if one is not None]

    def client(
        self, provider: str, base_url: str, headers: tuple[tuple[str, str], ...]
    ) -> providers.Client:
        """Return a client that asks with the key of the environment.

        What is read from the cache may be a stranger's: the key goes nowhere else than the SDK
        would send it by itself, or the provider's own hosts.
        """
        one = providers.by_name(provider)
        if base_url != one.usual_base_url().rstrip("/") and not one.is_official(base_url):
            raise ConfigurationError(
                f"the key of {provider} is not sent to {base_url}, which only the cache names. "
                "Set the base URL in the environment as for the SDK, if it is yours"
            )
        key = one.key()
        if not key:
            variable = next(iter(one.key_variables), "its key")
            raise ConfigurationError(f"{provider} has to be asked: set {variable}")
        return one.client(
            base_url, Credentials(one.key_headers(key)), one.identity_headers(dict(headers))
        )

"""Where calls go: each to its own provider, or all of them to the embedded sandbox."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pytest_langasync import providers
from pytest_langasync.cache import files
from pytest_langasync.config import Settings
from pytest_langasync.engine.credential_renewal import Access
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.interception.wire import untouched
from pytest_langasync.models import MissingCall, Target

__all__ = ["Hosts"]


class Hosts:
    """The servers of one run. With a sandbox nothing leaves this machine."""

    def __init__(self, local_url: str = "") -> None:
        self.local_url = local_url
        """Base URL of the embedded sandbox, or empty."""
        self.access = Access()
        self._sandbox: Any = None
        self._no_proxy: str | None = None
        self._batchable: dict[tuple[str, str], bool] = {}

    def start_sandbox(self, settings: Settings, reply: Callable[[Any], Any] | None) -> None:
        """Start the embedded provider on a free port of this machine.

        Raises:
            ConfigurationError: its extra is not installed.
            CacheError: its directory cannot be made.
        """
        files.make_private_dir(settings.cache / "provider")
        try:
            from pytest_langasync.sandbox import Sandbox

            # It asks the hook and the server behind it in the context in which it is made.
            with untouched():
                self._sandbox = Sandbox(
                    settings.cache / "provider",
                    latency=settings.sandbox_latency,
                    reply=reply,
                    forward_url=settings.sandbox_url or None,
                ).start()
        except ImportError as error:
            raise ConfigurationError(
                "--langasync-sandbox needs its extra: pip install 'pytest-langasync[sandbox]' "
                f"({error.name} is missing)"
            ) from None
        self.local_url = f"{self._sandbox.url}/v1"
        # A proxy of the network's cannot reach it, and must not see what goes there.
        self._no_proxy = os.environ.get("no_proxy")
        direct = [urllib.request.getproxies().get("no", ""), "127.0.0.1"]
        os.environ["no_proxy"] = ",".join(filter(None, direct))

    def stop(self) -> None:
        """Stop the sandbox; its batches stay on disk."""
        if self._sandbox is None:
            return
        self._sandbox.stop()
        self._sandbox, self.local_url = None, ""
        del os.environ["no_proxy"]
        if self._no_proxy is not None:
            os.environ["no_proxy"] = self._no_proxy

    def connect(self, target: Target) -> providers.Client:
        """Return a client of the batch API that stands behind ``target``."""
        provider = providers.by_name(target.provider)
        if self.local_url:  # where no proxy leads to
            credentials = replace(target.credentials, network=None)
            return provider.client(self.local_url, credentials, target.headers)
        credentials = self.access.live(target.credentials)
        return provider.client(target.base_url, credentials, target.headers)

    def has_batch_api(self, target: Target) -> bool:
        """Ask a host that is no known provider, once, whether it has the batch API.

        Raises:
            ProviderError: it could not be reached, or is in trouble.
        """
        provider = providers.by_name(target.provider)
        if self.local_url or provider.is_official(target.base_url):
            return True
        if target.host not in self._batchable:
            client = self.connect(target)
            try:
                self._batchable[target.host] = client.has_batch_api()
            finally:
                client.close()
        return self._batchable[target.host]

    def without_batch_api(self, missing_calls: Iterable[MissingCall]) -> list[str]:
        """Return the base URLs of those calls whose host has no batch API, sorted."""
        return sorted(
            {p.target.base_url for p in missing_calls if not self.has_batch_api(p.target)}
        )

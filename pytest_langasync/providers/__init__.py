"""What the engine asks of a provider. Each provider is one module beside this one.

SDKs are imported inside the functions that need them: an inactive run loads none of them.

* In: requests to be batched, the account that their calls came with.
* Out: jobs, their status and rows, in one shape for all providers.
* May import: ``interception`` (its own calls go out untouched).

``base`` has what a provider is, ``registry`` finds it, ``dialects`` are the shapes of bodies that
providers share.
"""

from __future__ import annotations

from pytest_langasync.providers.base import (
    Client,
    Created,
    Found,
    Limits,
    Provider,
    Submission,
)
from pytest_langasync.providers.registry import (
    Called,
    by_job_id,
    by_name,
    dialect,
    dialect_of,
    echoed,
    lacking_key,
    providers,
    recognise,
    set_placeholder_keys,
)

__all__ = [
    "Called",
    "Client",
    "Created",
    "Found",
    "Limits",
    "Provider",
    "Submission",
    "by_job_id",
    "by_name",
    "dialect",
    "dialect_of",
    "echoed",
    "lacking_key",
    "providers",
    "recognise",
    "set_placeholder_keys",
]

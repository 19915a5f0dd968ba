"""The exceptions of pytest-langasync.

Each carries one message for the person who reads it: what happened, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class LangasyncError(Exception):
    """Base class of every exception raised by pytest-langasync."""


class ConfigurationError(LangasyncError):
    """An option, marker keyword, key, model or base URL that cannot work as given.

    Trying again without a change cannot help. Under pytest it ends the run with exit status 4.
    """


class NoBatchApiError(ConfigurationError):
    """There is no batch API at a base URL, or none for this account: calls go in real time."""


class ProviderError(LangasyncError):
    """The provider could not be reached, or answered in a way that ends this attempt.

    Jobs that were already submitted stay at the provider; a later run collects them.
    """


class JobNotFoundError(ProviderError):
    """The provider does not know the job (deleted, expired, or of another account)."""


class ResultsNotReadyError(ProviderError):
    """A job has ended, and its results cannot be read yet; they are paid for."""


class CreateUnknownError(ProviderError):
    """The outcome of a batch creation is unknown: it may or may not exist at the provider."""


class CapacityError(ProviderError):
    """The provider has no room for the batch now (enqueued-token or queue limit); try later."""


class CacheError(LangasyncError):
    """The cache directory cannot be used: not writable, or written by a newer version."""


class JobPendingError(LangasyncError):
    """The results of a job were asked for before every input had one."""


class JobCancelledError(LangasyncError):
    """An input of a job that was cancelled before its answers came."""


class NotReproducibleError(LangasyncError):
    """A chain asked for something else than in its attempt before, so that it would pay for ever.

    A batched chain runs once more for every wave, and has to ask the same each time.
    """


class ScoringError(LangasyncError, ValueError):
    """An output, or a judge's reply, that a scorer cannot read."""


def raise_as_one(errors: Sequence[LangasyncError]) -> None:
    """Raise the errors that most need a person, if there are any, as one."""
    mistakes = [error for error in errors if not isinstance(error, ProviderError)]
    if told := mistakes or errors:
        raise type(told[0])("; ".join(dict.fromkeys(map(str, told))))

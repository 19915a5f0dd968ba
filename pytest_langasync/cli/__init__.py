"""Housekeeping: list and show jobs, cancel them, prune the cache, find out what is wrong.

Keys are read from the SDKs' environment variables, and only where a provider has to be asked.

* In: the command line of ``python -m pytest_langasync``.
* Out: lines of text, an exit status.
* May import: every room but ``plugin``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pytest_langasync.cache.store import Store
from pytest_langasync.cli.cancel import cancel
from pytest_langasync.cli.context import Cli
from pytest_langasync.cli.doctor import doctor
from pytest_langasync.cli.jobs import jobs
from pytest_langasync.cli.prune import prune
from pytest_langasync.cli.show import show
from pytest_langasync.exceptions import LangasyncError
from pytest_langasync.reporting.text import escape

__all__ = ["main"]


@dataclass(frozen=True)
class Command:
    """A command: what runs it, what it does, and its own argument, if it has one."""

    run: Callable[[Cli, argparse.Namespace], int]
    help: str
    argument: str = ""
    settings: dict[str, Any] | None = None


JOB = {"help": "the ID of a provider's job (batch_…, msgbatch_…), or of a chain's (job.id)"}
COMMANDS = (
    Command(jobs, "list the jobs in the cache"),
    Command(show, "show a job's requests and answers", "job_id", JOB),
    Command(cancel, "ask the provider to cancel a job", "job_id", JOB),
    Command(
        prune,
        "remove old answers, of ended jobs and in real time, and accounts of runs",
        "--older-than",
        {"required": True, "metavar": "DURATION", "help": "such as 30d or 12h"},
    ),
    Command(
        doctor,
        "check the cache, the keys and what is under way",
        "--forget",
        {
            "metavar": "NONCE|MODEL",
            "help": "give up a submission in doubt (what it may have bought is then lost), or try "
            "batches of a model again that were refused",
        },
    ),
)


def main(arguments: Sequence[str], out: TextIO | None = None) -> int:
    """Run one command and return the exit status: 0, 1 where something needs a person, 2 for a
    mistake in the command."""
    options = parser().parse_args(arguments)
    cli = Cli(Store(options.cache_dir), out or sys.stdout)
    command: Command = options.command
    try:
        cli.store.open()
        return command.run(cli, options)
    except LangasyncError as error:
        sys.stderr.write(f"langasync: {escape(str(error))}\n")
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="python -m pytest_langasync", description=__doc__)
    top.add_argument(
        "--cache-dir",
        type=Path,
        default=Path(".langasync"),
        help="the cache (default .langasync; the sandbox's is .langasync/sandbox)",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        one = commands.add_parser(command.run.__name__, help=command.help, description=command.help)
        one.set_defaults(command=command)
        if command.argument:
            one.add_argument(command.argument, **(command.settings or {}))
    return top

"""An embedded local provider: real HTTP on loopback, no key, no cost.

The web framework is imported when a sandbox starts, not before.

* In: the calls and batches of SDKs. Out: replies as strict as the providers' own.
* May import: ``providers.dialects``, ``models``.
"""

from __future__ import annotations

from pytest_langasync.sandbox.faults import BatchFault, HttpFault, Limits
from pytest_langasync.sandbox.questions import Reply, ReplyRequest, Tool, ToolCall
from pytest_langasync.sandbox.server import Sandbox

__all__ = [
    "BatchFault",
    "HttpFault",
    "Limits",
    "Reply",
    "ReplyRequest",
    "Sandbox",
    "Tool",
    "ToolCall",
]

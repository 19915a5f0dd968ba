"""How a chain is run on one input, be it a Runnable, a function or a coroutine function.

Used for the jobs of ``wrap_chain`` and for the ``scored`` fixture, so that both find the same
answer to two questions: is a chain run by ``invoke`` or by ``ainvoke``, and which errors of
``invoke`` mean that it has no synchronous form.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from pytest_langasync.interception.event_loop import finish

__all__ = ["Invoker"]


class _Attempt(Protocol):
    @property
    def parked(self) -> bool: ...

    def restart(self) -> None: ...


class Invoker:
    """Runs a chain: anything with ``invoke`` (and maybe ``ainvoke``), or a callable.

    Example:
        ``Invoker(chain).invoke({"question": "What is the capital of France?"})``
    """

    def __init__(self, target: Any, *, asynchronous: bool = False) -> None:
        """``asynchronous`` prefers ``ainvoke`` from the start."""
        self.target = target
        self.asynchronous = asynchronous or (
            not hasattr(target, "invoke") and _is_coroutine_function(target)
        )
        """Whether it is run by ``ainvoke``, or is a coroutine function: known at the latest after
        the first input."""

    def invoke(self, value: Any, config: Any = None, *, attempt: _Attempt | None = None) -> Any:
        """Run it on one input, in synchronous code.

        Args:
            value: the input.
            config: a RunnableConfig, for Runnables only.
            attempt: which attempt this belongs to, if to any. It is told when the chain begins
                anew, by ``ainvoke``, because ``invoke`` turned out to have no synchronous form.

        Raises:
            Exception: whatever the chain raises.
        """
        if not hasattr(self.target, "invoke"):
            return finish(self.target(value))
        if not (self.asynchronous and hasattr(self.target, "ainvoke")):
            try:
                return finish(self.target.invoke(value, *_given(config)))
            except (NotImplementedError, TypeError) as error:
                parked = attempt is not None and attempt.parked
                if parked or not (_is_asynchronous_only(error) and hasattr(self.target, "ainvoke")):
                    raise
            if attempt is not None:
                attempt.restart()
            self.asynchronous = True
        return finish(self.target.ainvoke(value, *_given(config)))

    async def ainvoke(self, value: Any, config: Any = None) -> Any:
        """Run it on one input in the running event loop; raises whatever the chain raises."""
        if hasattr(self.target, "ainvoke"):
            return await self.target.ainvoke(value, *_given(config))
        if hasattr(self.target, "invoke"):
            result = self.target.invoke(value, *_given(config))
        else:
            result = self.target(value)
        return await result if inspect.isawaitable(result) else result


def _given(config: Any) -> tuple[Any, ...]:
    """Return the config as an argument, if there is one: a class of the user's own may have an
    ``invoke`` that takes nothing but the input."""
    return () if config is None else (config,)


def _is_coroutine_function(target: Any) -> bool:
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
        getattr(target, "__call__", None)  # noqa: B004
    )


def _is_asynchronous_only(error: Exception) -> bool:
    """Whether an error of ``invoke`` says that there is no synchronous form.

    LangChain's tools and generators raise NotImplementedError; its ``RunnableLambda`` and
    LangGraph's nodes raise TypeError with "synchronously" or "synchronous" in the text (noticed by
    ``test_a_chain_without_a_synchronous_form``). Any other TypeError is a fault in the chain.
    """
    return isinstance(error, NotImplementedError) or "synchronous" in str(error)

"""Chains that ask a model once or twice, wrapped to be polled quickly."""

from __future__ import annotations

from typing import Any

import openai

from pytest_langasync import WrappedChain, wrap_chain


def ask(text: Any) -> Any:
    """A chain that is a plain function."""
    with openai.OpenAI(max_retries=0) as client:
        message: Any = [{"role": "user", "content": f"About {text}"}]
        done = client.chat.completions.create(model="gpt-4o-mini", messages=message, max_tokens=50)
    return done.choices[0].message.content


def judged(text: Any) -> Any:
    """A chain of two calls, the second about the first's answer."""
    return ask("judge " + ask(text))


def wrapped(chain: Any = ask, **options: Any) -> WrappedChain:
    """Wrap a chain."""
    return wrap_chain(chain, poll_interval=0.02, **options)

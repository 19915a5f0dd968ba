"""An agent with tools: each turn needs the answer before it, so each turn is a wave.

The tools run on every pass over the test. Ours write to a `Shop` that the test makes for itself,
so that a pass which has to wait leaves nothing behind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from openai import OpenAI

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam


@dataclass
class Shop:
    """What the tools work on."""

    refunded: list[int] = field(default_factory=list)

    def find_customer(self, email: str) -> Any:
        """Find a customer's ID."""
        return {"customer_id": 7} if email == "ada@example.com" else {"error": "unknown"}

    def list_orders(self, customer_id: int) -> Any:
        """List a customer's orders."""
        orders = [
            {"order_id": 1001, "item": "kettle", "status": "delivered"},
            {"order_id": 1002, "item": "teapot", "status": "broken"},
        ]
        return orders if customer_id == 7 else []

    def refund(self, order_id: int) -> Any:
        """Refund an order."""
        self.refunded.append(order_id)
        return {"order_id": order_id, "status": "refunded"}


def tool(name: str, description: str, parameter: str, kind: str) -> ChatCompletionToolParam:
    """Describe a function with one parameter."""
    schema = {
        "type": "object",
        "properties": {parameter: {"type": kind}},
        "required": [parameter],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema},
    }


TOOLS = [
    tool("find_customer", "Find a customer's ID by e-mail address.", "email", "string"),
    tool("list_orders", "List a customer's orders with their status.", "customer_id", "integer"),
    tool("refund", "Refund an order.", "order_id", "integer"),
]


def run_agent(shop: Shop, request: str, max_turns: int = 8) -> str:
    """The code under test: a plain loop with the SDK."""
    client = OpenAI()
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You are a shop's support agent. Use the tools."},
        {"role": "user", "content": request},
    ]
    for _ in range(max_turns):
        completion = client.chat.completions.create(
            model="gpt-5-mini", messages=messages, tools=TOOLS
        )
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))  # type: ignore[arg-type]
        for call in message.tool_calls:
            assert call.type == "function"
            result = getattr(shop, call.function.name)(**json.loads(call.function.arguments))
            content = json.dumps(result)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    raise AssertionError(f"no answer after {max_turns} turns")


@pytest.mark.langasync
def test_refunds_the_broken_order() -> None:
    shop = Shop()
    answer = run_agent(shop, "My teapot came broken, please refund it. I am ada@example.com.")
    assert shop.refunded == [1002]
    assert "refund" in answer.lower()

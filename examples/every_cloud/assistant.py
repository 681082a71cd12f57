"""A program under test: answers questions about orders, with a tool, on whichever provider the
profile names."""

from __future__ import annotations

import cloudai
from cloudai import Message, ToolResult

ORDERS = {"A-17": "on its way", "B-4": "delivered"}


def order_state(number: str) -> str:
    """The state of an order.

    Args:
        number: such as A-17.
    """
    return ORDERS.get(number, "unknown")


def ask(client: cloudai.Client, question: str, model: str) -> str:
    """One question, one answer; the tool is called as often as the model wants."""
    turns = [Message("user", question)]
    while True:
        reply = client.chat.create(turns, model=model, tools=[order_state], temperature=0)
        if not reply.tool_calls:
            return reply.text
        results = tuple(ToolResult(c.id, order_state(**c.input)) for c in reply.tool_calls)
        turns += [reply.message, Message("tool", results)]


def nearest(client: cloudai.Client, question: str, texts: list[str], model: str) -> str:
    """The text whose vector lies closest to the question's."""
    vectors = client.embeddings.create([question, *texts], model=model).array
    return texts[int((vectors[1:] @ vectors[0]).argmax())]

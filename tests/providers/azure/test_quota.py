"""A thousand chats under a quota: all answered, none early, few in vain."""

from __future__ import annotations

import asyncio

import pytest

import cloudai
from cloudai.testing.emulators.azure import AzureEmulator


@pytest.mark.slow
def test_a_thousand_chats_under_a_quota(azure: AzureEmulator) -> None:
    limited = azure.deploy("limited", limit=100, window=1.0)

    async def ask() -> int:
        gate = asyncio.Semaphore(64)

        async def one(client: cloudai.AsyncClient, number: int) -> bool:
            async with gate:
                reply = await client.chat.create(f"n{number}", model="limited")
                return reply.text == f"echo: n{number}"

        async with cloudai.AsyncClient(provider="azure", api_key=azure.key) as client:
            return sum(await asyncio.gather(*(one(client, n) for n in range(1000))))

    assert asyncio.run(ask()) == 1000
    attempts = [request for request in azure.requests if "/chat/" in request.path]
    assert len(attempts) <= 1400
    assert limited.refused == len(attempts) - 1000 > 0
    # What was under way when the limit was met could not know of it; nothing else was early.
    assert limited.early == 0

"""A thousand chats under a quota: all answered, none early, few in vain."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import cloudai
from cloudai._core.calls.failures import retry_after
from cloudai.providers.azure.openai.transport import Transport
from cloudai.testing.emulators.azure import AzureEmulator


@pytest.mark.slow
def test_a_thousand_chats_under_a_quota(
    azure: AzureEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = azure.deploy("limited", limit=100, window=1.0)
    sent: list[float] = []
    told: list[tuple[float, float]] = []
    ask = Transport._asend

    async def watched(self: Transport, *given: Any) -> Any:
        sent.append(time.monotonic())
        answer = await ask(self, *given)
        if answer.status == 429:
            now = time.monotonic()
            told.append((now, now + (retry_after(answer.headers) or 0.0)))
        return answer

    monkeypatch.setattr(Transport, "_asend", watched)

    async def crowd() -> int:
        gate = asyncio.Semaphore(64)

        async def one(client: cloudai.AsyncClient, number: int) -> bool:
            async with gate:
                reply = await client.chat.create(f"n{number}", model="limited")
                return reply.text == f"n{number}"

        async with cloudai.AsyncClient(provider="azure", api_key=azure.key) as client:
            return sum(await asyncio.gather(*(one(client, n) for n in range(1000))))

    assert asyncio.run(crowd()) == 1000
    # Not one was sent once an answer had said to wait, and before that time was over.
    assert told
    assert not [at for at in sent for since, until in told if since < at < until]
    assert len(sent) <= 1400
    assert limited.refused == len(told) == len(sent) - 1000

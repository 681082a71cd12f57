"""A language model service: one chat, one embedding, and a list of texts at the same time.

    python examples/service/program.py                    # this machine
    python examples/service/program.py --profile azure    # or aws, vertex, fake

It names no provider and holds no key: on ``azure`` the key comes out of Key Vault, with the
vendor's own credential chain.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import cloudai

HERE = Path(__file__).resolve().parent
TEXTS = (
    "What is the capital of France?",
    "What is the largest planet of the solar system?",
    "Which language is spoken in Brazil?",
    "How many legs does a spider have?",
)


async def answer_all(
    client: cloudai.AsyncClient, texts: tuple[str, ...], max_tokens: int, at_once: int = 8
) -> list[cloudai.ChatReply | cloudai.CloudAIError]:
    """An answer, or its error, for each text in their order; ``at_once`` under way at a time."""
    room = asyncio.Semaphore(at_once)

    async def answer(text: str) -> cloudai.ChatReply | cloudai.CloudAIError:
        async with room:
            try:
                return await client.chat.create(
                    text, model="smart", temperature=0.7, max_tokens=max_tokens
                )
            except cloudai.CloudAIError as error:  # one that failed does not lose the others
                return error

    return await asyncio.gather(*map(answer, texts))


async def run(client: cloudai.AsyncClient, max_tokens: int) -> list[str]:
    reply = await client.chat.create(
        "Say in one sentence what a language model is.",
        model="smart",
        system="You are a concise, factual assistant.",
        temperature=0.7,
        max_tokens=max_tokens,
    )
    print(f"{reply.text}\n({reply.model}: {reply.usage.total_tokens} tokens)")

    vector = await client.embeddings.create("a text to find again", model="embed")
    print(f"an embedding of {vector.dim} numbers ({vector.model})")

    started = time.perf_counter()
    found = await answer_all(client, TEXTS, max_tokens)
    for text, one in zip(TEXTS, found, strict=True):
        print(f"- {text} {one.text if isinstance(one, cloudai.ChatReply) else f'failed: {one}'}")
    print(f"{len(found)} texts in {time.perf_counter() - started:.1f} s")
    return [one.text for one in found if isinstance(one, cloudai.ChatReply)]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="of the configuration; its default if absent")
    parser.add_argument("--config", type=Path, default=HERE / "cloudai.toml")
    parser.add_argument("--max-tokens", type=int, default=1000)
    options = parser.parse_args()
    async with cloudai.AsyncClient(options.profile, config=options.config) as client:
        await run(client, options.max_tokens)


if __name__ == "__main__":
    asyncio.run(main())

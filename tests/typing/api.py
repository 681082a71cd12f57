"""What type checkers know of the interface: checked by pyright, never run."""

from __future__ import annotations

from typing import assert_type

import numpy as np
import numpy.typing as npt

from cloudai import (
    AsyncClient,
    BatchTransform,
    ChatReply,
    Client,
    EmbeddingReply,
    JobStatus,
    Model,
    TrainingJob,
    Usage,
)
from cloudai.client import AsyncJob, BatchJob, Endpoint, Job


def sync(client: Client, job: TrainingJob, batch: BatchTransform) -> None:
    reply = client.chat.create("hi", temperature=0.5)
    assert_type(reply, ChatReply)
    assert_type(reply.usage, Usage)
    for chunk in client.chat.stream([{"role": "user", "content": "hi"}]):
        assert_type(chunk.text, str)
    vectors = client.embeddings.create(["a"])
    assert_type(vectors, EmbeddingReply)
    assert_type(vectors.array, npt.NDArray[np.float32])
    handle = client.training.submit(job)
    assert_type(handle, Job)
    assert_type(handle.wait(timeout=3), JobStatus)
    assert_type(handle.model, Model)
    assert_type(client.batch.submit(batch), BatchJob)
    endpoint = client.endpoints.deploy(handle.model, name="x", handler="h.py")
    assert_type(endpoint, Endpoint)
    assert_type(client.attach("cloudai://x"), Job | BatchJob | Endpoint)


async def twin(client: AsyncClient, job: TrainingJob) -> None:
    assert_type(await client.chat.create("hi"), ChatReply)
    async for chunk in client.chat.stream("hi"):
        assert_type(chunk.text, str)
    handle = await client.training.submit(job)
    assert_type(handle, AsyncJob)
    assert_type(await handle.status, JobStatus)

"""Batch transforms: the neutral spec. Frozen values, no I/O."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from cloudai.errors import InvalidRequest
from cloudai.types._base import JSON, Seconds, SecretRef, check_name, check_positive, invalid
from cloudai.types.endpoints import Model
from cloudai.types.training import Resources, Retry

BatchFormat: TypeAlias = Literal["jsonl", "csv", "text"]


class BatchTransform(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch transform, on any provider: each line of the input gives one line of the output,
    in the input's order.

    Parameters
    ----------
    model, handler: what transforms, as for an endpoint; or
    endpoint: the name of a running endpoint; or
    chat: a chat model (``""`` is the profile's default): each line is text, or an object with
        ``prompt`` or ``messages``; or
    embeddings: an embedding model: each line is text, or an object with ``text``.
    input, output: a path or URI each. Output appears whole, when the batch has ended.
    format: of the input; None tells it by the name's ending (.jsonl .json .csv .txt). CSV has
        a header line; each row becomes an object of texts. The output is JSON Lines, and CSV
        where the output's name ends in .csv.
    params: for ``predict``, or chat and embedding parameters such as ``max_tokens``.
    join: ``input`` wraps each output line as ``{"input": …, "output": …}``.
    key: a field of each input object that is carried beside its output, as
        ``{"key": …, "output": …}``.
    batch_size: lines for one ``predict`` call at most. concurrency: calls under way at once.
    max_payload: bytes of one line at most.
    on_error: ``fail`` stops at the first bad line; ``skip`` writes ``null`` for it and goes on;
        ``dead_letter`` also writes it, with its error, to ``<output>.errors.jsonl``. With
        either, a batch with bad lines ends PARTIAL.
    shards: processes or machines that share the work.
    overwrite: True replaces an output that another batch wrote; False refuses.
    name, framework, image, requirements, env, secrets, resources, timeout, retry, tags,
    idempotency_key, native: as for a training job. A batch that was killed and is submitted
    again, with the same input and output, goes on where it was.
    """

    input: str
    output: str
    name: str | None = None
    model: str | Model | None = None
    handler: str | None = None
    endpoint: str | None = None
    chat: str | None = None
    embeddings: str | None = None
    format: BatchFormat | None = None
    params: dict[str, JSON] = {}
    join: Literal["none", "input"] = "none"
    key: str | None = None
    batch_size: int = 64
    concurrency: int = 8
    max_payload: int = 6_000_000
    on_error: Literal["fail", "skip", "dead_letter"] = "fail"
    shards: int = 1
    overwrite: bool = False
    framework: str = "pytorch"
    image: str | None = None
    requirements: str | None = None
    env: dict[str, str] = {}
    secrets: dict[str, SecretRef] = {}
    resources: Resources = Resources()
    timeout: Seconds | None = None
    retry: Retry = Retry(max=2)
    tags: dict[str, str] = {}
    idempotency_key: str | None = None
    native: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name("name", self.name)
        for field in ("batch_size", "concurrency", "max_payload", "shards", "timeout"):
            check_positive(field, getattr(self, field))
        for field in ("input", "output"):
            if not getattr(self, field):
                raise invalid(field, "", "is empty", "Give a path or a URI.")
        given = [
            field
            for field in ("model", "endpoint", "chat", "embeddings")
            if getattr(self, field) is not None
        ]
        if len(given) != 1:
            raise InvalidRequest(
                f"{' and '.join(given)} are given together"
                if given
                else "nothing that transforms the lines is given",
                field="model",
                value=given,
                hint="Give exactly one of model, endpoint, chat, embeddings.",
            )

    @property
    def model_uri(self) -> str | None:
        return self.model.uri if isinstance(self.model, Model) else self.model

    @property
    def errors_uri(self) -> str:
        """Where ``on_error="dead_letter"`` puts the bad lines."""
        return f"{self.output}.errors.jsonl"

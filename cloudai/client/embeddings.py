"""``client.embeddings``: texts into vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from cloudai._core.calls import threads
from cloudai._core.calls.texts import Texts
from cloudai.client._fallback import aask, ask
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.errors import UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.types import (
    EmbeddingReply,
    EmbeddingRequest,
    EmbeddingTask,
    RerankReply,
    RerankRequest,
)
from cloudai.types._base import check_encodable, check_positive, invalid


class Embeddings:
    """Embeddings on a profile. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def create(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
        task: EmbeddingTask | None = None,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> EmbeddingReply:
        """One vector a text, in the texts' order: ``reply.array`` is float32 of shape
        (texts, dim).

        Parameters
        ----------
        texts: one text, or several; none empty. Any number: what exceeds the vendor's limit is
            split into several requests.
        model: a logical name of the profile, or the vendor's own; None is the profile's
            ``default``, and locally the embedded model.
        dimensions: shorter vectors, where the model can.
        truncate: True cuts overlong texts to the model's limit; False makes them an error.
        task: what the vectors are for, where the model tells tasks apart.
        timeout: seconds, all retries included; None is the profile's.
        native: arguments of this provider alone.

        Falls back only to a profile in which ``model`` is the same model: vectors of two models
        cannot be compared.
        """
        first = self._runtime.binding("embeddings")
        request = _request(first, texts, model, dimensions, truncate, task, timeout, native)
        given = Texts(request)
        return ask(
            first,
            lambda: _same(self._runtime, first, model, request.model),
            lambda binding: _embed(binding, given, timeout),
        )

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        top_n: int | None = None,
        truncate: bool = False,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> RerankReply:
        """The documents in the order of their use for the query, by a cross-encoder, which reads
        query and document together: slower than vectors, and better on the best few of them.

        Parameters
        ----------
        query, documents: texts, none empty.
        model: a folder of a sequence classification model with one label (local).
        top_n: so many of the best; None is all.
        truncate: True cuts overlong documents to the model's limit; False makes them an error.
        timeout: seconds, all retries included; None is the profile's.
        native: arguments of this provider alone.

        Raises UnsupportedByProvider where the provider has no such models here. No other profile
        is asked: scores of two models cannot be compared.
        """
        binding = self._runtime.binding("embeddings")
        request = _ranking(binding, query, documents, model, top_n, truncate, timeout, native)
        caller = binding.caller
        return caller.run("rerank", partial(_rerank(binding), request), caller.call(timeout))


class AsyncEmbeddings:
    """Embeddings on a profile, under asyncio."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def create(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
        task: EmbeddingTask | None = None,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> EmbeddingReply:
        """See ``Embeddings.create``."""
        first = self._runtime.binding("embeddings")
        request = _request(first, texts, model, dimensions, truncate, task, timeout, native)
        given = Texts(request)
        return await aask(
            first,
            lambda: _same(self._runtime, first, model, request.model),
            lambda binding: _aembed(binding, given, timeout),
        )

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        top_n: int | None = None,
        truncate: bool = False,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> RerankReply:
        """See ``Embeddings.rerank``."""
        binding = self._runtime.binding("embeddings")
        request = _ranking(binding, query, documents, model, top_n, truncate, timeout, native)
        caller, rank = binding.caller, partial(_rerank(binding), request)
        return await caller.arun(
            "rerank", lambda call: threads.run(rank, call), caller.call(timeout)
        )


def _request(
    binding: CapabilityBinding,
    texts: str | Sequence[str],
    model: str | None,
    dimensions: int | None,
    truncate: bool,
    task: EmbeddingTask | None,
    timeout: float | None,
    native: dict[str, Any] | None,
) -> EmbeddingRequest:
    given = (texts,) if isinstance(texts, str) else tuple(texts)
    if not given:
        raise invalid("texts", texts, "is empty", "Give at least one text.")
    for index, text in enumerate(given):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid(f"texts[{index}]", text, f"is a {type(text).__name__}, not a text")
        if not text or text.isspace():
            raise invalid(f"texts[{index}]", text, "is empty", "Leave empty texts out.")
        if not text.isascii():
            check_encodable(text, f"texts[{index}]")
    check_encodable(model, "model")
    check_encodable(native, "native")
    check_positive("dimensions", dimensions)
    check_positive("timeout", timeout)
    return EmbeddingRequest(
        model=binding.profile.model(model),
        texts=given,
        dimensions=dimensions,
        truncate=truncate,
        task=task,
        native=native or {},
    )


def _embed(binding: CapabilityBinding, texts: Texts, timeout: float | None) -> EmbeddingReply:
    caller, adapter = binding.caller, binding.adapter
    call = caller.call(timeout)
    with caller.span("embeddings", texts.model):
        reply = texts.run(
            adapter,
            lambda part: caller.attempt(lambda call: adapter.embed(part, call), call, part.model),
        )
    return binding.priced(reply, texts.model)


async def _aembed(
    binding: CapabilityBinding, texts: Texts, timeout: float | None
) -> EmbeddingReply:
    caller, adapter = binding.caller, binding.adapter
    embed = getattr(adapter, "aembed", None) or partial(threads.run, adapter.embed)
    call = caller.call(timeout)
    with caller.span("embeddings", texts.model):
        reply = await texts.arun(
            adapter,
            lambda part: caller.aattempt(lambda call: embed(part, call), call, part.model),
        )
    return binding.priced(reply, texts.model)


def _same(
    runtime: Runtime, binding: CapabilityBinding, name: str | None, model: str
) -> Iterator[CapabilityBinding]:
    for other in runtime.fallbacks("embeddings", binding):
        if other.profile.model(name) == model:
            yield other


def _ranking(
    binding: CapabilityBinding,
    query: str,
    documents: Sequence[str],
    model: str | None,
    top_n: int | None,
    truncate: bool,
    timeout: float | None,
    native: dict[str, Any] | None,
) -> RerankRequest:
    if isinstance(documents, str):
        raise invalid("documents", documents, "is a text", "Give a list of texts.")
    if not documents:
        raise invalid("documents", documents, "is empty", "Give at least one text.")
    named = [("query", query), *((f"documents[{at}]", one) for at, one in enumerate(documents))]
    for field, text in named:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid(field, text, f"is a {type(text).__name__}, not a text")
        if not text.strip():
            raise invalid(field, text, "is empty", "Leave empty texts out.")
        check_encodable(text, field)
    check_encodable(model, "model")
    check_positive("top_n", top_n)
    check_positive("timeout", timeout)
    return RerankRequest(
        model=binding.profile.model(model),
        query=query,
        documents=tuple(documents),
        top_n=top_n,
        truncate=truncate,
        native=native or {},
    )


def _rerank(binding: CapabilityBinding) -> Callable[[RerankRequest, Call], RerankReply]:
    """The adapter's own. Raises UnsupportedByProvider where it has none."""
    found = getattr(binding.adapter, "rerank", None)
    if found is None:
        raise UnsupportedByProvider(
            "rerank",
            provider=binding.profile.provider,
            alternative='Rank by a cross-encoder on this machine (Client("local")), or by the '
            "vectors of embeddings.create",
        )
    return found

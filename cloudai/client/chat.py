"""``client.chat``: one answer, or a stream of its pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from cloudai._core.calls import threads
from cloudai.client._fallback import aask, ask
from cloudai.client._messages import Messages, messages
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.client._schema import Asked, response_schema
from cloudai.client._tools import ToolLike, tools
from cloudai.client.streams import AsyncChatStream, ChatStream, Opened
from cloudai.protocols import Call
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    ReasoningEffort,
)
from cloudai.types._base import check_encodable, check_positive, invalid
from cloudai.types.chat import check_tool_choice


class Chat:
    """Chat on a profile. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def create(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        tools: Sequence[ToolLike] = (),
        tool_choice: str | None = None,
        response_type: Any = None,
        repair: int = 0,
        reasoning: ReasoningEffort | None = None,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> ChatReply:
        """The model's answer.

        Parameters
        ----------
        messages: a text, a ``Message``, or a list of ``Message``s and OpenAI-style dicts.
        model: a logical name of the profile, or the vendor's own; None is the profile's
            ``default``, and locally the embedded model.
        system: a system prompt, put before the messages.
        temperature: 0 to 2. top_p: above 0, to 1. seed: for the same answer again, where the
            provider can. max_tokens: of the answer. stop: texts that end it.
        tools: ``Tool``s, functions with type hints, or OpenAI-style dicts.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` or a tool's name.
        response_type: a pydantic model, dataclass, TypedDict, any other type (a list, a literal,
            an enum, a union, a number …) or a JSON Schema; the answer is then in
            ``reply.parsed``.
        repair: how often the model is asked again, with its answer and what is wrong with it,
            when that does not fit ``response_type``; the usage and cost are those of all its
            answers.
        reasoning: how much effort the model spends on reasoning.
        timeout: seconds, all retries included; None is the profile's.
        native: arguments of this provider alone, passed on as they are.

        Raises InvalidRequest before anything is sent; else the error tree of ``cloudai.errors``.
        """
        build = _builder(locals())
        first = self._runtime.binding("chat")
        return ask(
            first,
            lambda: self._runtime.fallbacks("chat", first),
            lambda binding: _answer(binding, build(binding, first), timeout, response_type, repair),
        )

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        tools: Sequence[ToolLike] = (),
        tool_choice: str | None = None,
        response_type: Any = None,
        reasoning: ReasoningEffort | None = None,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> ChatStream:
        """The answer piece by piece; parameters as for ``create``.

        The request is sent when the first piece is asked for; until that piece has come, it is
        retried and falls back like any call. A stream that ends without its terminator raises
        StreamTruncated with what had come.
        """
        build = _builder(locals())
        first = self._runtime.binding("chat")
        build(first, first)  # a bad request is told here, not at the first piece

        def opened() -> Opened[Iterator[ChatChunk]]:
            return ask(
                first,
                lambda: self._runtime.fallbacks("chat", first),
                lambda binding: _open(binding, build(binding, first), timeout),
            )

        return ChatStream(opened, response_type)


class AsyncChat:
    """Chat on a profile, under asyncio."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def create(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        tools: Sequence[ToolLike] = (),
        tool_choice: str | None = None,
        response_type: Any = None,
        repair: int = 0,
        reasoning: ReasoningEffort | None = None,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> ChatReply:
        """See ``Chat.create``."""
        build = _builder(locals())
        first = self._runtime.binding("chat")
        return await aask(
            first,
            lambda: self._runtime.fallbacks("chat", first),
            lambda binding: _aanswer(
                binding, build(binding, first), timeout, response_type, repair
            ),
        )

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        tools: Sequence[ToolLike] = (),
        tool_choice: str | None = None,
        response_type: Any = None,
        reasoning: ReasoningEffort | None = None,
        timeout: float | None = None,
        native: dict[str, Any] | None = None,
    ) -> AsyncChatStream:
        """See ``Chat.stream``."""
        build = _builder(locals())
        first = self._runtime.binding("chat")
        build(first, first)

        async def opened() -> Opened[AsyncIterator[ChatChunk]]:
            return await aask(
                first,
                lambda: self._runtime.fallbacks("chat", first),
                lambda binding: _aopen(binding, build(binding, first), timeout),
            )

        return AsyncChatStream(opened, response_type)


def _builder(given: dict[str, Any]) -> Callable[..., ChatRequest]:
    """Checks what ``create`` and ``stream`` were given, and makes from it the request for a
    profile; for a fallback, with that profile's own name of the model."""
    said = messages(given["messages"], given["system"])
    for name, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0)):
        value = given[name]
        if value is not None and not low <= value <= high:
            raise invalid(name, value, f"is not between {low:g} and {high:g}")
    check_positive("top_p", given["top_p"])
    check_positive("max_tokens", given["max_tokens"])
    check_positive("timeout", given["timeout"])
    if given.get("repair", 0) < 0:
        raise invalid("repair", given["repair"], "is below 0")
    stop = given["stop"]
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(stops):
        raise invalid("stop", stop, "holds an empty text")
    offered = tools(given["tools"]) if given["tools"] else ()
    choice = given["tool_choice"]
    check_tool_choice(choice, offered, native=bool(given["native"]))
    kind = given["response_type"]
    schema = response_schema(kind) if kind is not None else None
    for field, value in (
        ("model", given["model"]),
        ("stop", stops),
        ("tools", offered),
        ("tool_choice", choice),
        ("response_type", schema),
        ("native", given["native"]),
    ):
        if value:
            check_encodable(value, field)

    def build(binding: CapabilityBinding, first: CapabilityBinding) -> ChatRequest:
        name: str | None = given["model"]
        if (
            binding.profile.provider != first.profile.provider
            and name not in binding.profile.models
        ):
            name = None  # a vendor's own name means nothing to another: take its default
        return ChatRequest(
            model=binding.profile.model(name),
            messages=said,
            temperature=given["temperature"],
            top_p=given["top_p"],
            seed=given["seed"],
            max_tokens=given["max_tokens"],
            stop=stops,
            tools=offered,
            tool_choice=choice,
            response_schema=schema,
            reasoning=given["reasoning"],
            native=given["native"] or {},
        )

    return build


def _answer(
    binding: CapabilityBinding,
    request: ChatRequest,
    timeout: float | None,
    kind: Any,
    repair: int,
) -> ChatReply:
    adapter, caller = binding.adapter, binding.caller
    call = caller.call(timeout)

    def ask(request: ChatRequest) -> ChatReply:
        reply = caller.run("chat", lambda call: adapter.create(request, call), call, request.model)
        return binding.priced(reply, request.model)

    if kind is None:
        return ask(request)
    asked = Asked(request, kind, repair)
    while (found := asked.taken(ask(asked.request))) is None:
        pass
    return found


async def _aanswer(
    binding: CapabilityBinding,
    request: ChatRequest,
    timeout: float | None,
    kind: Any,
    repair: int,
) -> ChatReply:
    adapter, caller = binding.adapter, binding.caller
    create = getattr(adapter, "acreate", None) or partial(threads.run, adapter.create)
    call = caller.call(timeout)

    async def ask(request: ChatRequest) -> ChatReply:
        reply = await caller.arun("chat", lambda call: create(request, call), call, request.model)
        return binding.priced(reply, request.model)

    if kind is None:
        return await ask(request)
    asked = Asked(request, kind, repair)
    while (found := asked.taken(await ask(asked.request))) is None:
        pass
    return found


def _open(
    binding: CapabilityBinding, request: ChatRequest, timeout: float | None
) -> Opened[Iterator[ChatChunk]]:
    def first(call: Call) -> Opened[Iterator[ChatChunk]]:
        chunks = binding.adapter.stream(request, call)
        return chunks, next(chunks, None), binding, binding.profile.prices.get(request.model)

    return binding.caller.run("chat.stream", first, binding.caller.call(timeout), request.model)


async def _aopen(
    binding: CapabilityBinding, request: ChatRequest, timeout: float | None
) -> Opened[AsyncIterator[ChatChunk]]:
    adapter = binding.adapter

    async def first(call: Call) -> Opened[AsyncIterator[ChatChunk]]:
        if hasattr(adapter, "astream"):
            chunks = adapter.astream(request, call)
        else:
            chunks = threads.iterate(adapter.stream(request, call))
        first = await anext(chunks, None)
        return chunks, first, binding, binding.profile.prices.get(request.model)

    return await binding.caller.arun(
        "chat.stream", first, binding.caller.call(timeout), request.model
    )

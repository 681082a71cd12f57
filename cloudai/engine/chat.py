"""Chat on this machine with PyTorch, from a Hugging Face directory, a GGUF file or the embedded
default model.

What it makes of a request's open fields:

- ``temperature`` None is 0, the likeliest token each time: the same request gives the same
  answer. Where ``top_p`` or ``native["top_k"]`` is given, None is 1.
- ``max_tokens`` None is 512, or what is left of the model's context if that is less.
- ``seed`` None is a fresh one for each request.
- Without a system message, ``SYSTEM`` is one: the embedded model answers 22 of 24 factual
  questions right with it and 17 with its own (measured 2026-11). An empty system message sends
  none.
- ``usage.output_tokens`` counts every token that the model made: the one that ends the answer,
  and those of a stop sequence, too.
- ``response_schema`` and ``tool_choice="required"`` (or a tool's name) hold the model to the
  schema token by token. An answer that ends with ``finish_reason="length"`` may still be cut
  short: bound its lists and texts with ``maxItems`` and ``maxLength``. The schema is not put
  into the prompt, which confuses small models; say there what the fields mean.
- ``native`` may hold ``dtype`` ("float32", "bfloat16", "float16"), ``top_k`` and
  ``repetition_penalty``.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai.engine import catalog, templates
from cloudai.engine import device as _device
from cloudai.engine.detokenizer import StopFilter, TextDecoder
from cloudai.engine.generation import ChatModel, Sampling
from cloudai.engine.grammar import Grammar
from cloudai.engine.pool import Held
from cloudai.errors import ContextOverflow, InvalidRequest, UnsupportedByProvider
from cloudai.formats.schemas import rewrite
from cloudai.formats.schemas.dialects import GRAMMAR
from cloudai.protocols import Call
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    FinishReason,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from cloudai.types._base import invalid, met, unknown

SYSTEM: Final = "You are a concise, factual assistant."
MAX_TOKENS: Final = 512
_NATIVE: Final = ("dtype", "top_k", "repetition_penalty")


class _Run(msgspec.Struct):
    """A checked request, ready to generate."""

    model: ChatModel
    name: str
    prompt: list[int]
    limit: int
    sampling: Sampling
    grammar: Grammar | None
    calls_tool: bool
    request: ChatRequest


class ChatModels:
    """Chat, as ``cloudai.protocols.Chat``. Models load on the first request and stay loaded
    until ``held`` is closed; threads share one copy and take turns token by token.

    Parameters
    ----------
    home: the folder in which converted models are kept.
    default: the model of requests that name none: a name, a folder or a GGUF file; ``""`` is the
        embedded one.
    device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None takes the best there is.
    held: what keeps the models loaded; one of its own where None.
    """

    def __init__(
        self, *, home: Path, default: str = "", device: str | None = None, held: Held | None = None
    ) -> None:
        self._home = home
        self._default = default
        self._device = device
        self._held = held if held is not None else Held()

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        """The whole answer.

        Raises ConfigError (no such model, device or file), ContextOverflow, InvalidRequest,
        UnsupportedByProvider, CallTimeout, CapacityError.
        """
        run = self._prepare(request, call)
        text: list[str] = []
        last = ChatChunk()
        calls: tuple[ToolCall, ...] = ()
        for last in _chunks(run, call):
            text.append(last.text)
            calls += tuple(
                ToolCall(id=piece.id or "", name=piece.name or "", arguments=piece.arguments)
                for piece in last.tool_calls
            )
        return ChatReply(
            text="".join(text),
            finish_reason=last.finish_reason or "stop",
            usage=last.usage or Usage(),
            model=run.name,
            provider="local",
            tool_calls=calls,
            cost=0.0,
        )

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        """The answer as it is made; what is wrong with the request is raised at once, before the
        first piece is asked for. Closing the iterator ends the work."""
        return _chunks(self._prepare(request, call), call)

    def _prepare(self, request: ChatRequest, call: Call) -> _Run:
        sampling = _sampling(request)
        tools = templates.chosen_tools(request)
        if request.reasoning not in (None, "none"):
            raise UnsupportedByProvider(
                f"reasoning={request.reasoning!r}",
                provider="local",
                alternative='Leave reasoning out or pass "none"; ask for steps in the prompt',
                field="reasoning",
            )
        if tools and request.response_schema:
            raise invalid(
                "response_schema",
                request.response_schema.name,
                "and a forced tool exclude each other",
                "Send one of the two.",
            )
        name = request.model or self._default
        found = catalog.find("chat", name, home=self._home)
        # Messages are checked before a model is loaded for them.
        told = templates.messages(request, tools=False)
        model = self._load(found, request.native.get("dtype"))
        if model.knows_tools:
            told = templates.messages(request, tools=True)
        prompt = _prompt(model, told, request, tools, call.remaining())
        limit = _room(model, found.name, len(prompt), request.max_tokens)
        grammar = None
        if tools:
            grammar = model.grammar(templates.call_schema(tools), "tools")
        elif request.response_schema:
            held = rewrite.fit(request.response_schema.schema, GRAMMAR).schema
            grammar = model.grammar(held, "response_schema")
        call.remaining()
        return _Run(
            model=model,
            name=found.name,
            prompt=prompt,
            limit=limit,
            sampling=sampling,
            grammar=grammar,
            calls_tool=bool(tools),
            request=request,
        )

    def _load(self, found: catalog.Found, dtype: Any) -> ChatModel:
        device = _device.pick(self._device)
        kind = str(dtype or _device.chat_dtype(device))
        _device.dtype(kind)
        home = self._home

        def make() -> ChatModel:
            return ChatModel(catalog.chat_folder(found, home), device, kind)

        key = ("chat", str(found.path), found.key, device, kind)
        return self._held.get(key, make)


def _chunks(run: _Run, call: Call) -> Iterator[ChatChunk]:
    decoder = TextDecoder(run.model.decode)
    stops = StopFilter(run.request.stop)
    made = 0
    finish: FinishReason = "length"
    written: list[str] = []
    emit = functools.partial(ChatChunk, model=run.name)
    steps = run.model.generate(
        run.prompt, limit=run.limit, sampling=run.sampling, call=call, grammar=run.grammar
    )
    for ids in steps:
        made += len(ids)
        ended = ids[-1] in run.model.ends or (run.grammar is not None and run.grammar.done)
        text = decoder.push([token for token in ids if token not in run.model.ends])
        text = stops.push(text)
        if text and run.calls_tool:
            written.append(text)
        elif text:
            yield emit(text=text)
        if stops.stopped or ended:
            finish = "stop"
            break
    # What was held back: an incomplete character, or the beginning of no stop sequence.
    text = stops.push(decoder.finish())
    if stops.stopped:
        finish = "stop"
    else:
        text += stops.finish()
    usage = Usage(input_tokens=len(run.prompt), output_tokens=made)
    if run.calls_tool:
        yield _tool_chunk("".join([*written, text]), finish, usage, run.name)
        return
    if text:
        yield emit(text=text)
    yield emit(finish_reason=finish, usage=usage, cost=0.0)


def _tool_chunk(text: str, finish: FinishReason, usage: Usage, name: str) -> ChatChunk:
    """The last chunk of a forced call; without the call where it was cut by ``max_tokens`` or a
    stop sequence."""
    try:
        called = msgspec.json.decode(text, type=met(templates.Called))
    except msgspec.DecodeError:
        return ChatChunk(finish_reason=finish, usage=usage, cost=0.0, model=name)
    piece = ToolCallDelta(
        index=0,
        id=f"call_{secrets.token_hex(8)}",
        name=called.name,
        arguments=bytes(called.arguments).decode(),
    )
    return ChatChunk(
        tool_calls=(piece,), finish_reason="tool_calls", usage=usage, cost=0.0, model=name
    )


def _prompt(
    model: ChatModel,
    told: list[dict[str, Any]],
    request: ChatRequest,
    tools: tuple[Any, ...],
    seconds: float,
) -> list[int]:
    words = templates.functions_in_words(tools) if tools and not model.knows_tools else ""
    shown = templates.functions(tools) if tools and model.knows_tools else []
    if told[0]["role"] == "system":
        own = [told[0]["content"], words]
        rest = told[1:]
    else:
        own = [SYSTEM, words]
        rest = told
    system = "\n\n".join(part for part in own if part)
    if not system:
        return model.render(rest, shown, seconds)
    try:
        return model.render([{"role": "system", "content": system}, *rest], shown, seconds)
    except InvalidRequest:
        if rest is not told or words:
            raise
        # Some templates (Gemma's) know no system message; ours is not worth an error.
        return model.render(rest, shown, seconds)


def _room(model: ChatModel, name: str, prompt: int, wanted: int | None) -> int:
    """How many tokens the answer may have. Raises ContextOverflow where they do not fit."""
    if model.context is None:
        return wanted or MAX_TOKENS
    needed = prompt + (wanted or 1)
    if needed > model.context:
        room = f" and max_tokens={wanted}" if wanted else ""
        raise ContextOverflow(
            f"the prompt of {prompt} tokens{room} needs {needed} tokens, and {name} holds "
            f"{model.context}",
            tokens=needed,
            limit=model.context,
            field="messages",
            provider="local",
            hint="Shorten the messages or lower max_tokens",
        )
    return wanted or min(MAX_TOKENS, model.context - prompt)


def _sampling(request: ChatRequest) -> Sampling:
    """How to choose tokens. Raises InvalidRequest for a value out of its range."""
    native = request.native
    for key in native:
        if key not in _NATIVE:
            raise InvalidRequest(
                str(unknown("key of native for local chat", key, _NATIVE)),
                field=f"native.{key}",
                value=native[key],
            )
    top_k = native.get("top_k", 0)
    penalty = native.get("repetition_penalty", 1.0)
    checks: tuple[tuple[str, Any, bool, str], ...] = (
        ("messages", request.messages, bool(request.messages), "at least one message"),
        ("temperature", request.temperature, _within(request.temperature, 0, 2), "0 to 2"),
        (
            "top_p",
            request.top_p,
            request.top_p is None or 0 < request.top_p <= 1,
            "above 0, to 1",
        ),
        (
            "max_tokens",
            request.max_tokens,
            request.max_tokens is None or request.max_tokens >= 1,
            "at least 1",
        ),
        ("stop", request.stop, all(request.stop), "texts that are not empty"),
        ("native.top_k", top_k, isinstance(top_k, int) and top_k >= 0, "a whole number from 0"),
        (
            "native.repetition_penalty",
            penalty,
            isinstance(penalty, int | float) and 0 < penalty <= 10,
            "above 0, to 10",
        ),
    )
    for field, value, good, range_ in checks:
        if not good:
            raise invalid(field, value, "is out of range", f"Give {range_}.")
    draws = request.top_p is not None or top_k > 0
    temperature = request.temperature
    if temperature is None:
        temperature = 1.0 if draws else 0.0
    return Sampling(
        temperature=temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=top_k,
        repetition_penalty=float(penalty),
        seed=request.seed,
    )


def _within(value: float | None, low: float, high: float) -> bool:
    return value is None or low <= value <= high

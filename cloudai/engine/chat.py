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
- ``tools`` with ``tool_choice`` None or ``"auto"``: the model answers in text, calls tools, or
  both, in the format of its own chat template (``calls``); a call that it begins is held to the
  tool's schema. A model whose template knows no tools is told of them in the system message.
- ``reasoning`` is the switch of the model's chat template (``enable_thinking`` as in Qwen3, or
  ``reasoning_effort``); None leaves a model with a switch without reasoning. What it thinks comes
  as ``reasoning``; then ``max_tokens`` None is 4096.
- ``native`` may hold ``dtype`` ("float32", "bfloat16", "float16"), ``top_k``,
  ``repetition_penalty``, ``presence_penalty`` and ``frequency_penalty`` (OpenAI's, -2 to 2).

Longer than other modules: a request's fields, its prompt and its answer name each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai.engine import adapters, calls, catalog, templates
from cloudai.engine import device as _device
from cloudai.engine.answers import Answer, called
from cloudai.engine.calls import Style, Think
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
    Reasoning,
    Tool,
    Usage,
)
from cloudai.types._base import invalid, unknown

SYSTEM: Final = "You are a concise, factual assistant."
MAX_TOKENS: Final = 512
MAX_TOKENS_THINKING: Final = 4096
_TAIL: Final = 8
"""Tokens at a prompt's end among which a template may have begun the reasoning."""
_NATIVE: Final = (
    "dtype", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


class _Run(msgspec.Struct):
    """A checked request, ready to generate."""

    model: ChatModel
    name: str
    prompt: list[int]
    limit: int
    sampling: Sampling
    grammar: Grammar | None
    answer: Answer


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
    memory: for keys and values, as ``generation.ChatModel`` has it.
    """

    def __init__(
        self,
        *,
        home: Path,
        default: str = "",
        device: str | None = None,
        held: Held | None = None,
        memory: float | None = None,
    ) -> None:
        self._home = home
        self._default = default
        self._device = device
        self._memory = memory
        self._held = held if held is not None else Held()

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        """The whole answer.

        Raises ConfigError (no such model, device or file), ContextOverflow, InvalidRequest,
        UnsupportedByProvider, CallTimeout, CapacityError.
        """
        return whole(list(self.stream(request, call)))

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        """The answer as it is made; what is wrong with the request is raised at once, before the
        first piece is asked for. Closing the iterator ends the work."""
        return _chunks(self._prepare(request, call), call)

    def together(self, request: ChatRequest) -> int:
        """How many answers of the request's model are made at once; loads it."""
        found = catalog.find("chat", request.model or self._default, home=self._home)
        engine = self._load(found, request.native.get("dtype")).engine
        return 1 if engine is None else engine.runner.store.most

    def _prepare(self, request: ChatRequest, call: Call) -> _Run:
        sampling = _sampling(request)
        tools, forced = calls.chosen(request)
        if forced and request.response_schema:
            raise invalid(
                "response_schema",
                request.response_schema.name,
                "and a forced tool exclude each other",
                "Send one of the two.",
            )
        name = request.model or self._default
        found = catalog.find("chat", name, home=self._home)
        # Messages are checked before a model is loaded for them.
        templates.messages(request, tools=False)
        model = self._load(found, request.native.get("dtype"))
        style = model.style
        held = forced or request.response_schema is not None
        switches, think = _thinking(request, style, held)
        prompt = _prompt(model, request, tools, forced, switches, call.remaining())
        if style.think and model.text(prompt[-_TAIL:]).rstrip().endswith(style.think[0]):
            # The template has begun the reasoning.
            if think != "may" or request.reasoning == "none":
                prompt += model.encode(f"\n{style.think[1]}\n\n")
                think = ""
            else:
                think = "opened"
        usual = MAX_TOKENS_THINKING if think else MAX_TOKENS
        limit = _room(model, found.name, len(prompt), request.max_tokens, usual)
        grammar = _grammar(model, request, tools, forced, think)
        call.remaining()
        return _Run(
            model=model,
            name=found.name,
            prompt=prompt,
            limit=limit,
            sampling=sampling,
            grammar=grammar,
            answer=Answer(
                model.decode,
                found.name,
                request.stop,
                style,
                calls=(style.calls or "tags") if tools else None,
                forced=forced,
                think=think,
            ),
        )

    def _load(self, found: catalog.Found, dtype: Any) -> ChatModel:
        device = _device.pick(self._device)
        kind = str(dtype or _device.chat_dtype(device))
        _device.dtype(kind)
        home = self._home

        def make() -> ChatModel:
            folder = catalog.chat_folder(found, home)
            base = None
            if adapters.is_adapter(folder):
                named = catalog.find("chat", adapters.base_of(folder), home=home)
                base = self._load(named, dtype)
            return ChatModel(
                folder, device, kind, base, compiled=home / "compiled", memory=self._memory
            )

        key = ("chat", str(found.path), found.key, device, kind)
        return self._held.get(key, make)


def _chunks(run: _Run, call: Call) -> Iterator[ChatChunk]:
    made = 0
    finish: FinishReason = "length"
    steps = run.model.generate(
        run.prompt, limit=run.limit, sampling=run.sampling, call=call, grammar=run.grammar
    )
    for ids in steps:
        made += len(ids)
        yield from run.answer.push([token for token in ids if token not in run.model.ends])
        if run.answer.stopped or ids[-1] in run.model.ends:
            finish = "stop"
            break
    else:
        # Until the last step the grammar is the engine's own.
        if run.grammar is not None and run.grammar.done:
            finish = "stop"
    yield from run.answer.finish(cut=finish == "length")
    if run.answer.stopped:
        finish = "stop"
    if run.answer.called and finish == "stop":
        finish = "tool_calls"
    usage = Usage(
        input_tokens=len(run.prompt),
        output_tokens=made,
        reasoning_tokens=run.answer.reasoning_tokens,
    )
    yield ChatChunk(finish_reason=finish, usage=usage, cost=0.0, model=run.name)


def whole(chunks: Sequence[ChatChunk]) -> ChatReply:
    """The answer whose chunks these are, to the last."""
    last = chunks[-1]
    thought = "".join([chunk.reasoning for chunk in chunks])
    return ChatReply(
        text="".join([chunk.text for chunk in chunks]),
        finish_reason=last.finish_reason or "stop",
        usage=last.usage or Usage(),
        model=last.model or "",
        provider="local",
        tool_calls=called(chunks),
        reasoning=(Reasoning(text=thought, provider="local"),) if thought else (),
        cost=0.0,
    )


def _thinking(request: ChatRequest, style: Style, held: bool) -> tuple[dict[str, Any], Think]:
    """The template's variables for the reasoning that was asked for, and whether any may come.

    Raises UnsupportedByProvider where the model has no switch for it and does not reason by
    itself.
    """
    wanted = request.reasoning not in (None, "none")
    if wanted and style.think is None:
        raise UnsupportedByProvider(
            f"reasoning={request.reasoning!r}",
            provider="local",
            alternative='Leave reasoning out or pass "none"; ask for steps in the prompt, or name '
            "a model whose chat template has <think>",
            field="reasoning",
        )
    if style.switch == "enable_thinking":
        # A model that has the switch does not reason unless it is asked to.
        return {"enable_thinking": wanted}, "may" if wanted else ""
    may: Think = "may" if style.think is not None and (wanted or not held) else ""
    if style.switch == "reasoning_effort" and request.reasoning is not None:
        return {"reasoning_effort": request.reasoning}, may
    return {}, may


def _grammar(
    model: ChatModel, request: ChatRequest, tools: tuple[Tool, ...], forced: bool, think: Think
) -> Grammar | None:
    """What the answer is held to; None for free text."""
    if forced:
        schema, field = calls.call_schema(tools), "tools"
    elif request.response_schema:
        schema = rewrite.fit(request.response_schema.schema, GRAMMAR).schema
        field = "response_schema"
    elif tools:
        how = model.style.calls or "tags"
        return model.grammar(calls.grammar(tools, how, model.style, think), "tools")
    else:
        return None
    return model.grammar(
        calls.thinking_json(schema, model.style, think) if think else schema, field
    )


def _prompt(
    model: ChatModel,
    request: ChatRequest,
    tools: tuple[Tool, ...],
    forced: bool,
    switches: dict[str, Any],
    seconds: float,
) -> list[int]:
    style = model.style
    # A forced call is JSON alone, in whatever format the template has the model write calls.
    knows = "tools" in model.template if forced or not tools else style.calls is not None
    told = templates.messages(request, tools=knows, thoughts=style.thoughts)
    words = calls.in_words(tools, forced=forced) if tools and not knows else ""
    shown = calls.functions(tools) if tools and knows else []
    if told[0]["role"] == "system":
        own = [told[0]["content"], words]
        rest = told[1:]
    else:
        own = [SYSTEM, words]
        rest = told
    system = "\n\n".join(part for part in own if part)
    if not system:
        return model.render(rest, shown, seconds, switches)
    whole = [{"role": "system", "content": system}, *rest]
    try:
        return model.render(whole, shown, seconds, switches)
    except InvalidRequest:
        if rest is not told or words:
            raise
        # Some templates (Gemma's) know no system message; ours is not worth an error.
        return model.render(rest, shown, seconds, switches)


def _room(model: ChatModel, name: str, prompt: int, wanted: int | None, usual: int) -> int:
    """How many tokens the answer may have. Raises ContextOverflow where they do not fit."""
    if model.context is None:
        return wanted or usual
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
    return wanted or min(usual, model.context - prompt)


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
        *(
            (
                f"native.{name}",
                native.get(name),
                isinstance(native.get(name, 0), int | float) and -2 <= native.get(name, 0) <= 2,
                "-2 to 2",
            )
            for name in ("presence_penalty", "frequency_penalty")
        ),
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
        presence_penalty=float(native.get("presence_penalty", 0)),
        frequency_penalty=float(native.get("frequency_penalty", 0)),
        seed=request.seed,
    )


def _within(value: float | None, low: float, high: float) -> bool:
    return value is None or low <= value <= high

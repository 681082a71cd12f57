"""A chat model: OpenAI's chat completions in, the engine of ``client.chat`` behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.state.home import default_home
from cloudai.errors import CallTimeout, CloudAIError
from cloudai.formats.openai import completion as openai
from cloudai.protocols import Call
from cloudai.server.predictors.base import failure
from cloudai.server.predictors.completions import request_of
from cloudai.server.predictors.inputs import decode_inputs, decode_params
from cloudai.server.workers.wire import Item, Options, Result
from cloudai.types import ChatChunk, ChatRequest, Message, Usage
from cloudai.types._base import invalid

_encode = msgspec.json.encode

_PREDICT_PARAMS: Final = ("temperature", "top_p", "seed", "max_tokens", "stop")


class ChatPredictor:
    """A chat model. Requests are answered together; each worker holds one model."""

    def __init__(self, folder: Path, options: Options) -> None:
        from cloudai.engine.chat import ChatModels

        self._chat = ChatModels(home=default_home(), device=options.device)
        self._folder = str(folder)
        self._together = 1
        self._native = {} if options.dtype == "auto" else {"dtype": options.dtype}

    def info(self) -> dict[str, Any]:
        return {
            "predictor": "chat",
            "output_schema": {"type": "string"},
            "together": self._together,
        }

    def warm(self) -> None:
        request = ChatRequest(
            model=self._folder,
            messages=(Message("user", "Hello"),),
            max_tokens=1,
            native=dict(self._native),
        )
        self._chat.create(request, Call())
        self._together = self._chat.together(request)

    def run(self, items: Sequence[Item]) -> list[Result]:
        return [self.answer(item, lambda: True) for item in items]

    def stream(self, item: Item, emit: Callable[[bytes], bool]) -> Result:
        """Sends OpenAI's chunks; ends early when ``emit`` says that nobody reads any more."""
        try:
            asked = openai.read(item.inputs)
            request = self._request(asked)
            head = openai.head("chat.completion.chunk", asked.model)
            said: dict[str, Any] = {"role": "assistant"}
            spent = Usage()
            for chunk in self._chat.stream(request, Call()):
                said |= openai.delta(chunk)
                choices = openai.choices(said, chunk.finish_reason)
                if not emit(openai.event({**head, "choices": choices})):
                    return Result(499, error="the client left", error_type="Cancelled")
                said = {}
                spent = chunk.usage or spent
            if asked.usage:
                emit(openai.event({**head, "choices": [], "usage": openai.usage(spent)}))
        except CloudAIError as error:
            return _failed(error)
        return Result(tokens=spent.input_tokens, generated=spent.output_tokens)

    def answer(self, item: Item, wanted: Callable[[], bool]) -> Result:
        from cloudai.engine.chat import whole

        try:
            if item.kind != "chat":
                return self._predict(item)
            asked = openai.read(item.inputs)
            chunks: list[ChatChunk] = []
            for chunk in self._chat.stream(self._request(asked), Call()):
                if not wanted():
                    return Result(499, error="the client left", error_type="Cancelled")
                chunks.append(chunk)
            reply = whole(chunks)
        except CloudAIError as error:
            return _failed(error)
        return Result(
            body=_encode(openai.completion(asked.model, reply)),
            tokens=reply.usage.input_tokens,
            generated=reply.usage.output_tokens,
        )

    def _predict(self, item: Item) -> Result:
        """Plain inputs, a text or an object with ``messages`` each: a text each."""
        params = decode_params(item.params)
        for name in params:
            if name not in _PREDICT_PARAMS:
                raise invalid(
                    f"params.{name}", params[name], f"is not one of {', '.join(_PREDICT_PARAMS)}"
                )
        asked: list[ChatRequest] = []
        for at, value in enumerate(decode_inputs(item)):
            if isinstance(value, str):
                value = {"messages": [{"role": "user", "content": value}]}
            if not isinstance(value, dict) or "messages" not in value:
                raise invalid(f"inputs[{at}]", value, "is neither a text nor has messages")
            body = _encode({"model": "", **params, "messages": value["messages"]})
            asked.append(self._request(openai.read(body)))
        result = Result()
        with ThreadPoolExecutor(max(1, min(len(asked), self._together))) as threads:
            for reply in threads.map(lambda one: self._chat.create(one, Call()), asked):
                result.outputs.append(_encode(reply.text))
                result.tokens += reply.usage.input_tokens
                result.generated += reply.usage.output_tokens
        return result

    def _request(self, asked: openai.Completion) -> ChatRequest:
        return request_of(asked, self._folder, dict(self._native))


def _failed(error: CloudAIError) -> Result:
    if isinstance(error, CallTimeout):
        return Result(504, error=str(error), error_type=type(error).__name__)
    return failure(error)

"""Predictions: request by request, and streamed; how a stream that breaks off is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Final, NoReturn

import msgspec

from cloudai._core.calls import threads
from cloudai.client._runtime import CapabilityBinding
from cloudai.errors import StreamTruncated, TransientError
from cloudai.protocols import Call
from cloudai.types import Prediction, PredictRequest
from cloudai.types._base import check_encodable

_KEPT: Final = 1 << 20
"""Bytes of what had come that a StreamTruncated carries: the last ones."""


def predicted(
    binding: CapabilityBinding, id: str, request: PredictRequest, timeout: float | None
) -> Prediction:
    """One output an input. An adapter whose service takes less than all inputs at once has
    ``parts(id, request, call)``: each part is paced and tried again for itself, so that what was
    answered is never paid twice."""
    caller, adapter = binding.caller, binding.adapter
    operation, call = "endpoints.predict", caller.call(timeout)

    def ask(part: PredictRequest) -> Prediction:
        try:
            return caller.attempt(lambda call: adapter.predict(id, part, call), call, operation)
        except UnicodeEncodeError:  # looked for only now: inputs may be large
            check_encodable(request.inputs, "inputs")
            check_encodable(request.params, "params")
            raise

    with caller.span(operation, ""):
        parts = getattr(adapter, "parts", None)
        if parts is None or len(request.inputs) < 2:
            return ask(request)
        made = caller.attempt(lambda call: parts(id, request, call), call, operation)
        answers = [ask(part) for part in made]
    outputs = [output for answer in answers for output in answer.outputs]
    return msgspec.structs.replace(answers[0], outputs=outputs)


class _Came:
    """What has come so far."""

    def __init__(self, binding: CapabilityBinding, id: str) -> None:
        self._provider = binding.profile.provider
        self._id = id
        self._last = bytearray()
        self._count = 0

    def add(self, piece: bytes) -> bytes:
        self._count += len(piece)
        self._last += piece
        if len(self._last) > 2 * _KEPT:
            del self._last[:-_KEPT]
        return piece

    def cut(self, error: TransientError) -> NoReturn:
        if not self._count:
            raise error
        raise StreamTruncated(
            f"the answer of {self._id!r} broke off after {self._count} bytes ({error.message})",
            text=self._last[-_KEPT:].decode("utf-8", "replace"),
            provider=self._provider,
            request_id=error.request_id,
            hint="What had come is in .text",
        ) from error


def pieces(
    binding: CapabilityBinding, id: str, request: PredictRequest, timeout: float | None
) -> Generator[bytes]:
    """The answer piece by piece; tried again until the first piece, after it never."""
    came = _Came(binding, id)
    source, piece = _opened(binding, id, request, timeout)
    try:
        while piece is not None:
            yield came.add(piece)
            piece = next(source, None)
    except TransientError as error:
        came.cut(error)
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


async def apieces(
    binding: CapabilityBinding, id: str, request: PredictRequest, timeout: float | None
) -> AsyncGenerator[bytes]:
    """The same, under asyncio."""
    came = _Came(binding, id)
    source, piece = await threads.run(_opened, binding, id, request, timeout)
    if piece is None:
        return
    rest = threads.iterate(source)
    try:
        yield came.add(piece)
        async for piece in rest:
            yield came.add(piece)
    except TransientError as error:
        came.cut(error)
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()


def _opened(
    binding: CapabilityBinding, id: str, request: PredictRequest, timeout: float | None
) -> tuple[Iterator[bytes], bytes | None]:
    ask = getattr(binding.adapter, "stream", None)
    if ask is None:
        answer = predicted(binding, id, request, timeout)
        return iter(()), msgspec.json.encode({"predictions": answer.outputs})

    def first(call: Call) -> tuple[Iterator[bytes], bytes | None]:
        source: Iterator[bytes] = ask(id, request, call)
        return source, next(source, None)

    return binding.caller.run("endpoints.stream", first, binding.caller.call(timeout))

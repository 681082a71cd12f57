"""What the front and its workers say to each other over a socket pair: length-prefixed
MessagePack. Inputs and outputs travel as the JSON bytes they came in and go out as, so that the
front neither decodes inputs nor encodes outputs."""

from __future__ import annotations

import struct
from typing import Any, Final, Literal, TypeAlias

import msgspec

HEADER: Final = struct.Struct(">I")

BASE64: Final = "base64"
"""What an ``Item`` accepts where vectors are wanted as base64 of little-endian float32."""

ItemKind: TypeAlias = Literal["json", "lines", "csv", "npy", "image", "tensors", "raw", "chat"]


class Item(msgspec.Struct, array_like=True):
    """One request, or a part of one.

    Parameters
    ----------
    kind: how ``inputs`` is written: a JSON array, JSON Lines, CSV, NumPy's format, an image, a
        list of ``tensors``, a whole body for SageMaker's functions, or an OpenAI chat request.
    inputs: the bytes. params: a JSON object. count: how many inputs, as the front counted.
    content_type, accept: of the request, for ``raw``, ``csv`` and NumPy's format; for tensors
        ``accept`` is which of them are wanted.
    stream: a chat's answer goes out piece by piece.
    """

    kind: ItemKind
    inputs: bytes
    params: bytes = b"{}"
    count: int = 1
    content_type: str = "application/json"
    accept: str = "application/json"
    stream: bool = False


class Result(msgspec.Struct, array_like=True):
    """The answer to one ``Item``.

    Parameters
    ----------
    status: 200, or the HTTP status of ``error``. outputs: one JSON value each.
    body, content_type: the whole answer, where the worker encoded it. head: of an answer in
        tensors, the bytes of JSON before the binary data.
    error, error_type, field: the message, the error's class name, and what of a body is wrong.
    confidences: of the outputs that have one. long: inputs with too many characters.
    tokens: counted in the inputs of a text model. generated: tokens that a chat model wrote.
    """

    status: int = 200
    outputs: list[bytes] = []
    body: bytes = b""
    content_type: str = "application/json"
    error: str = ""
    error_type: str = ""
    confidences: list[float] = []
    long: int = 0
    tokens: int = 0
    generated: int = 0
    head: int = 0
    field: str = ""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker gets told. ``device`` and ``dtype`` are for models without a handler; a
    handler finds the device in CLOUDAI_DEVICE."""

    path: str
    handler: str | None = None
    predictor: str = "auto"
    device: str | None = None
    dtype: str = "auto"
    max_batch: int = 64
    long_input: int = 1000
    pixels: int = 25_000_000


class Work(msgspec.Struct, array_like=True, tag=True):
    """Front → worker: a batch."""

    id: int
    items: list[Item]


class Cancel(msgspec.Struct, array_like=True, tag=True):
    """Front → worker: nobody waits any more for the batch."""

    id: int


class Ready(msgspec.Struct, array_like=True, tag=True):
    """Worker → front: the model is loaded and warm."""

    info: dict[str, Any]


class Failed(msgspec.Struct, array_like=True, tag=True):
    """Worker → front: the model cannot be loaded; another try would end alike."""

    message: str


class Chunk(msgspec.Struct, array_like=True, tag=True):
    """Worker → front: a piece of a streamed answer."""

    id: int
    data: bytes


class Done(msgspec.Struct, array_like=True, tag=True):
    """Worker → front: a batch's answers, in its order, and the seconds that it took."""

    id: int
    results: list[Result]
    seconds: float


ToWorker: TypeAlias = Work | Cancel
FromWorker: TypeAlias = Ready | Failed | Chunk | Done

_encoder = msgspec.msgpack.Encoder()
to_worker = msgspec.msgpack.Decoder(ToWorker)
from_worker = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytearray:
    """The message as it goes over the socket."""
    whole = bytearray(HEADER.size)
    _encoder.encode_into(message, whole, HEADER.size)
    HEADER.pack_into(whole, 0, len(whole) - HEADER.size)
    return whole


class Buffer:
    """Cuts what a socket gives into messages' bodies. Vectors come by the megabyte, so nothing is
    copied but a message that comes in several pieces, once."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = HEADER.size

    def feed(self, data: bytes) -> list[memoryview]:
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []
        whole = data if len(self._pieces) == 1 else b"".join(self._pieces)
        view = memoryview(whole)
        bodies: list[memoryview] = []
        start = 0
        self._needed = HEADER.size
        while len(whole) - start >= HEADER.size:
            (size,) = HEADER.unpack_from(whole, start)
            end = start + HEADER.size + size
            if len(whole) < end:
                self._needed = end - start
                break
            bodies.append(view[start + HEADER.size : end])
            start = end
        self._size = len(whole) - start
        self._pieces = [whole[start:]] if self._size else []
        return bodies

"""Answers in pieces: server-sent events, JSON Lines, or bytes as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from cloudai.server.http.errors import Broken, HTTPError
from cloudai.server.http.messages import (
    Headers,
    Request,
    Response,
    error_about,
    header_value,
)
from cloudai.server.inference import Inference
from cloudai.server.models import ServedModel
from cloudai.server.tracing import Mark
from cloudai.server.workers.wire import Item, Result

MAX_BACKLOG: Final = 16 << 20
"""Bytes of pieces that wait for a client which reads too slowly; then its stream is ended."""


class Form(msgspec.Struct, frozen=True):
    """How pieces go out.

    Parameters
    ----------
    content_type: of the answer. before, after: what stands around each piece.
    end: what follows the last one. error_before: what stands before an error.
    broken: an error also breaks the connection off, since nothing else in this form would
        tell a client that the answer is not whole.
    """

    content_type: bytes
    before: bytes = b""
    after: bytes = b""
    end: bytes = b""
    error_before: bytes = b""
    broken: bool = True


CHAT: Final = Form(
    b"text/event-stream", end=b"data: [DONE]\n\n", error_before=b"data: ", broken=False
)
"""A chat model's pieces, which are events already."""

EVENTS: Final = Form(
    b"text/event-stream", b"data: ", b"\n\n", b"data: [DONE]\n\n", b"data: ", broken=False
)
LINES: Final = Form(b"application/jsonlines", after=b"\n")


def plain(content_type: str) -> Form:
    """Bytes as they come; no error is written among them."""
    return Form(header_value(content_type))


async def respond(
    inference: Inference, request: Request, model: ServedModel, item: Item, form: Form
) -> Response:
    """The answer to one item, in pieces. The head waits for the first piece, so that an error
    which comes before it is an answer with its own status.

    The request's deadline is that of the first piece; after it the client decides.
    """
    variant = inference.variant(request, model)
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
    waiting = 0

    def take(piece: bytes) -> None:
        nonlocal waiting
        waiting += len(piece)
        if waiting <= MAX_BACKLOG:
            pieces.put_nowait(piece)
        elif not future.done():
            future.set_result(Result(499, error="it was read too slowly", error_type="Cancelled"))

    marks: list[Mark] | None = None if request.span is None else []
    submitted = time.time_ns()
    (future,) = variant.group.submit([item], request.deadline, request.has_left, take, marks)
    future.add_done_callback(lambda _: pieces.put_nowait(None))
    timer = loop.call_at(request.deadline, pieces.put_nowait, None)
    try:
        first = await pieces.get()
    except asyncio.CancelledError:
        future.cancel()
        raise
    finally:
        timer.cancel()
    if first is None:
        if not future.done():
            future.cancel()
            raise HTTPError(504, "no answer came within the request's time")
        result = future.result()
        inference.count(model, variant, [item], [result], request)
        if result.status != 200:
            raise inference.error_of(result, request)
        return Response(form.end, content_type=form.content_type)

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal waiting
        piece: bytes | None = first
        try:
            while piece is not None:
                waiting -= len(piece)
                yield form.before + piece + form.after
                piece = await pieces.get()
            result = future.result()
            inference.count(model, variant, [item], [result], request)
            if result.status == 200:
                yield form.end
                return
            # No terminator: the client must not take a broken stream for a whole one.
            error = inference.error_of(result, request)
            if form.after or form.error_before:
                body = msgspec.json.encode(
                    {"error": error_about(request, error.status or 500, error)}
                )
                yield form.error_before + body + (form.after or b"\n\n")
            if form.broken:
                raise Broken
        finally:
            future.cancel()
            if marks and inference.tracing is not None:
                inference.tracing.stages(request, submitted, marks)

    return Response(
        content_type=form.content_type,
        headers=_HEADERS,
        stream=events(),
    )


# Proxies (nginx's of many ingresses) would else keep the pieces until the answer is whole.
_HEADERS: Final[Headers] = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]

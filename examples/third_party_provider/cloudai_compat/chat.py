"""Chat by ``POST /chat/completions``."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPResponse

from cloudai import Profile
from cloudai.formats import openai
from cloudai.formats.sse import Lines
from cloudai.protocols import Call
from cloudai.types import ChatChunk, ChatReply, ChatRequest
from cloudai_compat._http import PROVIDER, asked, passing

DIALECT = openai.Dialect(provider=PROVIDER)


class CompatChat:
    """The adapter: called with a profile, it implements ``cloudai.protocols.Chat``."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        body = openai.body(request, request.model, DIALECT, stream=False)
        with asked(self._profile, "/chat/completions", body, call) as response:
            with passing():
                data = response.read()
            return openai.reply(data, service(request, response))

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        body = openai.body(request, request.model, DIALECT, stream=True)
        with asked(self._profile, "/chat/completions", body, call) as response:
            chunks, lines = openai.Chunks(service(request, response)), Lines()
            while not chunks.done:
                with passing():
                    piece = response.read1()
                for data in lines.feed(piece) if piece else lines.end():
                    chunk = chunks.read(data)
                    if chunk is not None:
                        yield chunk
                if not piece:
                    return  # the client tells that it ended without its end


def service(request: ChatRequest, response: HTTPResponse) -> openai.Service:
    """Who answers, for replies and errors."""
    id = response.getheader("x-request-id")
    return openai.Service(provider=PROVIDER, model=request.model, request_id=id)

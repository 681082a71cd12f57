"""Server-sent events as OpenAI's API writes them: one line of JSON an event, ``[DONE]`` last."""

from __future__ import annotations


class Lines:
    """Cuts bytes into the payloads of ``data:`` lines, however the network cut them."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads that ``piece`` completes."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        # Comments, event names and the blank lines between events say nothing here.
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

"""From an answer's tokens to its pieces, as they come: text, reasoning, and calls of tools."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from cloudai.engine.calls import CLOSE, OPEN, CallFormat, Style, Think
from cloudai.engine.detokenizer import StopFilter, TextDecoder, overlap
from cloudai.types import ChatChunk, ToolCall, ToolCallDelta

_HEAD: Final = re.compile(
    r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_NAMED: Final = re.compile(r"([\w.-]+)(?:\[CALL_ID\]\w+)?\s*(?:\[ARGS\])?\s*(?=\{)")
_BETWEEN: Final = " \n\r\t[],;"
"""What stands between calls: of a list, and Llama's semicolon."""


def called(chunks: Sequence[ChatChunk]) -> tuple[ToolCall, ...]:
    """The calls whose pieces came to their end."""
    made: dict[int, list[ToolCallDelta]] = {}
    for piece in (piece for chunk in chunks for piece in chunk.tool_calls):
        made.setdefault(piece.index, []).append(piece)
    found: list[ToolCall] = []
    for pieces in made.values():
        arguments = "".join([piece.arguments for piece in pieces])
        try:
            msgspec.json.decode(arguments)
        except msgspec.DecodeError:
            continue  # cut by max_tokens or a stop sequence
        found.append(ToolCall(pieces[0].id or "", pieces[0].name or "", arguments))
    return tuple(found)


Piece: TypeAlias = tuple[str, str | ToolCallDelta]
"""``"text"``, ``"reasoning"`` or ``"call"``, and the piece."""


class Answer:
    """One answer under way.

    Parameters
    ----------
    decode: gives the text of tokens. model: its name, for the pieces.
    style: how the model writes. calls: the format to read calls in; None: no tools were offered.
    forced: whether the answer is a call's JSON and nothing else.
    think: whether it may begin with reasoning.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        model: str,
        stops: Sequence[str],
        style: Style,
        *,
        calls: CallFormat | None = None,
        forced: bool = False,
        think: Think = "",
    ) -> None:
        self._decoder = TextDecoder(decode)
        self._stops = StopFilter(stops)
        self._model = model
        self._marks = style.marks
        plain = calls is None and not think
        self._reader = None if plain else Reader(calls, style.think, forced=forced, think=think)
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence has come."""
        return self._stops.stopped

    @property
    def called(self) -> bool:
        """Whether a tool was called, and the call is whole."""
        return self._reader is not None and self._reader.whole > 0

    def push(self, ids: Sequence[int]) -> list[ChatChunk]:
        """Takes further tokens, without those that end the answer; gives what is certain now."""
        if self._reader is None:
            return self._read(self._stops.push(self._text(ids)))
        made: list[ChatChunk] = []
        for token in ids:  # one by one, so that those of the reasoning are counted
            self.reasoning_tokens += self._reader.thinking
            made += self._read(self._stops.push(self._text([token])))
        return made

    def finish(self, *, cut: bool) -> list[ChatChunk]:
        """What was held back: an incomplete character, or the beginning of what never came.

        Parameters
        ----------
        cut: whether the answer was ended before the model ended it. Half a call is then left out.
        """
        text = self._stops.push(self._decoder.finish())
        if not self._stops.stopped:
            text += self._stops.finish()
        made = self._read(text)
        if self._reader is not None:
            made += self._chunks(self._reader.finish(cut=cut or self._stops.stopped))
        return made

    def _text(self, ids: Sequence[int]) -> str:
        if not self._marks:
            return self._decoder.push(ids)
        text, plain = "", list[int]()
        for token in ids:
            mark = self._marks.get(token)
            if mark is None:
                plain.append(token)
                continue
            text += self._decoder.push(plain) + self._decoder.finish() + mark
            plain = []
        return text + self._decoder.push(plain) if plain else text

    def _read(self, text: str) -> list[ChatChunk]:
        if not text:
            return []
        if self._reader is None:
            return [ChatChunk(text=text, model=self._model)]
        return self._chunks(self._reader.push(text))

    def _chunks(self, pieces: Sequence[Piece]) -> list[ChatChunk]:
        made: list[ChatChunk] = []
        for kind, piece in pieces:
            if isinstance(piece, ToolCallDelta):
                made.append(ChatChunk(tool_calls=(piece,), model=self._model))
            elif kind == "text":
                made.append(ChatChunk(text=piece, model=self._model))
            else:
                made.append(ChatChunk(reasoning=piece, model=self._model))
        return made


class Reader:
    """Parts a growing text into reasoning, text and calls. What may be the beginning of a mark is
    held back, and so are blanks before one.

    Attributes
    ----------
    whole: how many calls have come to their end. thinking: whether the text is reasoning now.
    """

    def __init__(
        self,
        calls: CallFormat | None,
        marks: tuple[str, str] | None,
        *,
        forced: bool = False,
        think: Think = "",
    ) -> None:
        self._calls: CallFormat | None = calls
        self._forced = forced
        self._first, self._last = marks or ("", "")
        self._may_think = think == "may" and marks is not None
        self._state = self._think if think == "opened" and marks is not None else self._start
        self._held = ""
        self._thought = False
        self._opened = ""
        self._scan = _Scan()
        self._named = False
        self._index = -1
        self._out: list[Piece] = []
        self.whole = 0

    @property
    def thinking(self) -> bool:
        return self._state == self._think

    def push(self, text: str) -> list[Piece]:
        """Takes further text; gives the pieces that are certain now."""
        self._held += text
        while self._state():
            pass
        made, self._out = self._out, []
        return made

    def finish(self, *, cut: bool) -> list[Piece]:
        """What was held back; see ``Answer.finish``."""
        rest, self._held = self._held, ""
        if self.thinking:
            return [("reasoning", rest)] if rest.strip() else []
        if self._state in (self._start, self._text):
            return [("text", rest)] if rest and not self._forced else []
        if self._state == self._call and not cut and rest.strip(_BETWEEN):
            return [("text", self._opened + rest)]
        return []

    # Each state takes what it can from the held text; True where another goes on at once.

    def _start(self) -> bool:
        rest = self._held.lstrip()
        if not rest:
            return False
        if self._may_think:
            if rest.startswith(self._first):
                self._held = rest[len(self._first) :]
                self._may_think = False
                self._state = self._think
                return True
            if self._first.startswith(rest):
                return False
        if self._thought:
            self._held = rest
        bare = self._calls == "llama" and rest[0] == "{"
        self._state = self._call if self._forced or bare else self._text
        return True

    def _think(self) -> bool:
        if not self._thought:
            self._held = self._held.lstrip()
        if not self._part("reasoning", self._last):
            return False
        self._thought = True
        self._state = self._start
        return True

    def _text(self) -> bool:
        if self._calls is None:
            if self._held:
                self._out.append(("text", self._held))
            self._held = ""
            return False
        mark = OPEN[self._calls]
        if not self._part("text", mark):
            return False
        self._opened = mark
        self._state = self._call
        return True

    def _part(self, kind: str, mark: str) -> bool:
        """Gives what stands before the mark; whether the mark has come, which is dropped."""
        at = self._held.find(mark)
        before = self._held[: at if at >= 0 else len(self._held) - overlap(self._held, mark)]
        sure = before.rstrip()
        if sure:
            self._out.append((kind, sure))
            self._thought = self._thought or kind == "reasoning"
        self._held = self._held[at + len(mark) if at >= 0 else len(sure) :]
        return at >= 0

    def _call(self) -> bool:
        rest = self._held.lstrip()
        opening = OPEN[self._calls] if self._calls else ""
        for mark in (opening, CLOSE):
            if mark and rest.startswith(mark):
                self._held = rest[len(mark) :]
                self._state = self._text if mark == CLOSE else self._call
                return True
            if rest and mark.startswith(rest):
                return False
        rest = self._held = rest.lstrip(_BETWEEN)
        if not rest:
            return False
        named = self._calls == "mistral-args" and not self._forced
        head = (_NAMED if named else _HEAD).match(rest)
        if head is not None:
            name = head[1] if named else json.loads(head[1])
            self._begin(name, rest[head.end() :], named)
            return True
        if named:
            whole = "{" in rest or len(rest) > 256  # no name of a tool
        elif rest[0] == "{":
            whole = (end := _Scan().feed(rest)) is not None
            if whole and self._decoded(rest[:end]):
                self._held = rest[end:]
                return True
        else:
            whole = True
        if not whole:
            return False
        # No call after all.
        self._out.append(("text", self._opened + rest))
        self._held = ""
        self._state = self._text
        return True

    def _decoded(self, text: str) -> bool:
        """A call whose parts stand in another order, or whose arguments are a text."""
        try:
            said = json.loads(text)
        except ValueError:
            return False
        arguments = said.get("arguments", said.get("parameters", {}))
        if not isinstance(said.get("name"), str):
            return False
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        self._index += 1
        self.whole += 1
        self._out.append(("call", _delta(self._index, said["name"], arguments)))
        return True

    def _begin(self, name: str, rest: str, named: bool) -> None:
        self._index += 1
        self._out.append(("call", _delta(self._index, name)))
        self._held = rest
        self._scan = _Scan()
        self._named = named
        self._state = self._arguments

    def _arguments(self) -> bool:
        end = self._scan.feed(self._held)
        piece = self._held[:end]
        if piece:
            self._out.append(("call", ToolCallDelta(index=self._index, arguments=piece)))
        self._held = self._held[len(piece) :]
        if end is None:
            return False
        self.whole += 1
        self._scan = _Scan(depth=1)
        self._state = self._call if self._named else self._tail
        return True

    def _tail(self) -> bool:
        """What stands behind the arguments in the call's object: its end, or Mistral's id."""
        end = self._scan.feed(self._held)
        self._held = self._held[end:] if end is not None else ""
        if end is None:
            return False
        self._state = self._call
        return True


def _delta(index: int, name: str, arguments: str = "") -> ToolCallDelta:
    return ToolCallDelta(
        index=index, id=f"call_{secrets.token_hex(8)}", name=name, arguments=arguments
    )


class _Scan:
    """Looks for the end of a JSON object in a growing text."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._quoted = False
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """The position behind the object's end; None where it goes on."""
        for at, letter in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = letter == "\\"
                self._quoted = letter != '"'
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        return None

"""What an emulated cloud answers where no model runs: the scripted replies first, then by the fake
provider's rules, so that the same question gets the same answer on every cloud.

- A tool is called when ``tool_choice`` asks for one, or when the user's last message holds its
  name as a word; its arguments satisfy its schema.
- With a response schema the text is JSON that satisfies it.
- Otherwise the last message is said again.
- A vector has a direction for each word: texts that share words lie close to each other.
"""

from __future__ import annotations

import collections
import re
import threading
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cloudai.errors import UnsupportedByProvider
from cloudai.providers.fake import _script, _text
from cloudai.providers.fake.embeddings import vector as _vector
from cloudai.types import JSON, ChatRequest
from cloudai.types._base import invalid

Reply = _script.Reply

STATUSES: Final = {
    "InvalidRequest": 400,
    "AuthenticationError": 401,
    "PermissionDenied": 403,
    "NotFound": 404,
    "RateLimited": 429,
    "ProviderError": 500,
    "ServiceUnavailable": 503,
}
"""The errors that a reply may be, by their class in ``cloudai.errors``, and their HTTP status."""


class ScriptedError(Exception):
    """A reply that is an error; the emulator answers it in its vendor's shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.asked = 0


class Answers:
    """The replies of one emulated cloud, in the order in which they were queued. Thread-safe."""

    def __init__(self) -> None:
        self._queue: collections.deque[Reply | ScriptedError] = collections.deque()
        self._lock = threading.Lock()

    def reply(
        self,
        text: str = "",
        *,
        tool_calls: Mapping[str, Mapping[str, JSON]] | None = None,
        error: type[Exception] | str | None = None,
        **about: Any,
    ) -> None:
        """See ``EmulatedCloud.reply``."""
        made: Reply | ScriptedError
        if error is not None:
            name = error if isinstance(error, str) else error.__name__
            if name not in STATUSES:
                raise invalid("error", name, f"is not one of {', '.join(STATUSES)}")
            made = ScriptedError(STATUSES[name], text or "A scripted error.")
        else:
            calls = [{"name": n, "arguments": dict(of)} for n, of in (tool_calls or {}).items()]
            values = {"text": text, "tool_calls": calls, **about}
            made = _script.convert(values, Reply, "the reply")
        with self._lock:
            self._queue.append(made)

    @property
    def waiting(self) -> bool:
        """Whether a reply is queued."""
        return bool(self._queue)

    def clear(self) -> None:
        """Forgets what is queued."""
        with self._lock:
            self._queue.clear()

    def scripted(self) -> Reply | None:
        """The next queued reply. Raises ScriptedError where it is an error."""
        with self._lock:
            made = self._queue.popleft() if self._queue else None
        if isinstance(made, ScriptedError):
            made.asked += 1
            raise made
        return made

    def again(self, error: ScriptedError) -> None:
        """Says an error to the next request too: of one that asks again with another token."""
        with self._lock:
            self._queue.appendleft(error)

    def to(self, request: ChatRequest) -> Reply:
        """The answer to a request, cut by its ``stop`` and ``max_tokens`` (a token is a word)."""
        made = self.scripted() or by_rule(request)
        text, reason = _text.cut(made.text, request.stop, request.max_tokens)
        finish = made.finish_reason or ("tool_calls" if made.tool_calls else reason)
        return msgspec.structs.replace(made, text="".join(text), finish_reason=finish)


def by_rule(request: ChatRequest) -> Reply:
    """The answer that follows from the request alone. Raises ScriptedError where there is none,
    as for a text of a pattern."""
    try:
        return _text.answer(request)
    except UnsupportedByProvider as error:
        raise ScriptedError(400, str(error)) from None


def vector(text: str, dim: int) -> list[float]:
    """A text's vector of length 1."""
    return _vector(re.findall(r"\w+", text.lower()) or [text], dim)

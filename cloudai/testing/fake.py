"""Tells the fake provider what to answer, and shows what it was asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.state.home import default_home
from cloudai.client import AsyncClient, Client
from cloudai.errors import CloudAIError, ConfigError
from cloudai.providers.fake import _script
from cloudai.providers.fake._script import Fate, Fault, Reply, Script
from cloudai.providers.fake._state import FakeState, Received
from cloudai.types import JSON

__all__ = ["FakeScript", "Received"]


class FakeScript:
    """The script of the fake provider in one home, in this process.

    Every client of the fake with the same ``home`` and ``script`` follows it, whatever made the
    client. Queues and received requests belong to the process; jobs, endpoints and the clock
    are shared with other processes.

    Parameters
    ----------
    home: the profile's ``home``; None: CLOUDAI_HOME, or the user's data folder.
    file: the profile's ``script``, where it has one; what is scripted here comes after what the
        file says.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.home = Path(home) if home is not None else default_home()
        self._file = Path(file).absolute() if file is not None else None
        self._cloud_state = FakeState.at(self.home, self._file)

    def client(self, **keys: Any) -> Client:
        """A client of the fake that follows this script."""
        return Client(provider="fake", **self._keys, **keys)

    def async_client(self, **keys: Any) -> AsyncClient:
        """The async twin of ``client``."""
        return AsyncClient(provider="fake", **self._keys, **keys)

    @property
    def _keys(self) -> dict[str, str]:
        keys = {"home": str(self.home)}
        return keys if self._file is None else {**keys, "script": str(self._file)}

    @property
    def received(self) -> list[Received]:
        """What reached the fake, the oldest first (the last 1000): each with its ``operation``
        and its ``request``, spec or id. A retried call is there as often as it was tried."""
        return list(self._cloud_state.received)

    def requests(self, operation: str) -> list[Any]:
        """The requests of one operation, such as ``"chat.create"``."""
        return [one.request for one in self._cloud_state.received if one.operation == operation]

    def load(self, script: str | os.PathLike[str] | Mapping[str, Any]) -> FakeScript:
        """Starts over with a script: a TOML or JSON file, or its tables."""
        if isinstance(script, Mapping):
            made = _script.convert(dict(script), Script, "the script")
        else:
            made = _script.read(Path(script))
        self._cloud_state.play(made)
        return self

    def reply(
        self,
        text: str = "",
        *,
        tool_calls: Mapping[str, Mapping[str, JSON]] | None = None,
        **about: Any,
    ) -> FakeScript:
        """Queues one chat answer.

        Parameters
        ----------
        text: the answer. tool_calls: by the tool's name, its arguments.
        about: ``finish_reason``, ``reasoning``, ``seconds``.
        """
        calls = [{"name": name, "arguments": dict(of)} for name, of in (tool_calls or {}).items()]
        reply = _script.convert({"text": text, "tool_calls": calls, **about}, Reply, "the reply")
        with self._cloud_state.lock:
            self._cloud_state.replies.append(reply)
        return self

    def predict(self, *outputs: list[JSON]) -> FakeScript:
        """Queues the answers of the next predictions: each a list, one output an input."""
        with self._cloud_state.lock:
            self._cloud_state.predictions.extend(outputs)
        return self

    def fate(self, capability: str = "training", **fate: Any) -> FakeScript:
        """Queues what becomes of the next job of ``"training"`` or ``"batch"``.

        Parameters
        ----------
        fate: ``queued``, ``starting``, ``running``, ``stopping`` (seconds), ``state``,
            ``exit_code``, ``reason``, ``logs``, ``metrics``, ``preemptions``.
        """
        if capability not in self._cloud_state.fates:
            raise ConfigError(f"there are no jobs of {capability!r}", hint="Say training or batch")
        made = _script.convert(_plain(fate), Fate, "the fate")
        with self._cloud_state.lock:
            self._cloud_state.fates[capability].append(made)
        return self

    def fail(
        self,
        operation: str,
        error: type[CloudAIError] | str = "ServiceUnavailable",
        **about: Any,
    ) -> FakeScript:
        """Lets calls fail.

        Parameters
        ----------
        operation: such as ``"chat.create"``, ``"training.*"`` or ``"*"``.
        error: a class of ``cloudai.errors``, or its name.
        about: ``times``, ``skip``, ``retry_after``, ``message``, ``code``, ``status``,
            ``seconds``; ``chunks`` of a stream that come before; ``after`` for a call that
            takes effect and whose reply is lost.
        """
        name = error if isinstance(error, str) else error.__name__
        values = {"operation": operation, "error": name, **about}
        self._add(_script.convert(values, Fault, "the fault"))
        return self

    def throttle(self, operation: str, *, times: int = 1, retry_after: float = 0.01) -> FakeScript:
        """Answers calls with a rate limit."""
        return self.fail(operation, "RateLimited", times=times, retry_after=retry_after, status=429)

    def lose_reply(self, operation: str) -> FakeScript:
        """Lets the next call take effect and loses its reply."""
        return self.fail(operation, "ConnectionFailed", after=True)

    def cut_stream(self, chunks: int) -> FakeScript:
        """Ends the next stream after so many chunks, without its terminator."""
        return self.fail("chat.stream", "StreamTruncated", chunks=chunks)

    def delay(self, operation: str, seconds: float, *, times: int = 1) -> FakeScript:
        """Lets calls take longer."""
        self._add(Fault(operation=operation, seconds=seconds, times=times))
        return self

    def freeze(self) -> FakeScript:
        """Stops the clock of jobs and endpoints; ``advance`` alone moves it then."""
        self._cloud_state.store.freeze()
        return self

    def advance(self, seconds: float) -> FakeScript:
        """Moves the clock of jobs and endpoints forward."""
        self._cloud_state.store.advance(seconds)
        return self

    def _add(self, fault: Fault) -> None:
        with self._cloud_state.lock:
            self._cloud_state.faults.append(fault)

    def __repr__(self) -> str:
        return f"FakeScript({str(self.home)!r})"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return msgspec.to_builtins(dict(values))

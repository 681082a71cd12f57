"""Faults on purpose: what a cloud does to its callers on a bad day."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, TypeAlias

import msgspec

WSGI: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
ErrorBody: TypeAlias = Callable[[int, str], tuple[str, bytes]]
"""The vendor's shape of an error: (status, message) → (content type, body)."""

Kind: TypeAlias = Literal["throttle", "unavailable", "reset", "lose_reply", "cut", "slow"]

_PHRASE: Final = {429: "Too Many Requests", 500: "Internal Server Error", 503: "Unavailable"}


class Fault(msgspec.Struct, kw_only=True):
    """One rule.

    Parameters
    ----------
    kind: ``throttle`` (429), ``unavailable`` (503), ``reset`` (the connection breaks before the
        request is handled), ``lose_reply`` (it is handled, then the connection breaks), ``cut``
        (the answer breaks off after ``after`` bytes, or after ``events`` of a stream), ``slow``
        (``seconds`` late).
    match: a regular expression on ``"METHOD /path"`` or, where the service puts its operation
        into a header, ``"METHOD /path Operation"``.
    times: how often; None without end. chance: of each match, 0 to 1.
    retry_after: seconds in the Retry-After header.
    """

    kind: Kind
    match: str = ""
    times: int | None = 1
    chance: float = 1.0
    retry_after: float | None = None
    after: int = 0
    events: int | None = None
    seconds: float = 0.0


class Faults:
    """The rules in force, and the WSGI layer that carries them out.

    Parameters
    ----------
    app: the emulated service.
    error_body: the vendor's shape of an error.
    seed: of the chances, so that a run can be repeated.
    """

    def __init__(self, app: WSGI, error_body: ErrorBody, seed: int = 0) -> None:
        self._app = app
        self._error_body = error_body
        self._rules: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._lock = threading.Lock()

    def add(self, kind: Kind, match: str = "", **about: Any) -> Fault:
        """Puts a rule into force; see ``Fault``."""
        rule = Fault(kind=kind, match=match, **about)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Lifts all rules."""
        with self._lock:
            self._rules.clear()

    def _take(self, what: str) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if rule.times == 0 or not re.search(rule.match, what):
                    continue
                if rule.chance < 1 and self._random.random() >= rule.chance:
                    continue
                if rule.times is not None:
                    rule.times -= 1
                return rule
        return None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        what = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {target}".rstrip()
        rule = self._take(what)
        if rule is None:
            return self._app(environ, start)
        if rule.kind == "slow":
            time.sleep(rule.seconds)
            return self._app(environ, start)
        if rule.kind in {"throttle", "unavailable"}:
            _drain(environ)
            status = 429 if rule.kind == "throttle" else 503
            kind, body = self._error_body(status, "emulated fault")
            headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
            if rule.retry_after is not None:
                headers.append(("Retry-After", f"{rule.retry_after:g}"))
            start(f"{status} {_PHRASE[status]}", headers)
            return [body]
        if rule.kind == "reset":
            _drain(environ)
            break_off(environ)
        if rule.kind == "lose_reply":
            for _ in self._app(environ, lambda *_: None):
                pass
            break_off(environ)
        if rule.events is not None:
            return _cut_events(self._app(environ, start), environ, rule.events)
        return _cut(self._app(environ, start), environ, rule.after)


def _cut_events(chunks: Iterable[bytes], environ: dict[str, Any], events: int) -> Iterator[bytes]:
    """The first so many events of a stream, server-sent or Amazon's, whatever pieces it is in."""
    held = b""
    for chunk in chunks:
        held += chunk
        while events > 0 and (size := _event_size(held)):
            yield held[:size]
            held, events = held[size:], events - 1
        if events <= 0:
            break_off(environ, gently=True)
    yield held


def _event_size(held: bytes) -> int:
    """The length of the first whole event; 0 where there is none yet."""
    if held[:1] == b"\x00":  # Amazon's begin with their length, which is below 16 MiB
        size = int.from_bytes(held[:4], "big") if len(held) >= 4 else 0
        return size if len(held) >= size else 0
    match = re.search(rb"\r?\n\r?\n", held)
    return match.end() if match else 0


def _cut(chunks: Iterable[bytes], environ: dict[str, Any], after: int) -> Iterator[bytes]:
    left = after
    for chunk in chunks:
        if len(chunk) >= left:
            yield chunk[:left]
            break_off(environ, gently=True)
        left -= len(chunk)
        yield chunk


def _drain(environ: dict[str, Any]) -> None:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def break_off(environ: dict[str, Any], *, gently: bool = False) -> None:
    """Ends the connection under the client: with a reset, or ``gently`` with a plain close that
    lets what was written arrive. Raises ConnectionResetError, which ends the handler."""
    sock: socket.socket = environ["werkzeug.socket"]
    if gently:
        sock.shutdown(socket.SHUT_RDWR)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(sock.detach())
    raise ConnectionResetError("emulated fault")

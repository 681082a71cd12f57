"""One engine a model: a thread that owns it, and any number of callers.

At each turn the thread takes in who waits, reads a piece of the prompts that are not read yet,
and makes one token for every running text in one forward. A text leaves the moment that it ends
or its caller goes; when there is no room for all, the latest one is put back and read again later.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import torch

from cloudai.engine.decoding.request import Request, Sink, broken
from cloudai.engine.decoding.runner import Batch, Flight, Piece
from cloudai.engine.decoding.sampling import BROKEN, Kind, Sampling
from cloudai.engine.grammar import Grammar
from cloudai.errors import CapacityError, CloudAIError, ProviderError

QUEUE: Final = 1024
"""Requests that may wait for their turn."""


class Engine:
    """Answers many at once.

    Parameters
    ----------
    runner: the model's forwards. name: of the model, for errors.
    alone, beside: tokens of prompts that a turn reads while no text is being made, and while
        some are, which wait for it.
    queue: requests that may wait.
    """

    def __init__(
        self, runner: Any, name: str, *, alone: int, beside: int, queue: int = QUEUE
    ) -> None:
        self.runner = runner
        self.name = name
        self._alone = alone
        self._beside = beside
        self._queue = queue
        self._start_over()

    def _start_over(self) -> None:
        """With nobody waiting: at first, and in a forked child, which has no thread of ours."""
        self._pid = os.getpid()
        self._mail = _Mail()
        weakref.finalize(self, self._mail.close)
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._flights: deque[tuple[Flight, list[Request]]] = deque()
        self._batch: tuple[list[Request], Batch] | None = None
        self._number = 0

    # ------------------------------------------------------------ callers

    def submit(
        self,
        prompt: Sequence[int],
        *,
        limit: int,
        how: Sampling,
        ends: frozenset[int],
        sink: Sink,
        grammar: Grammar | None = None,
    ) -> Request:
        """Asks for the tokens after a prompt, at most ``limit``; an end token is the last.

        Raises CapacityError where so many wait that this one is refused, or its text is longer
        than the memory for keys and values.
        """
        if self._pid != os.getpid():
            self._start_over()
            self.runner.store.clear()
        room = self.runner.store.longest
        if len(prompt) + limit > room:
            raise CapacityError(
                f"{self.name} has room for {room} tokens in all on {self.runner.device}; a prompt "
                f"of {len(prompt)} and an answer of {limit} need {len(prompt) + limit}",
                provider="local",
                hint="Lower max_tokens, or give the cache more memory",
            )
        request = Request(prompt, limit, how, ends, sink, grammar)
        with self._mail.turn:
            waiting = len(self._mail.letters) + len(self._waiting)
            if waiting >= self._queue:
                raise CapacityError(
                    f"{waiting} requests wait for {self.name}; its queue is full",
                    provider="local",
                    hint="Ask again later",
                )
            self._mail.letters.append(request)
            self._mail.turn.notify()
            if self._mail.thread is None or not self._mail.thread.is_alive():
                self._mail.thread = threading.Thread(
                    target=_serve, args=(weakref.ref(self), self._mail), daemon=True, name="decode"
                )
                self._mail.thread.start()
        return request

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self._mail.letters or self._waiting or self._running or self._flights)

    # ------------------------------------------------------------ the thread

    def turn(self) -> None:
        """One turn; called by the engine's thread alone."""
        try:
            with torch.inference_mode():
                self._turn()
        except Exception as error:  # noqa: BLE001  (every caller has to hear of it)
            self._fail(error)

    def _turn(self) -> None:
        self._take_in()
        # Tokens that a grammar forced are read like a prompt's, and need room as well.
        self._make_room([one for one in self._running if not one.fresh])
        ready = self._ready()
        pieces, last = self._pieces(stepping=bool(ready))
        batch = self._batch_of(ready) if ready else None
        begun: list[tuple[Flight, list[Request]]] = []
        together = self.runner.mixed(pieces, batch) if pieces and self.runner.mixes else None
        if together is not None:
            begun.append((together, [*last, *ready]))
        else:
            if pieces:
                begun.append((self.runner.read(pieces), last))
            if batch is not None:
                longest = 1 + max(one.read for one in ready)
                begun.append((self.runner.step(batch, longest), ready))
        for piece in pieces:
            self.runner.store.note(piece.seat, piece.start + piece.size)
        for one in ready:
            one.read += 1
            one.flying += 1
            self.runner.store.note(self._seat(one), one.read)
        self._flights.extend(flight for flight in begun if flight[1])
        ahead = self.runner.ahead if begun else 0
        if any(one.grammar for one in self._running):
            ahead = 0  # what may follow depends on the token before
        while len(self._flights) > ahead:
            self._land()

    def _take_in(self) -> None:
        while self._mail.letters:
            request = self._mail.letters.popleft()
            request.number = self._number
            self._number += 1
            self._waiting.append(request)
        for request in [one for one in self._running if one.done]:
            self._stand_up(request)
        if any(one.done for one in self._waiting):
            self._waiting = deque(one for one in self._waiting if not one.done)
        while self._waiting:
            request = self._waiting[0]
            placed = self.runner.store.begin(request.tokens)
            if placed is None:
                return
            seat, request.read = placed
            request.seat, request.fresh = seat, False
            if not self.runner.store.reserve(seat, len(request.tokens)):
                self._put_back(request, again=False)
                if not self._running:
                    self.runner.store.clear()
                    continue
                return
            self._waiting.popleft()
            prompt, made = request.tokens[: request.prompt], request.tokens[request.prompt :]
            self.runner.seat(seat, request.how, request.seed, prompt, made)
            self._running.append(request)

    def _pieces(self, stepping: bool) -> tuple[list[Piece], list[Request]]:
        """Parts of texts to be read in this turn, and the texts that are whole with them."""
        unread = [one for one in self._running if not one.fresh and not one.done]
        pieces: list[Piece] = []
        last: list[Request] = []
        if not unread:
            return pieces, last
        budget = self._beside if stepping else self._alone
        # The first may take half, so that the rest, the shortest first, do not wait behind it.
        first, *rest = unread
        rest.sort(key=lambda one: len(one.tokens) - one.read)
        for request in (first, *rest):
            left = len(request.tokens) - request.read
            size = min(left, budget // 2 if request is first and rest else budget)
            if size <= 0:
                break
            budget -= size
            whole = size == left
            last_of = (request.how, request.grammar) if whole else (None, None)
            pieces.append(Piece(self._seat(request), request.tokens, request.read, size, *last_of))
            request.read += size
            if whole:
                request.fresh = True
                request.flying += 1
                last.append(request)
        return pieces, last

    def _ready(self) -> list[Request]:
        """The texts that get one more token in this turn."""
        ready = [
            one for one in self._running
            if one.fresh and not one.done and one.made + one.flying < one.limit
            # Of one with a grammar the last token has to be known, which may bring others.
            and one.flying <= (self.runner.ahead if one.grammar is None else 0)
        ]  # fmt: skip
        return self._make_room(ready)

    def _batch_of(self, ready: list[Request]) -> Batch:
        seats = [self._seat(one) for one in ready]
        if self._batch is None or self._batch[0] != ready or self._batch[1].seats != seats:
            batch = Batch(
                seats,
                Kind.of(one.how for one in ready),
                {at: one.grammar for at, one in enumerate(ready) if one.grammar is not None},
            )
            self._batch = ready, batch
        return self._batch[1]

    def _make_room(self, ready: list[Request]) -> list[Request]:
        """Room for what each has yet to read; where there is none, the latest are put back."""
        for one in sorted(ready, key=lambda one: one.number):
            if one.seat is None or one.done:
                continue
            while not self.runner.store.reserve(one.seat, max(one.read + 1, len(one.tokens))):
                while self._flights:
                    self._land()
                latest = max(self._running, key=lambda other: other.number)
                alone = len(self._running) == 1
                self._put_back(latest)
                if alone:
                    self.runner.store.clear()
                if latest is one or one.done:
                    break
        return [one for one in ready if one.seat is not None and not one.done]

    def _land(self) -> None:
        flight, requests = self._flights.popleft()
        for request, token in zip(requests, flight.land(), strict=True):
            request.flying -= 1
            if request.done:
                continue
            if token == BROKEN:
                request.finish(broken())
                continue
            self._take(request, token)

    def _take(self, request: Request, token: int) -> None:
        made = [token]
        grammar = request.grammar
        if grammar is not None:
            try:
                made += grammar.accept(token)
            except CloudAIError as error:
                request.finish(error)
                return
            made = made[: request.limit - request.made]
            request.fresh = len(made) == 1
        request.tokens.extend(made)
        request.sink(made)
        over = token in request.ends or request.made >= request.limit
        if over or (grammar is not None and grammar.done):
            request.finish()
            self.runner.answered()

    def _stand_up(self, request: Request) -> None:
        """The request's seat is free."""
        self._running.remove(request)
        self.runner.store.end(self._seat(request))
        request.seat = None

    def _put_back(self, request: Request, again: bool = True) -> None:
        """It waits again, before those who came after it."""
        if request.seat is not None:
            self.runner.store.end(request.seat)
        request.seat, request.fresh, request.read = None, False, 0
        if again:
            self._running.remove(request)
            self._waiting.appendleft(request)

    def _seat(self, request: Request) -> int:
        if request.seat is None:
            raise RuntimeError("a text that runs has no seat")
        return request.seat

    def _fail(self, error: Exception) -> None:
        """All that run hear of it; those who wait are tried."""
        if isinstance(error, torch.OutOfMemoryError):
            error = CapacityError(
                f"the device {self.runner.device} ran out of memory",
                provider="local",
                hint="Send a shorter prompt, or choose another `device`",
            )
        elif not isinstance(error, CloudAIError):
            error = ProviderError(f"the model {self.name} failed: {error}", provider="local")
        self._flights.clear()
        for request in self._running:
            request.seat, request.flying = None, 0
            if not request.done:
                request.finish(error)
        self._running.clear()
        self._batch = None
        with contextlib.suppress(Exception):
            self.runner.store.clear()


class _Mail:
    """What the thread holds while it waits, so that a model which nobody has any more is freed."""

    def __init__(self) -> None:
        self.turn = threading.Condition()
        self.letters: deque[Request] = deque()
        self.closed = False

        self.thread: threading.Thread | None = None

    def close(self) -> None:
        """Ends the thread; at the latest before Python itself ends, which a thread in the middle
        of a forward would not survive."""
        self.closed = True
        with self.turn:
            self.turn.notify()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(10)


def _serve(engine: weakref.ref[Engine], mail: _Mail) -> None:
    while True:
        with mail.turn:
            while not mail.letters:
                if mail.closed:
                    return
                mail.turn.wait()
        found = engine()
        if found is None:
            return
        if found.runner.device.startswith("cuda"):
            torch.cuda.set_device(found.runner.device)
        while not found.idle and not mail.closed:
            found.turn()
        found.runner.store.shrink()
        del found

"""A worker process: one model, one batch at a time, on one core or one GPU.

Started by the front as ``python -m cloudai.server.workers.worker FD``; ``FD`` is its end of a
socket pair. The main thread waits for work and computes it, and looks between two pieces of a
stream whether it was cancelled; work of a predictor that answers several at once gets a thread
each. A second thread sleeps until the front is gone, and ends the process then.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from functools import partial

import msgspec

from cloudai.errors import CloudAIError
from cloudai.server.predictors import tensors
from cloudai.server.predictors.base import Predictor, Together
from cloudai.server.predictors.loading import load_predictor
from cloudai.server.workers.wire import (
    Buffer,
    Chunk,
    Done,
    Failed,
    FromWorker,
    Options,
    Ready,
    Result,
    Work,
    frame,
    to_worker,
)
from cloudai.types._base import met


class Worker:
    """The loop of a worker.

    Parameters
    ----------
    link: the socket to the front.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = Buffer()
        self._work: deque[Work] = deque()
        self._open: set[int] = set()  # what has been asked and not answered
        self._cancelled: set[int] = set()
        self._sending = threading.Lock()

    def run(self, options: Options) -> None:
        """Loads the model, then answers until the front is gone."""
        threading.Thread(target=self._watch, daemon=True, name="watch").start()
        try:
            predictor = load_predictor(options)
            predictor.warm()
        except Exception as error:  # noqa: BLE001 (the front tells it)
            if not isinstance(error, CloudAIError):
                traceback.print_exc()
            self._send(Failed(f"{type(error).__name__}: {error}"))
            sys.exit(1)
        self._send(Ready(predictor.info()))
        while True:
            while not self._work:
                self._receive(0)
            work = self._work.popleft()
            if isinstance(predictor, Together):
                threading.Thread(target=self._answer, args=(predictor, work), daemon=True).start()
            else:
                self._answer(predictor, work)

    def _answer(self, predictor: Predictor, work: Work) -> None:
        started = time.perf_counter()
        if work.id in self._cancelled:
            results = [Result(499, error="cancelled", error_type="Cancelled") for _ in work.items]
        elif work.items[0].stream:
            results = [self._stream(predictor, work)]
        else:
            try:
                if isinstance(predictor, Together):
                    wanted = partial(self._wanted, work)
                    made = [predictor.answer(item, wanted) for item in work.items]
                else:
                    made = predictor.run(work.items)
                results = [
                    tensors.answer(result, item.accept)
                    if item.kind == "tensors" and result.status == 200
                    else result
                    for item, result in zip(work.items, made, strict=True)
                ]
            except Exception as error:  # noqa: BLE001 (the front tells it)
                # A fault of ours or exhausted memory: this batch fails, the worker goes on.
                traceback.print_exc()
                text = f"{type(error).__name__}: {error}"
                results = [Result(500, error=text, error_type="ServerError") for _ in work.items]
        self._open.discard(work.id)
        self._cancelled.discard(work.id)
        self._send(Done(work.id, results, time.perf_counter() - started))

    def _stream(self, predictor: Predictor, work: Work) -> Result:
        def emit(data: bytes) -> bool:
            self._send(Chunk(work.id, data))
            if not isinstance(predictor, Together):  # else the main thread receives
                with contextlib.suppress(BlockingIOError):
                    self._receive(socket.MSG_DONTWAIT)
            return self._wanted(work)

        try:
            result = predictor.stream(work.items[0], emit)
        except Exception as error:  # noqa: BLE001 (the front tells it)
            traceback.print_exc()
            result = Result(500, error=f"{type(error).__name__}: {error}", error_type="ServerError")
        return result

    def _wanted(self, work: Work) -> bool:
        return work.id not in self._cancelled

    def _send(self, message: FromWorker) -> None:
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._link.sendall(frame(message))

    def _receive(self, flags: int) -> None:
        """Takes what the front says; waits for it, or raises BlockingIOError by ``flags``."""
        try:
            data = self._link.recv(1 << 20, flags)
        except ConnectionError:
            data = b""
        if not data:
            os._exit(0)
        for body in self._buffer.feed(data):
            message = to_worker.decode(body)
            if isinstance(message, Work):
                self._open.add(message.id)
                self._work.append(message)
            elif message.id in self._open:
                self._cancelled.add(message.id)

    def _watch(self) -> None:
        """Ends the process with the front: nobody waits for what is being computed. The other
        end's close is told without being asked for (poll(2), POLLHUP), and nothing else is, so
        that this thread never takes the GIL from a forward."""
        poll = select.poll()
        poll.register(self._link, 0)
        poll.poll()
        os._exit(0)


def main() -> None:
    """The entry of ``python -m cloudai.server.workers.worker``."""
    link = socket.socket(fileno=int(sys.argv[1]))
    # The front decides when a worker ends; a Ctrl-C in a terminal reaches the whole group.
    # Functions, and not SIG_IGN, which what the handler starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    options = msgspec.json.decode(os.environ.pop("CLOUDAI_WORKER_OPTIONS"), type=met(Options))
    Worker(link).run(options)


if __name__ == "__main__":
    main()

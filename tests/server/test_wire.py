"""The wire between the front and its workers."""

from __future__ import annotations

import random

from cloudai.server.workers.wire import HEADER, Buffer


def test_messages_come_whole_however_the_socket_cuts_them() -> None:
    dice = random.Random(7)
    for _ in range(200):
        sent = [dice.randbytes(dice.choice([0, 1, 5, 300])) for _ in range(dice.randrange(1, 9))]
        raw = b"".join(HEADER.pack(len(one)) + one for one in sent)
        buffer, got, at = Buffer(), [], 0
        while at < len(raw):
            size = dice.choice([1, 3, 7, 100, 4000])
            got += [bytes(body) for body in buffer.feed(raw[at : at + size])]
            at += size
        assert got == sent

"""The process behind an emulated model: SageMaker's inference toolkit in small.

Speaks in messages of three parts over its standard streams; what the user's code prints goes
elsewhere.
"""

from __future__ import annotations

import os
import struct
import sys
import traceback
from pathlib import Path
from typing import IO, Final

_LENGTHS: Final = struct.Struct("!III")


def write(out: IO[bytes], first: bytes, second: bytes, third: bytes) -> None:
    """Sends one message."""
    out.write(_LENGTHS.pack(len(first), len(second), len(third)) + first + second + third)
    out.flush()


def read(source: IO[bytes]) -> tuple[bytes, bytes, bytes]:
    """Receives one message. Raises EOFError at the end."""
    head = source.read(_LENGTHS.size)
    if len(head) < _LENGTHS.size:
        raise EOFError
    first, second, third = _LENGTHS.unpack(head)
    return source.read(first), source.read(second), source.read(third)


def main(model_dir: str) -> None:
    """Loads the model and answers until the input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        from cloudai._core.handler import load_handler

        handler = load_handler(Path(model_dir), Path(model_dir) / "code" / "inference.py")
    except Exception:  # noqa: BLE001 - the user's code may raise anything
        write(out, b"500", b"text/plain", traceback.format_exc().encode())
        return
    write(out, b"200", b"", b"")
    while True:
        try:
            kind, accept, body = read(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer, made = handler.transform(body, kind.decode(), accept.decode())
            write(out, b"200", made.encode(), answer)
        except Exception as error:  # noqa: BLE001
            write(out, b"500", b"text/plain", str(error).encode())


if __name__ == "__main__":
    main(sys.argv[1])

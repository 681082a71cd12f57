"""The server process of a local endpoint from outside: its socket, its files, its end."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloudai._core.state.disk import disk_errors, write_whole
from cloudai.errors import Conflict, StateError
from cloudai.providers.local.serving.store import alive, holder
from cloudai.types._base import invalid


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that the server inherits, so that the port is taken from now on."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} of {host} is in use",
                provider="local",
                hint="Use another port, or port=0 for a free one",
            ) from error
        if error.errno == errno.EACCES:
            raise invalid(
                "port", port, "needs rights that this process lacks", "Use 1024 or more."
            ) from error
        raise invalid("host", host, f"cannot be listened on ({error.strerror or error})") from error
    return listener


def stop(folder: Path, grace: float) -> None:
    """SIGTERM, then SIGKILL to the server's whole session, while its lock shows that it lives."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        pid = holder(folder)
        if not alive(folder) or pid is None:
            return
        with suppress(ProcessLookupError):
            # The server leads its session; its workers are told by it, or end with it.
            if number == signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        until = time.monotonic() + patience
        while alive(folder) and time.monotonic() < until:
            time.sleep(0.02)
    if alive(folder):
        raise StateError(f"the server {holder(folder)} of {folder.name!r} does not end")


def write(file: Path, value: Any) -> None:
    with disk_errors(file):
        write_whole(file, json.dumps(value, indent=2).encode())

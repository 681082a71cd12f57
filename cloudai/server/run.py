"""The front process from its start to its end: the socket, the lock, loading, reloading,
draining."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.files.paths import short
from cloudai._core.state import lock as _lock
from cloudai.errors import CloudAIError, ConfigError
from cloudai.server.app import App
from cloudai.server.config import ServerConfig
from cloudai.server.http import listener
from cloudai.server.http.guard import guard_of
from cloudai.server.log import log
from cloudai.server.tracing import Tracing
from cloudai.types._base import met


class Reload(msgspec.Struct):
    """What arrives at the control socket: a new configuration, and the environment of the
    variants that it makes (secrets among it, which is why it is not read from a file)."""

    config: ServerConfig
    env: dict[str, str]


class Server:
    """One server.

    Parameters
    ----------
    config: what to serve. token: what callers must send, or None.
    state: a folder for ``status.json`` and the control socket; None: neither.
    sockets: already listening; None binds ``config.host`` and ``config.port``.
    tracing: begins and ends spans; None: there are none.
    """

    def __init__(
        self,
        config: ServerConfig,
        token: str | None = None,
        state: Path | None = None,
        sockets: list[socket.socket] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.config = config
        self.app = App(config, token, self._worker_event, tracing)
        self.inference = self.app.inference
        self._tracing = tracing
        self.state = state
        self.sockets = sockets if sockets is not None else [bind(config.host, config.port)]
        self.app.guard = guard_of(self.sockets, config.hosts)
        self._reloading = asyncio.Lock()
        self._reload_error: str | None = None
        self._failure: BaseException | None = None
        self._tls = listener.tls_context(config.tls_cert, config.tls_key)
        self._stopped = asyncio.Event()

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT. Gives the exit code: 0, or 1 when a model cannot be
        loaded, whose error then stands in the log and in the status."""
        # The thread that reads large bodies shares the interpreter with the loop: a probe waits for
        # it a fifth as long as it would by itself.
        sys.setswitchinterval(0.001)
        try:
            with asyncio.Runner(loop_factory=listener.new_loop) as runner:
                runner.run(self._main())
        except KeyboardInterrupt:
            return 130
        return 1 if self._failure is not None else 0

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        host, port = self.sockets[0].getsockname()[:2]
        scheme = "https" if self.config.tls_cert else "http"
        log("listening", url=f"{scheme}://{host}:{port}", pid=os.getpid())
        self._write_status("STARTING")
        control = await self._listen_for_control()
        loading = asyncio.ensure_future(self._load())
        serving = listener.Server(self.app, self.sockets, self._tls)
        await serving.start()
        await self._stopped.wait()
        await serving.stop(self.config.limits.drain + 1)
        loading.cancel()
        if control is not None:
            control.close()
        await self.inference.models.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)
        self._write_status("FAILED" if self._failure is not None else "STOPPED")
        log("stopped")

    async def _load(self) -> None:
        started = time.monotonic()
        try:
            await self.inference.models.load(self.config)
        except Exception as error:  # noqa: BLE001 (it ends the server, with its text in the log)
            self._failure = error
            log("load_failed", level="error", error=str(error))
            if not isinstance(error, CloudAIError):
                sys.excepthook(type(error), error, error.__traceback__)
            self._stopped.set()
            return
        log("ready", seconds=round(time.monotonic() - started, 3))
        self._write_status("RUNNING")

    def _stop(self) -> None:
        # From here on readiness says no, while what is under way is answered.
        self.inference.stopping = True
        self._stopped.set()
        self._write_status("STOPPING")

    def _worker_event(self, event: str) -> None:
        if self.inference.models.served and not self.inference.stopping:
            self._write_status("RUNNING")

    def _write_status(self, state: str) -> None:
        if self.state is None:
            return
        host, port = self.sockets[0].getsockname()[:2] if self.sockets[0].fileno() >= 0 else ("", 0)
        status: dict[str, Any] = {
            "state": state,
            "pid": os.getpid(),
            "host": host,
            "port": port,
            "generation": self.inference.models.generation,
            "models": self.inference.models.describe(),
            "error": str(self._failure) if self._failure else None,
            "reload_error": self._reload_error,
            "time": time.time(),
        }
        target = self.state / "status.json"
        fresh = target.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(status))
            fresh.replace(target)
        except OSError as error:
            log("status_not_written", level="error", error=str(error.strerror))

    async def _listen_for_control(self) -> asyncio.AbstractServer | None:
        if self.state is None:
            return None
        path = self.state / "control.sock"
        path.unlink(missing_ok=True)
        with short(path) as name:
            server = await asyncio.start_unix_server(self._control, name, limit=16 << 20)
        return server

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One JSON line in, one out: the new configuration, and how loading it ended."""
        try:
            line = await reader.readline()
            answer = await self.reload(line)
        except (OSError, ValueError) as error:
            answer = {"ok": False, "error": str(error)}
        with contextlib.suppress(OSError):
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
            writer.close()

    async def reload(self, line: bytes) -> dict[str, Any]:
        """Loads another configuration and lets it take over; a failure changes nothing."""
        try:
            wanted = msgspec.json.decode(line, type=met(Reload))
        except (msgspec.DecodeError, CloudAIError) as error:
            return {"ok": False, "error": str(error)}
        async with self._reloading:
            try:
                await self.inference.models.load(wanted.config, wanted.env)
            except CloudAIError as error:
                self._reload_error = str(error)
                log("reload_failed", level="error", error=str(error))
                self._write_status("RUNNING")
                return {"ok": False, "error": str(error)}
            self.inference.intake.most = wanted.config.limits.held
            self._reload_error = None
            log("reloaded", generation=self.inference.models.generation)
            self._write_status("RUNNING")
            return {"ok": True, "generation": self.inference.models.generation}


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError naming the address when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror})",
            hint="Give another port, or 0 for a free one.",
        ) from error
    sock.set_inheritable(False)
    return sock


def lock(file: Path) -> int:
    """Locks the file for this process's life and writes its id into it. Raises ConfigError when
    another server holds it."""
    descriptor = _lock.kept(file, seconds=2.0)
    if descriptor is None:
        raise ConfigError(f"another server holds {file}")
    return descriptor


def detach(state: Path) -> None:
    """Goes on in a child process in a session of its own, while this process ends. The lock on
    ``state`` is taken before, so that whoever waits for this process finds it held, by the
    process whose id stands in it."""
    descriptor = lock(state / "lock")
    child = os.fork()
    if child:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(child).encode())
        os._exit(0)
    os.setsid()

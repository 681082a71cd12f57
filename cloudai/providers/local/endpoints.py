"""Local endpoints: a server process of its own for each, which outlives whoever deployed it.

State lies under ``<home>/endpoints/<name>/``: ``server.json`` (the configuration), ``status.json``
(the server's own), ``log``, ``lock`` and a control socket. Secrets are in none of them: they go
to the server through its environment and that socket.

Longer than other modules: the adapter's methods are one Protocol's, over one store.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.files.paths import short
from cloudai._core.handlers import asked
from cloudai._core.profiles.config import Profile
from cloudai._core.state import processes
from cloudai._core.state.disk import disk_errors
from cloudai._core.state.home import ensure
from cloudai.errors import (
    CloudAIError,
    ConnectionFailed,
    EndpointError,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.local.jobs import logs as _logs
from cloudai.providers.local.serving.http import (
    Answer,
    Connections,
    Place,
    control,
    error_of,
    stream,
)
from cloudai.providers.local.serving.process import listen, stop, write
from cloudai.providers.local.serving.spec import check, dropped, server_config
from cloudai.providers.local.serving.store import EndpointStore, Row, alive
from cloudai.types import (
    Deployment,
    EndpointStatus,
    LogLine,
    LogPage,
    NativeRequest,
    Plan,
    Prediction,
    PredictRequest,
    State,
    VariantStatus,
    Violation,
)
from cloudai.types._base import invalid

PROVIDER: Final = "local"
_PATH: Final = "/v1/models/{}:predict"
"""By the model's name: should the port belong to another endpoint by now, it refuses."""
LAUNCH_SECONDS: Final = 30.0
"""A deployment whose client died before it started the server is given up after so long."""
GRACE_SECONDS: Final = 10.0
"""From SIGTERM to SIGKILL when an endpoint is deleted."""


class LocalEndpoints:
    """Endpoints on this machine.

    Parameters
    ----------
    profile: of the local provider.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._device: str | None = profile.get("device")
        self._store = EndpointStore(profile.home)
        self._connections = Connections()
        self._known: dict[str, tuple[Place, Row]] = {}

    def plan(self, spec: Deployment) -> Plan:
        """The server's configuration, and what this machine refuses or leaves out."""
        problems = list(check(spec, self._device))
        body = {} if problems else server_config(spec, spec.port, self._device)
        return Plan(
            provider=PROVIDER,
            capability="endpoints",
            requests=(NativeRequest(operation="python -m cloudai.server", body=body),),
            violations=tuple(
                Violation(problem.field or "", problem.message, problem.hint or "")
                for problem in problems
            ),
            dropped=tuple(dropped(spec)),
        )

    def deploy(self, spec: Deployment, call: Call) -> str:
        """Starts the server and gives the endpoint's name, while the model still loads.

        Raises InvalidRequest for what ``plan`` refuses, and Conflict for a name or a port that
        is taken.
        """
        for problem in check(spec, self._device):
            raise problem
        secrets = self._secrets(spec)
        listener = listen(spec.host, spec.port)
        with listener:
            port = listener.getsockname()[1]
            config = server_config(spec, port, self._device)
            row = Row(
                name=spec.name,
                key=spec.idempotency_key or call.key,
                host=spec.host,
                port=port,
                tls=config.get("tls_cert") is not None,
                token=spec.token,
                created_at=time.time(),
                launched_at=None,
            )
            same = self._store.insert(row)
            if same is not None:
                if not self._unborn(same):
                    return same
                self._erase(same)  # of a client that was killed before it started the server
                self._store.insert(row)
            try:
                self._launch(spec, config, secrets, listener)
            except BaseException:
                self._erase(spec.name)
                raise
        self._store.launched(spec.name)
        return spec.name

    def find(self, key: str, call: Call) -> str | None:
        """The name of the endpoint that was deployed with a key. One that was recorded and whose
        server was never started does not count: it is deployed anew."""
        found = self._store.find(key)
        return None if found is None or self._unborn(found) else found

    def status(self, id: str, call: Call) -> EndpointStatus:
        """The server's own word, while it lives; FAILED with its last lines once it does not."""
        return self._status(self._store.row(id))

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        """One request over a kept-alive loopback connection.

        Raises RateLimited, InvalidRequest, HandlerError, ServiceUnavailable, CallTimeout; and
        EndpointError, with the server's last lines, when its process is gone.
        """
        place, headers, timeout = self._asked(id, request, call)
        body = asked.body(request, "instances", "parameters")
        try:
            answer = self._connections.post(place, _PATH.format(id), headers, body, timeout)
        except ConnectionFailed as error:
            raise self._lost(id, error, call) from error
        self._check(id, answer)
        return Prediction(
            outputs=msgspec.json.decode(answer.body)["predictions"],
            variant=answer.headers.get("x-cloudai-variant"),
            version=answer.headers.get("x-cloudai-model-version"),
            request_id=answer.headers.get("x-request-id"),
        )

    def stream(self, id: str, request: PredictRequest, call: Call) -> Iterator[bytes]:
        """The server's answer piece by piece. Raises as ``predict`` does."""
        place, headers, timeout = self._asked(id, request, call)
        body = asked.body(request, "instances", "parameters", stream=True)
        try:
            answer, pieces = stream(place, _PATH.format(id), headers, body, timeout)
        except ConnectionFailed as error:
            raise self._lost(id, error, call) from error
        if answer.status != 200:
            self._check(id, answer._replace(body=b"".join(pieces)))
        yield from pieces

    def _asked(
        self, id: str, request: PredictRequest, call: Call
    ) -> tuple[Place, dict[str, str], float]:
        place, row = self._place(id)
        timeout = call.remaining()
        headers = {"Content-Type": "application/json", "X-Cloudai-Timeout": f"{timeout:.3f}"}
        if request.variant is not None:
            headers["X-Cloudai-Variant"] = _header("variant", request.variant)
        if row.token is not None:
            headers["Authorization"] = f"Bearer {self._profile.reveal(row.token)}"
        return place, headers, timeout

    def _lost(self, id: str, error: ConnectionFailed, call: Call) -> CloudAIError:
        self._known.pop(id, None)
        status = self.status(id, call)
        if status.state is not State.FAILED:
            return error
        return EndpointError(
            f"the endpoint {id!r} is not running: {status.reason}",
            provider=PROVIDER,
            log_tail=status.log_tail,
            hint="Delete it and deploy it again",
        )

    def _check(self, id: str, answer: Answer) -> None:
        if answer.status == 404:
            self._known.pop(id, None)
        if answer.status != 200:
            raise error_of(answer)

    def update(self, id: str, spec: Deployment, call: Call) -> None:
        """Loads other variants beside those that answer, then lets them take over; no request
        is lost, and when they cannot be loaded all stays as it was. Other weights alone load
        nothing.

        Raises EndpointError with the server's words when the new variants do not come up.
        """
        row = self._store.row(id)
        for problem in check(spec, self._device):
            raise problem
        if spec.rollout.kind != "all":
            raise UnsupportedByProvider(
                f"rollout.kind={spec.rollout.kind!r}",
                provider=PROVIDER,
                alternative="Update the variants' weights step by step.",
            )
        if spec.port not in (0, row.port):
            raise invalid("port", spec.port, f"is not the endpoint's, {row.port}", "Leave it out.")
        if spec.token is not None and spec.token != row.token:
            raise invalid("token", None, "differs", "Deploy anew to change who may call.")
        folder = self._store.folder(id)
        config = {**server_config(spec, row.port, self._device), "host": row.host}
        message = json.dumps({"config": config, "env": {**spec.env, **self._secrets(spec)}})
        try:
            with short(folder / "control.sock") as path:
                answer = msgspec.json.decode(control(path, message.encode(), call.remaining()))
        except (OSError, msgspec.DecodeError) as error:
            status = self._status(row)
            raise EndpointError(
                f"the endpoint {id!r} took no update ({status.reason or error})",
                provider=PROVIDER,
                log_tail=status.log_tail,
            ) from error
        if not answer["ok"]:
            raise EndpointError(
                f"the endpoint {id!r} stays as it was: {answer['error']}",
                provider=PROVIDER,
                log_tail=tuple(_logs.tail(folder)),
            )
        write(folder / "server.json", config)

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The lines of the server and of its workers."""
        self._store.row(id)
        folder = self._store.folder(id)
        try:
            lines, then = _logs.read(folder, cursor, ended=not alive(folder))
        except (ValueError, TypeError):
            raise invalid("cursor", cursor, "is not a cursor of this log") from None
        return LogPage(lines=tuple(LogLine(line.text, _time(line)) for line in lines), cursor=then)

    def delete(self, id: str, call: Call) -> None:
        """Stops the server, lets it answer what is under way for some seconds, and removes all
        that it left. One that is gone already is taken for done."""
        self._known.pop(id, None)
        try:
            self._store.row(id)
        except NotFound:
            return
        stop(self._store.folder(id), GRACE_SECONDS)
        self._erase(id)

    def list(self, call: Call) -> Sequence[EndpointStatus]:
        """All endpoints of this home folder, the oldest first."""
        return [self._status(row) for row in self._store.rows()]

    def close(self) -> None:
        """Closes the connections of this thread."""
        self._connections.close()

    def _secrets(self, spec: Deployment) -> dict[str, str]:
        return {name: self._profile.reveal(ref) for name, ref in spec.secrets.items()}

    def _launch(
        self,
        spec: Deployment,
        config: dict[str, Any],
        secrets: dict[str, str],
        listener: socket.socket,
    ) -> None:
        """Starts the server, which detaches itself before this returns."""
        folder = self._store.folder(spec.name)
        shutil.rmtree(folder, ignore_errors=True)
        ensure(folder)
        write(folder / "server.json", config)
        env = {**os.environ, **spec.env, **secrets}
        env.pop("CLOUDAI_SERVER_TOKEN_FILE", None)
        env.pop("CLOUDAI_SERVER_TOKEN", None)
        if spec.token is not None:
            env["CLOUDAI_SERVER_TOKEN"] = self._profile.reveal(spec.token)
        command = [sys.executable, "-P", "-m", "cloudai.server"]
        command += ["--config", str(folder / "server.json"), "--state", str(folder)]
        command += ["--detach", "--socket", str(listener.fileno())]
        client = os.getpid()
        with disk_errors(folder), open(folder / "log", "ab") as log:
            started = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                env=env,
                cwd=folder,
                timeout=LAUNCH_SECONDS,
                check=False,
                # Until it has its lock and detaches it dies with a client that is killed: else it
                # would take the lock from a rival who found the endpoint unborn.
                preexec_fn=lambda: processes.die_with(client),
            )
        if started.returncode:
            tail = tuple(_logs.tail(folder))
            raise EndpointError(
                f"the server of {spec.name!r} did not start: {tail[-1] if tail else 'no word'}",
                provider=PROVIDER,
                log_tail=tail,
            )

    def _unborn(self, name: str) -> bool:
        """Whether an endpoint's client died before it started the server: whoever asks holds the
        right to create it, which that client held."""
        return self._store.row(name).launched_at is None and not alive(self._store.folder(name))

    def _erase(self, name: str) -> None:
        shutil.rmtree(self._store.folder(name), ignore_errors=True)
        self._store.remove(name)

    def _place(self, id: str) -> tuple[Place, Row]:
        found = self._known.get(id)
        if found is None:
            row = self._store.row(id)
            found = self._known[id] = (Place(row.host, row.port, row.tls), row)
        return found

    def _status(self, row: Row) -> EndpointStatus:
        folder = self._store.folder(row.name)
        # Looked at first: a server that ends writes its last word before the lock is free.
        lives = alive(folder)
        told = _read_status(folder)
        native = told.get("state")
        reason: str | None = told.get("error") or None
        if lives:
            state = State.__members__.get(native or "STARTING", State.STARTING)
            if native == "STOPPED":
                state = State.STOPPING
        elif row.launched_at is None and time.time() - row.created_at < LAUNCH_SECONDS:
            state = State.STARTING
        else:
            state = State.FAILED
            reason = reason or (
                "the server was stopped" if native == "STOPPED" else "the server's process is gone"
            )
        return EndpointStatus(
            id=row.name,
            name=row.name,
            state=state,
            url=row.url,
            variants=_variants(told) if state is State.RUNNING else (),
            idempotency_key=row.key,
            reason=reason,
            native_state=native,
            created_at=row.created_at,
            log_tail=tuple(_logs.tail(folder)) if state is State.FAILED else (),
            cost=0.0,
        )


def _variants(told: dict[str, Any]) -> tuple[VariantStatus, ...]:
    variants = [variant for model in told.get("models", ()) for variant in model["variants"]]
    total = sum(variant["weight"] for variant in variants) or 1.0
    return tuple(
        VariantStatus(
            name=variant["name"],
            model=variant["path"],
            share=variant["weight"] / total,
            version=variant["version"],
            ready=variant["ready"],
        )
        for variant in variants
    )


def _read_status(folder: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode((folder / "status.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}


def _header(field: str, value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise invalid(field, value, "is not a variant's name")
    return value


def _time(line: _logs.Line) -> float:
    """The time that the server wrote into its own line, else the log file's."""
    if line.text.startswith('{"time":'):
        try:
            return float(line.text[8 : line.text.index(",")])
        except ValueError:
            pass
    return line.time

"""AWS on loopback: moto, with the operations that it lacks, strict, with lives and faults.

``AwsEmulator`` serves any program over a real socket, cloudai or plain boto3::

    with AwsEmulator() as aws:
        client = cloudai.Client(provider="aws", region="us-east-1", endpoint_url=aws.url)

or, by the environment, ``subprocess.run([...], env={**os.environ, **aws.env})``. ``mock_aws`` does
it in process, without a socket, as moto's own. moto keeps one account a process, so that there is
one emulated account a process too; ``start`` empties it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from cloudai.errors import MissingExtra
from cloudai.testing.emulators.aws._execute import LocalExecutor
from cloudai.testing.emulators.aws._state import (
    ACCOUNT,
    STATE,
    AwsState,
    Executor,
    Fate,
    Run,
    ScriptedExecutor,
    Served,
    Snapshot,
)
from cloudai.testing.emulators.common.fates import Fates
from cloudai.testing.emulators.common.faults import Faults
from cloudai.testing.emulators.common.server import EmulatorServer

__all__ = [
    "ACCOUNT",
    "BUCKET",
    "ROLE",
    "AwsEmulator",
    "AwsState",
    "Executor",
    "Fate",
    "LocalExecutor",
    "Recorded",
    "Run",
    "ScriptedExecutor",
    "Served",
    "Snapshot",
    "mock_aws",
]

ROLE: Final = f"arn:aws:iam::{ACCOUNT}:role/cloudai-jobs"
BUCKET: Final = "cloudai-emulated"

_KEPT: Final = 10_000


class Recorded(msgspec.Struct, frozen=True):
    """One request that came in.

    Parameters
    ----------
    method, path: of the request. operation: X-Amz-Target's, without the service; else empty.
    headers: of the request, in lower case. body: its bytes; empty for uploads over a MiB.
    """

    method: str
    path: str
    operation: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


_KEY: Final = f"AKIA{secrets.token_hex(8).upper()}"
"""The account's access key: one a process, as boto3's default session keeps the first."""


class AwsEmulator:
    """The emulated account behind a socket.

    Parameters
    ----------
    executor: what runs jobs and models; None: scripted, nothing is run.
    port: 0 takes a free one. region: of ``env`` and of the bucket that is there from the start.
    seed: of the faults' chances.

    Attributes
    ----------
    faults: see ``Faults``; a rule matches ``"POST / SageMaker.CreateTrainingJob"`` or
        ``"POST /model/…/converse"``.
    cloud_state: the account: its clock, knobs and resources. requests: what came in, in order.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        port: int = 0,
        region: str = "us-east-1",
        seed: int = 0,
    ) -> None:
        _require_moto()
        from moto.moto_server.werkzeug_app import create_backend_app

        from cloudai.testing.emulators.aws._install import install
        from cloudai.testing.emulators.aws._server import Dispatcher

        install()
        self.region = region
        self.cloud_state = STATE
        self.requests: list[Recorded] = []
        self._executor = executor
        self._app = Dispatcher(create_backend_app)
        self._server = EmulatorServer(self._record, error_body, port=port, seed=seed)

    @property
    def faults(self) -> Faults:
        return self._server.faults

    @property
    def told(self) -> Fates:
        """Outcomes of the next jobs, endpoints and batches."""
        return STATE.told

    @property
    def url(self) -> str:
        """Such as ``http://127.0.0.1:40123``."""
        return self._server.url

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that point any program at it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def keys(self) -> dict[str, str]:
        """The keys of an aws profile that works on it; the credentials are in ``env``."""
        return {"region": self.region, "endpoint_url": self.url, "role": ROLE, "bucket": BUCKET}

    def sent(self, operation: str) -> list[Recorded]:
        """The requests of one operation of SageMaker, or whose path ends so."""
        return [
            one
            for one in self.requests
            if one.operation == operation or (not one.operation and one.path.endswith(operation))
        ]

    def _record(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        if length:
            environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        headers = {
            name[5:].replace("_", "-").lower(): str(value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        path = environ["PATH_INFO"]
        if not path.startswith("/moto-api"):
            kept = body if length <= 1 << 20 else b""
            row = Recorded(
                environ["REQUEST_METHOD"], path, target.rpartition(".")[2], headers, kept
            )
            self.requests.append(row)
            del self.requests[:-_KEPT]
        key = _key_of(environ)
        if time.time() > STATE.expiries.get(key, float("inf")):
            return _expired_answer(start)
        if path == "/federation/credentials":
            return _sso_answer(start)
        if isinstance(STATE.executor, LocalExecutor) and key not in {_KEY, *STATE.issued}:
            return _unknown_answer(start)
        return self._app(environ, start)

    def start(self, executor: Executor | None = None) -> AwsEmulator:
        """Empties the account, puts the bucket and the role there, and begins to serve; harmless
        when it serves already. ``executor`` takes the place of the one it was made with."""
        self._executor = executor or self._executor
        _empty(self._executor, self.region)
        self.requests.clear()
        self._server.start()
        if isinstance(STATE.executor, LocalExecutor):
            STATE.executor.env = self.env
        return self

    def stop(self) -> None:
        """Ends it, with what it runs."""
        self._server.stop()
        _close()

    def __enter__(self) -> AwsEmulator:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _require_moto() -> None:
    if importlib.util.find_spec("moto") is None:
        raise MissingExtra("moto[server,sagemaker]", extra="testing")


def _empty(executor: Executor | None, region: str) -> None:
    from moto.core.base_backend import BackendDict
    from moto.core.model_instances import reset_model_data
    from moto.iam.models import iam_backends
    from moto.s3.models import s3_backends

    _close()
    BackendDict.reset()
    reset_model_data()
    STATE.reset()
    if executor is not None:
        STATE.executor = executor
    storage: Any = s3_backends[ACCOUNT]["aws"]
    storage.create_bucket(BUCKET, region)
    roles: Any = iam_backends[ACCOUNT]["aws"]
    roles.create_role(ROLE.rpartition("/")[2], _TRUST, "/", None, "", [], "3600")


_TRUST: Final = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": ["sagemaker.amazonaws.com", "bedrock.amazonaws.com"]},
                "Action": "sts:AssumeRole",
            }
        ],
    }
)


def _close() -> None:
    """Ends what the account's executor runs."""
    close = getattr(STATE.executor, "close", None)
    if close is not None:
        close()


def error_body(status: int, message: str) -> tuple[str, bytes]:
    """A fault as AWS's JSON services say it."""
    code = {429: "ThrottlingException", 503: "ServiceUnavailableException"}.get(
        status, "InternalServerException"
    )
    return "application/json", json.dumps({"__type": code, "message": message}).encode()


def _sso_answer(start: Callable[..., Any]) -> list[bytes]:
    """GetRoleCredentials of IAM Identity Center's portal, which moto lacks. The user's token is
    not looked at: werkzeug drops headers whose names hold an underscore."""
    if not STATE.signed_in:
        body: dict[str, Any] = {"message": "Session token not found or invalid"}
        return _json_answer("401 Unauthorized", body, "UnauthorizedException", start)
    until = time.time() + (3600.0 if STATE.lifetime is None else STATE.lifetime)
    key = f"ASIA{uuid.uuid4().hex[:16].upper()}"
    STATE.expiries[key] = until
    STATE.issued.add(key)
    made = {
        "accessKeyId": key,
        "secretAccessKey": "emulated",
        "sessionToken": "emulated",
        "expiration": int(until * 1000),
    }
    return _json_answer("200 OK", {"roleCredentials": made}, None, start)


def _key_of(environ: dict[str, Any]) -> str:
    """The access key that signed the request; empty where none did."""
    signed = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
    if not signed:
        signed = dict(parse_qsl(environ.get("QUERY_STRING", ""))).get("X-Amz-Credential", "")
    return signed.partition("/")[0]


def _unknown_answer(start: Callable[..., Any]) -> list[bytes]:
    """What executes code answers those alone who have its credentials."""
    body = {
        "__type": "UnrecognizedClientException",
        "message": "The security token included in the request is invalid. Code runs here: the "
        "credentials are those that `cloudai emulate --execute` prints and sets.",
    }
    return _json_answer("403 Forbidden", body, "UnrecognizedClientException", start)


def _expired_answer(start: Callable[..., Any]) -> list[bytes]:
    body = {
        "__type": "ExpiredTokenException",
        "message": "The security token included in the request is expired",
    }
    return _json_answer("403 Forbidden", body, "ExpiredTokenException", start)


def _json_answer(
    status: str, value: dict[str, Any], kind: str | None, start: Callable[..., Any]
) -> list[bytes]:
    body = json.dumps(value).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    if kind is not None:
        headers.append(("x-amzn-ErrorType", kind))
    start(status, headers)
    return [body]


@contextlib.contextmanager
def mock_aws(executor: Executor | None = None, *, region: str = "us-east-1") -> Generator[AwsState]:
    """moto's ``mock_aws`` with the extension: no socket, any boto3 of this process, cloudai's own
    calls included. Clients that were made before it are not mocked. Also a decorator, as
    ``@mock_aws()``.

    Batches on the client's side run in threads, since their usual worker processes would be
    outside the mock; at its end those that still run are cancelled.
    """
    _require_moto()
    import moto

    from cloudai.testing.emulators.aws._install import install

    install()
    with moto.mock_aws(), _workers_in_threads():
        _empty(executor, region)
        try:
            yield STATE
        finally:
            _close()


@contextlib.contextmanager
def _workers_in_threads() -> Generator[None]:
    from cloudai._core.batches import client_side, worker

    started: list[tuple[threading.Thread, Path]] = []

    def start(folder: Path, given: bytes) -> None:
        thread = threading.Thread(target=worker.work, args=(folder, given, None), daemon=True)
        started.append((thread, folder))
        thread.start()

    before, client_side.start = client_side.start, start
    try:
        yield
    finally:
        client_side.start = before
        for thread, folder in started:
            if thread.is_alive():
                (folder / "cancel").touch()
            thread.join()  # beyond the mock it would ask the real AWS

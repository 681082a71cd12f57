"""What the server serves and within which limits: a JSON file, the command line, or the
variables of SageMaker, Vertex AI and Azure ML."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from cloudai._core.handlers.container import MODEL_DIR, PORT
from cloudai._core.handlers.handler import PLACES
from cloudai.errors import ConfigError, InvalidRequest
from cloudai.server.targets import TARGETS, TargetName, filled
from cloudai.types._base import check_positive, invalid, met

DEFAULT_PORT: Final = PORT
DEFAULT_BATCH: Final = 64

QUICK_BATCH: Final = 256
"""Items of one ``predict`` call where so many take a handler less than ``QUICK_SECONDS``: a front
that shares its cores with the models spends half as much on requests that it answers together."""

QUICK_SECONDS: Final = 0.025
TOKEN_VARIABLE: Final = "CLOUDAI_SERVER_TOKEN"  # noqa: S105 (a variable's name)
TOKEN_FILE_VARIABLE: Final = "CLOUDAI_SERVER_TOKEN_FILE"  # noqa: S105 (a variable's name)

# A model's name stands in URLs, metrics and logs; it never becomes a path.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")

PredictorName: TypeAlias = Literal["auto", "handler", "embeddings", "classifier", "chat"]


class VariantConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model directory that answers for a model.

    Parameters
    ----------
    path: the model directory. handler: a Python file; None: the directory's own.
    weight: its share of the traffic, relative to the others'.
    shadow: True sends it a copy of the traffic and drops its answers.
    version: in metrics and answers; None: the beginning of the files' SHA-256.
    workers: processes; None: the server's.
    device: as the server's; None: the server's.
    predictor: ``auto`` takes a handler where there is one, else what config.json says.
    """

    path: str
    name: str = "main"
    handler: str | None = None
    weight: float = 1.0
    shadow: bool = False
    version: str | None = None
    workers: int | None = None
    predictor: PredictorName = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise invalid("variants.name", self.name, "is not a name")
        if not 0 <= self.weight < float("inf"):
            raise invalid("variants.weight", self.weight, "is not a number of at least 0")
        check_positive("variants.workers", self.workers)


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model by name, with the variants that share its traffic."""

    name: str
    variants: tuple[VariantConfig, ...]

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise invalid("models.name", self.name, "is not a name", "Use A-Z a-z 0-9 . _ -")
        live = [variant for variant in self.variants if not variant.shadow]
        if not sum(variant.weight for variant in live) > 0:
            raise invalid("variants.weight", [v.weight for v in live], "adds up to 0")
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise invalid("variants.name", names, "repeats a name")


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request may take.

    Parameters
    ----------
    body: bytes. depth: levels of JSON. items: inputs of one request.
    timeout: seconds until an answer; then 504. SageMaker allows a container 60 (InvokeEndpoint,
        read 2026-11). body_timeout: seconds until the whole request has come; then 408.
    write_timeout: seconds in which a client reads nothing of its answer; then its connection is
        closed.
    batch: items of one ``predict`` call; None: 64, for a handler up to 256 while so many take
        less than 25 ms, or what the predictor takes best (1024 texts for embeddings on a GPU).
        batch_bytes: bytes of one. queue: items that wait; beyond it 429.
    queue_bytes: bytes of all requests under way, unpacked; beyond it 429. None: 128 MiB, or four
        bodies where these are more.
    pixels: of an image.
    drain: seconds for the requests under way when the server is told to stop.
    """

    body: int = 16 << 20
    depth: int = 64
    items: int = 10_000
    timeout: float = 60.0
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    batch: int | None = None
    batch_bytes: int = 8 << 20
    queue: int = 1024
    queue_bytes: int | None = None
    pixels: int = 25_000_000
    drain: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check_positive(f"limits.{name}", getattr(self, name))
        if self.queue_bytes is not None and self.queue_bytes < self.body:
            raise invalid(
                "limits.queue_bytes", self.queue_bytes, f"is less than limits.body={self.body}"
            )

    @property
    def held(self) -> int:
        """``queue_bytes``, or what it is by itself."""
        return self.queue_bytes or max(128 << 20, 4 * self.body)


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server.

    Parameters
    ----------
    models: at least one; the first answers where a route names none.
    host, port: where it listens; port 0 picks a free one.
    hosts: names by which a server on loopback is asked too, such as that of a proxy before it.
    workers: processes for each variant; None: one a core on CPUs, one a GPU.
    device: ``cpu``, ``cuda``, ``cuda:0``; None: a GPU if there is one.
    dtype: ``float32``, ``bfloat16`` or ``auto``, for text models without a handler.
    limits: see there.
    target: a platform whose own limits and routes hold here too; None: none. See ``targets``.
        No limit is above the platform's.
    low_confidence, long_input: a prediction with a confidence below, and a text with more
        characters, are counted and warned of.
    access_log: one JSON line a request, without its inputs.
    tls_cert, tls_key: PEM files; both or none.
    """

    models: tuple[ModelConfig, ...]
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    hosts: tuple[str, ...] = ()
    workers: int | None = None
    device: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    limits: Limits = Limits()
    target: TargetName | None = None
    low_confidence: float = 0.5
    long_input: int = 1000
    access_log: bool = True
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine comes to it."""
        return self.host in {"127.0.0.1", "::1", "localhost"}

    def __post_init__(self) -> None:
        if not self.models:
            raise invalid("models", (), "is empty", "Give at least one model directory.")
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise invalid("models.name", names, "repeats a name")
        if not 0 <= self.port <= 65535:
            raise invalid("port", self.port, "is not a port", "Use 1 to 65535, or 0 for any.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise invalid("tls_cert", self.tls_cert, "needs tls_key, and the other way round")
        check_positive("workers", self.workers)
        if self.target is not None:
            about, own = TARGETS[self.target], self.limits
            limits = msgspec.structs.replace(
                own,
                body=min(own.body, about.body or own.body),
                timeout=min(own.timeout, about.most_timeout),
            )
            msgspec.structs.force_setattr(self, "limits", limits)


def read(file: Path) -> dict[str, Any]:
    """The fields of the configuration in a JSON file, for ``made``. Raises ConfigError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: {error}") from error


def made(fields: dict[str, Any], source: Path | None = None) -> ServerConfig:
    """The configuration of its fields; limits that are not among them are the target's own.

    Raises ConfigError naming what is wrong, and ``source``.
    """
    try:
        target, limits = fields.get("target"), fields.get("limits", {})
        if target is not None and target not in TARGETS:
            raise invalid("target", target, "is no target", f"Use one of {', '.join(TARGETS)}")
        if target is not None and isinstance(limits, dict):
            fields = {**fields, "limits": filled(target, limits)}
        return msgspec.convert(fields, met(ServerConfig))
    except (msgspec.ValidationError, InvalidRequest, ConfigError) as error:
        raise ConfigError(f"{source}: {error}" if source else str(error)) from error


def port_from(env: Mapping[str, str]) -> int:
    """``SAGEMAKER_BIND_TO_PORT``, then ``AIP_HTTP_PORT``, then ``CLOUDAI_PORT``, then 8080."""
    for name in ("SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT", "CLOUDAI_PORT"):
        if env.get(name):
            try:
                return int(env[name])
            except ValueError:
                raise ConfigError(f"{name}={env[name]!r} is not a port") from None
    return DEFAULT_PORT


def workers_from(env: Mapping[str, str]) -> int | None:
    """What the platforms' settings say of the worker processes: ``CLOUDAI_WORKERS``, then
    SageMaker's ``SAGEMAKER_MODEL_SERVER_WORKERS``, then Azure ML's ``WORKER_COUNT``."""
    return _number(env, "CLOUDAI_WORKERS", "SAGEMAKER_MODEL_SERVER_WORKERS", "WORKER_COUNT")


def limits_from(env: Mapping[str, str]) -> dict[str, int]:
    """The ``Limits`` that a container is told: ``CLOUDAI_MAX_BATCH`` and ``CLOUDAI_MAX_QUEUE``."""
    told = {"batch": _number(env, "CLOUDAI_MAX_BATCH"), "queue": _number(env, "CLOUDAI_MAX_QUEUE")}
    return {name: value for name, value in told.items() if value is not None}


def _number(env: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        if env.get(name):
            try:
                return int(env[name])
            except ValueError:
                raise ConfigError(f"{name}={env[name]!r} is not a number") from None
    return None


def host_from(env: Mapping[str, str]) -> str:
    """Loopback, unless told otherwise or in a platform's container, which is asked from outside."""
    if env.get("CLOUDAI_HOST"):
        return env["CLOUDAI_HOST"]
    platform = ("SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT", "AZUREML_MODEL_DIR")
    return "0.0.0.0" if any(env.get(name) for name in platform) else "127.0.0.1"  # noqa: S104


def model_dir_from(env: Mapping[str, str]) -> str:
    """``CLOUDAI_MODEL_DIR``, ``AZUREML_MODEL_DIR``, ``AIP_STORAGE_URI``, then /opt/ml/model."""
    for name in ("CLOUDAI_MODEL_DIR", "AZUREML_MODEL_DIR", "AIP_STORAGE_URI"):
        if env.get(name):
            return env[name]
    return MODEL_DIR


def model_folder(path: Path) -> Path:
    """Where the model's files are: Azure ML puts them one or more folders below the place that
    it names. A folder with one folder in it, and nothing else that could be served, is gone
    into."""
    while path.is_dir() and not any((path / place).is_file() for place in PLACES):
        inner = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        if len(inner) != 1 or not inner[0].is_dir():
            break
        path = inner[0]
    return path


def handler_from(env: Mapping[str, str], folder: str) -> str | None:
    """``CLOUDAI_HANDLER``: a file; a relative one is of the model's folder."""
    named = env.get("CLOUDAI_HANDLER")
    return str(Path(folder) / named) if named else None


def take_token(env: dict[str, str] | os._Environ[str]) -> str | None:
    """The bearer token that callers must send, removed from the environment so that neither the
    workers nor what they start inherit it."""
    value = env.pop(TOKEN_VARIABLE, None)
    path = env.pop(TOKEN_FILE_VARIABLE, None)
    if value is None and path is not None:
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"{TOKEN_FILE_VARIABLE}: {path} cannot be read ({error.strerror})"
            ) from error
    if value is not None and not value:
        raise ConfigError(f"{TOKEN_VARIABLE} is empty", hint="Unset it, or give a token.")
    return value


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def to_json(value: Any) -> bytes:
    """The configuration as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2)

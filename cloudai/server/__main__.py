"""``python -m cloudai.server``: what a container runs, and what ``cloudai serve`` and local
endpoints start."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudai._core.files.paths import here
from cloudai.errors import CloudAIError, ConfigError
from cloudai.server.config import (
    TOKEN_VARIABLE,
    ModelConfig,
    ServerConfig,
    VariantConfig,
    handler_from,
    host_from,
    limits_from,
    made,
    model_dir_from,
    model_folder,
    port_from,
    read,
    take_token,
    workers_from,
)
from cloudai.server.targets import NAMES, TARGETS, scoped, target_from


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m cloudai.server",
        description="Serves models over HTTP to SageMaker, Vertex AI, Azure ML, KServe and curl.",
        epilog="The bearer token that callers must send is read from CLOUDAI_SERVER_TOKEN, or "
        "from the file that CLOUDAI_SERVER_TOKEN_FILE names; never from an argument.",
    )
    found.add_argument("verb", nargs="?", choices=["serve"], help="as SageMaker says it; optional")
    found.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]DIR",
        help="a model directory; may be repeated (default: CLOUDAI_MODEL_DIR, "
        "AZUREML_MODEL_DIR, AIP_STORAGE_URI, /opt/ml/model)",
    )
    found.add_argument(
        "--variant",
        action="append",
        metavar="NAME[:WEIGHT]=DIR",
        help="another directory that shares the model's traffic, by weight (default: 1)",
    )
    found.add_argument(
        "--shadow",
        action="append",
        metavar="NAME[:SHARE]=DIR",
        help="a directory that gets a copy of the traffic, and answers nobody",
    )
    found.add_argument("--weight", type=float, help="of --model's own directory (default: 1)")
    found.add_argument("--handler", help="a Python file with load and predict, for all models")
    found.add_argument("--config", type=Path, help="a JSON file that says all this")
    found.add_argument("--host", help="where to listen (default: 127.0.0.1)")
    found.add_argument(
        "--port", type=int, help="default: SAGEMAKER_BIND_TO_PORT, AIP_HTTP_PORT, 8080; 0: any"
    )
    found.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a name by which a server on loopback is asked too; may be repeated",
    )
    found.add_argument("--workers", type=int, help="processes a model (default: one a core or GPU)")
    found.add_argument("--device", help="cpu, cuda, cuda:0 (default: a GPU if there is one)")
    found.add_argument("--dtype", choices=["auto", "float32", "bfloat16"])
    found.add_argument("--max-batch", type=int, help="inputs in one call of predict "
                       "(default: 64, or up to 256 that take less than 25 ms)")  # fmt: skip
    found.add_argument("--max-queue", type=int, help="inputs that may wait (default: 1024)")
    found.add_argument("--max-body", type=int, help="bytes of a request (default: 16 MiB)")
    found.add_argument("--timeout", type=float, help="seconds until an answer (default: 60)")
    found.add_argument(
        "--target",
        choices=NAMES,
        help="a platform whose own limits and routes hold here too (default: CLOUDAI_TARGET)",
    )
    found.add_argument("--tls-cert", help="a PEM file")
    found.add_argument("--tls-key", help="a PEM file")
    found.add_argument("--no-access-log", action="store_true")
    found.add_argument("--state", type=Path, help="a folder for the status and the control socket")
    found.add_argument(
        "--detach", action="store_true", help="go on in the background; with --state"
    )
    found.add_argument("--socket", type=int, help=argparse.SUPPRESS)
    return found


def config_from(options: argparse.Namespace) -> ServerConfig:
    """The configuration: the arguments over the file, or over the environment."""
    fields: dict[str, Any]
    if options.config is not None:
        fields = read(options.config)
    else:
        env = scoped(os.environ, options.target or target_from(os.environ))
        named = [_named(text) for text in options.model or [_local(model_dir_from(env))]]
        others = _variants(options, env)
        if others and len(named) > 1:
            raise ConfigError("--variant and --shadow are of one model; use --config for several")
        weight = 1.0 if options.weight is None else options.weight
        fields = {
            "models": [
                ModelConfig(
                    name=name,
                    variants=(
                        VariantConfig(
                            path=path, handler=_handler(options, env, path), weight=weight
                        ),
                        *others,
                    ),
                )
                for name, path in named
            ],
            "host": host_from(env),
            "port": port_from(env),
            "workers": workers_from(env),
            "limits": limits_from(env),
        }
    fields.setdefault("target", target_from(os.environ))
    for name in ("host", "port", "workers", "device", "dtype", "target", "tls_cert", "tls_key"):
        if getattr(options, name) is not None:
            fields[name] = getattr(options, name)
    if options.allow_host:
        fields["hosts"] = options.allow_host
    if options.no_access_log:
        fields["access_log"] = False
    limits = {
        name: value
        for name, value in (
            ("batch", options.max_batch),
            ("queue", options.max_queue),
            ("body", options.max_body),
            ("timeout", options.timeout),
        )
        if value is not None
    }
    if limits:
        fields["limits"] = {**fields.get("limits", {}), **limits}
    return made(fields, options.config)


def _handler(options: argparse.Namespace, env: Mapping[str, str], folder: str) -> str | None:
    return options.handler or handler_from(env, folder)


def _variants(options: argparse.Namespace, env: Mapping[str, str]) -> list[VariantConfig]:
    found: list[VariantConfig] = []
    for shadow, texts in ((False, options.variant), (True, options.shadow)):
        for text in texts or []:
            about, equals, path = text.partition("=")
            name, _, weight = about.partition(":")
            try:
                share = float(weight or 1)
            except ValueError:
                share = -1.0
            if not equals or not path or share < 0:
                raise ConfigError(
                    f"{text!r} is not a variant", hint="Write NAME=DIR or NAME:WEIGHT=DIR."
                )
            path = str(Path(path).expanduser().absolute())
            found.append(
                VariantConfig(
                    path=path,
                    name=name,
                    handler=_handler(options, env, path),
                    weight=share,
                    shadow=shadow,
                )
            )
    return found


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals:
        name, path = os.environ.get("CLOUDAI_MODEL_NAME", "model"), text
    return name, str(Path(path).expanduser().absolute())


def _local(uri: str) -> str:
    """The folder that the environment names: for ``file://`` and plain paths; the clouds' URIs
    are fetched first."""
    path = here(uri)
    if path is not None:
        return str(model_folder(path))
    from cloudai.server.fetch import fetch

    return str(fetch(uri))


def _check_token(target: str) -> None:
    about = TARGETS[target]
    if about.headers is not None and b"authorization" not in about.headers:
        raise ConfigError(
            f"{TOKEN_VARIABLE} is set, and {about.title} hand no Authorization header on, so that "
            "no caller could send the token",
            hint=f"Unset it (the platform itself checks its callers), or leave out {target!r}",
        )


def main(arguments: list[str] | None = None) -> int:
    """Serves until told to stop; gives the exit code."""
    options = parser().parse_args(arguments)
    try:
        token = take_token(os.environ)
        config = config_from(options)
        if token is not None and config.target is not None:
            _check_token(config.target)
        if options.detach:
            if options.state is None:
                raise ConfigError("--detach needs --state")
            from cloudai.server.run import detach

            detach(options.state)
        from cloudai.server.run import Server
        from cloudai.server.tracing import configure

        sockets = [socket.socket(fileno=options.socket)] if options.socket is not None else None
        if sockets:
            sockets[0].set_inheritable(False)
        # After the fork of --detach, which would lose the exporter's thread.
        return Server(config, token, options.state, sockets, configure(os.environ)).run()
    except CloudAIError as error:
        print(f"cloudai.server: {error}", file=sys.stderr)  # noqa: T201 (a command's error)
        return 2


if __name__ == "__main__":
    sys.exit(main())

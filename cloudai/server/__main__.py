"""``python -m cloudai.server``: what a container runs, and what ``cloudai serve`` and local
endpoints start."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from cloudai.errors import CloudAIError, ConfigError
from cloudai.server.config import (
    Limits,
    ModelConfig,
    ServerConfig,
    VariantConfig,
    host_from,
    model_dir_from,
    port_from,
    read,
    take_token,
    workers_from,
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m cloudai.server",
        description="Serves models over HTTP to SageMaker, Vertex AI, Azure ML, KServe and curl.",
        epilog="The bearer token that callers must send is read from CLOUDAI_SERVER_TOKEN, or "
        "from the file that CLOUDAI_SERVER_TOKEN_FILE names; never from an argument.",
    )
    made.add_argument("verb", nargs="?", choices=["serve"], help="as SageMaker says it; optional")
    made.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]DIR",
        help="a model directory; may be repeated (default: CLOUDAI_MODEL_DIR, "
        "AZUREML_MODEL_DIR, AIP_STORAGE_URI, /opt/ml/model)",
    )
    made.add_argument(
        "--variant",
        action="append",
        metavar="NAME[:WEIGHT]=DIR",
        help="another directory that shares the model's traffic, by weight (default: 1)",
    )
    made.add_argument(
        "--shadow",
        action="append",
        metavar="NAME[:SHARE]=DIR",
        help="a directory that gets a copy of the traffic, and answers nobody",
    )
    made.add_argument("--weight", type=float, help="of --model's own directory (default: 1)")
    made.add_argument("--handler", help="a Python file with load and predict, for all models")
    made.add_argument("--config", type=Path, help="a JSON file that says all this")
    made.add_argument("--host", help="where to listen (default: 127.0.0.1)")
    made.add_argument(
        "--port", type=int, help="default: SAGEMAKER_BIND_TO_PORT, AIP_HTTP_PORT, 8080; 0: any"
    )
    made.add_argument("--workers", type=int, help="processes a model (default: one a core or GPU)")
    made.add_argument("--device", help="cpu, cuda, cuda:0 (default: a GPU if there is one)")
    made.add_argument("--dtype", choices=["auto", "float32", "bfloat16"])
    made.add_argument("--max-batch", type=int, help="inputs in one call of predict (default: 64)")
    made.add_argument("--max-queue", type=int, help="inputs that may wait (default: 1024)")
    made.add_argument("--max-body", type=int, help="bytes of a request (default: 16 MiB)")
    made.add_argument("--timeout", type=float, help="seconds until an answer (default: 60)")
    made.add_argument("--tls-cert", help="a PEM file")
    made.add_argument("--tls-key", help="a PEM file")
    made.add_argument("--no-access-log", action="store_true")
    made.add_argument("--state", type=Path, help="a folder for the status and the control socket")
    made.add_argument("--detach", action="store_true", help="go on in the background; with --state")
    made.add_argument("--socket", type=int, help=argparse.SUPPRESS)
    return made


def config_from(options: argparse.Namespace) -> ServerConfig:
    """The configuration: the file, or the arguments over the environment."""
    if options.config is not None:
        config = read(options.config)
    else:
        named = [_named(text) for text in options.model or [_local(model_dir_from(os.environ))]]
        handler = options.handler or os.environ.get("CLOUDAI_HANDLER")
        others = _variants(options, handler)
        if others and len(named) > 1:
            raise ConfigError("--variant and --shadow are of one model; use --config for several")
        weight = 1.0 if options.weight is None else options.weight
        config = ServerConfig(
            models=tuple(
                ModelConfig(
                    name=name,
                    variants=(VariantConfig(path=path, handler=handler, weight=weight), *others),
                )
                for name, path in named
            ),
            host=host_from(os.environ),
            port=port_from(os.environ),
            workers=workers_from(os.environ),
        )
    over = {
        name: getattr(options, name)
        for name in ("host", "port", "workers", "device", "dtype", "tls_cert", "tls_key")
        if getattr(options, name) is not None
    }
    if options.no_access_log:
        over["access_log"] = False
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
        over["limits"] = Limits(**{**msgspec.structs.asdict(config.limits), **limits})
    return ServerConfig(**{name: getattr(config, name) for name in config.__struct_fields__} | over)


def _variants(options: argparse.Namespace, handler: str | None) -> list[VariantConfig]:
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
                VariantConfig(path=path, name=name, handler=handler, weight=share, shadow=shadow)
            )
    return found


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals:
        name, path = os.environ.get("CLOUDAI_MODEL_NAME", "model"), text
    return name, str(Path(path).expanduser().absolute())


def _local(uri: str) -> str:
    """A path for ``file://`` and plain paths; the clouds' URIs are fetched first."""
    scheme = urlsplit(uri).scheme
    if scheme in {"", "file"}:
        return unquote(urlsplit(uri).path) if scheme else uri
    from cloudai.server.fetch import fetch

    return str(fetch(uri))


def main(arguments: list[str] | None = None) -> int:
    """Serves until told to stop; gives the exit code."""
    options = parser().parse_args(arguments)
    try:
        token = take_token(os.environ)
        config = config_from(options)
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

"""``cloudai serve`` and ``package``: the endpoint server, here or in an image of its own; without a
provider or a ledger."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from cloudai.cli.context import CommandContext, command
from cloudai.engine import catalog, gguf
from cloudai.errors import ConfigError
from cloudai.server.targets import NAMES
from cloudai.types._base import invalid


@command
def serve(
    session: CommandContext,
    model: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL",
            help="Model directories, or names of local models such as smollm2-135m and "
            "all-minilm-l6-v2; several are served.",
        ),
    ] = None,
    server_config: Annotated[
        str | None, typer.Option(help="A JSON file that says all this, in place of MODEL.")
    ] = None,
    handler: Annotated[
        str | None, typer.Option(help="A Python file with load and predict.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:WEIGHT]=MODEL that shares the model's traffic; several."),
    ] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:SHARE]=MODEL that gets a copy of the traffic; several."),
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Of MODEL beside its variants.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="A platform whose own limits and routes hold here too: sagemaker, "
            "sagemaker-serverless, vertex, vertex-shared or azureml."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="0 picks a free one.  [default: 8080]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; else one a core.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Inputs in one call of predict.  [default: 64, or up to 256 that take < 25 ms]"
        ),
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(help="Inputs that may wait.  [default: 1024]")
    ] = None,
    max_body: Annotated[
        int | None, typer.Option(help="Bytes of a request.  [default: 16 MiB, or the target's]")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds until an answer.  [default: 60, or the target's]")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which a server on loopback is asked too; may be repeated."),
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="A PEM file.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="A PEM file.")] = None,
) -> None:
    """Serve a model directory or a local model over HTTP, in the foreground.

    Ctrl-C ends it. It writes its own log to stderr. Callers have to send the token in
    CLOUDAI_SERVER_TOKEN, if that is set.
    """
    if bool(model) == (server_config is not None):
        raise invalid(
            "model", model or None, "is needed, or --server-config in its place", "Give one."
        )
    if target is not None and target not in NAMES:
        raise invalid("--target", target, "is no target", f"Use one of {', '.join(NAMES)}.")
    arguments = [sys.executable, "-P", "-m", "cloudai.server"]
    for text in model or []:
        name, _, given = text.rpartition("=")
        found, folder = _model(session, "model", given)
        arguments += ["--model", f"{name or found}={folder}"]
    if handler is not None and not Path(handler).is_file():
        raise invalid("handler", handler, "is not a file", "Give the path of its file.")
    for option, value in (
        *(("--variant", _variant(session, "--variant", one)) for one in variant or []),
        *(("--shadow", _variant(session, "--shadow", one)) for one in shadow or []),
        *(("--allow-host", name) for name in allow_host or []),
        ("--config", server_config),
        ("--handler", handler),
        ("--weight", weight),
        ("--target", target),
        ("--host", host),
        ("--port", port),
        ("--workers", workers),
        ("--device", device),
        ("--dtype", dtype),
        ("--max-batch", max_batch),
        ("--max-queue", max_queue),
        ("--max-body", max_body),
        ("--timeout", timeout),
        ("--tls-cert", tls_cert),
        ("--tls-key", tls_key),
    ):
        if value is not None:
            arguments += [option, str(value)]
    sys.stdout.flush()
    # It takes this process's place, so that signals and the exit code are the server's own.
    os.execv(sys.executable, arguments)  # noqa: S606


def _model(session: CommandContext, field: str, given: str) -> tuple[str, str]:
    """The name to serve a model by, and its directory. A directory goes before a local model of
    the same name. Raises InvalidRequest where there is neither, telling what there is."""
    if Path(given).is_dir():
        return "model", given
    profile = session.client.profile
    wanted = profile.models.get(given, given) if profile.provider == "local" else given
    try:
        found = catalog.find(None, wanted, home=profile.home)
    except ConfigError as error:
        raise invalid(field, given, f"is not a directory, and {error}") from error
    models = profile.home / "models"
    if found.gguf and not gguf.place(found.key, models).is_dir():
        session.note(f"{found.name}: converting to safetensors, once (less than a minute) ...")
    folder = catalog.chat_folder(found, profile.home)
    name = Path(found.name if wanted == given else given).name.removesuffix(".gguf")
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "-", name).strip("-"), str(folder)


def _variant(session: CommandContext, field: str, text: str) -> str:
    about, equals, given = text.partition("=")
    return f"{about}={_model(session, field, given)[1]}" if equals and given else text


@command
def package(
    session: CommandContext,
    model: Annotated[str, typer.Argument(help="A model's directory.")],
    image: Annotated[str, typer.Option(help="Where the built image goes, with its tag.")],
    output: Annotated[str, typer.Option(help="A folder for the files; it is made.")],
    name: Annotated[str | None, typer.Option(help="Of the model; else the image's own.")] = None,
    handler: Annotated[
        str | None, typer.Option(help="A Python file with load and predict.")
    ] = None,
    requirement: Annotated[
        list[str] | None, typer.Option(help="What the handler needs, as NAME==VERSION; several.")
    ] = None,
    local: Annotated[bool, typer.Option(help="Put torch and the text models in.")] = False,
    gpus: Annotated[int, typer.Option(help="Of one replica.")] = 0,
) -> None:
    """Write a Dockerfile and Kubernetes manifests for a model directory.

    The folder is the whole build context: it gets a copy of the model, and of the handler.
    """
    if not Path(model).is_dir():
        raise invalid("model", model, "is not a directory", "Give the directory of a model.")
    if handler is not None and not Path(handler).is_file():
        raise invalid("handler", handler, "is not a file", "Give the path of its file.")
    target = Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise invalid("--output", output, "is not an empty folder", "Name a new one.")
    from cloudai._core.files.tree import copy, tree
    from cloudai._core.handlers.container import is_folder
    from cloudai.server.package import Package, files

    spec = Package(
        name=name or re.split(r"[:@]", image.rpartition("/")[2])[0],
        image=image,
        handler="handler.py" if handler else None,
        requirements=tuple(requirement or ()),
        extras=("local",) if local else ("server",),
        gpus=gpus,
    )
    written = files(spec)  # checked and made before anything is written
    copy(tree(Path(model), field="model"), target / spec.model)
    if handler is not None:
        shutil.copy2(handler, target / "handler.py")
    for file, text in written.items():
        (target / file).write_text(text, encoding="utf-8")
    if session.json:
        session.document({"folder": str(target), "files": sorted(written)})
    session.say(f"{target}: {', '.join(sorted(written))}")
    session.say(f"build it with: docker build -t {image} {target}")
    folder = str(target) if is_folder(str(target)) else f"./{target}"
    session.say(f"deploy it with: cloudai deploy {model} --name {spec.name} --image {folder}")

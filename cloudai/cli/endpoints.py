"""``cloudai deploy`` and ``predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cloudai._core.handlers.container import is_folder
from cloudai.cli import plans, specs, watch
from cloudai.cli.context import CommandContext, command, pair, typed
from cloudai.cli.terminal import Live
from cloudai.client import Endpoint, Job
from cloudai.errors import InvalidRequest
from cloudai.types import Deployment
from cloudai.types._base import invalid

_Strings = list[str] | None


@command
def deploy(
    session: CommandContext,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model's directory or URI, the handle of the job that trained it, or a .toml "
            "or .json file with the fields of a Deployment.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The endpoint's name.")] = None,
    handler: Annotated[
        str | None, typer.Option(help="A Python file with load and predict.")
    ] = None,
    variants: Annotated[
        _Strings,
        typer.Option(
            "--variant",
            metavar="NAME=MODEL[@WEIGHT]",
            help="Several models that share the traffic by weight. Repeatable.",
        ),
    ] = None,
    env: Annotated[
        _Strings, typer.Option(metavar="NAME=VALUE", help="An environment variable. Repeatable.")
    ] = None,
    tags: Annotated[_Strings, typer.Option("--tag", metavar="NAME=VALUE", help="A tag.")] = None,
    requirements: Annotated[str | None, typer.Option(help="A requirements file.")] = None,
    image: Annotated[
        str | None,
        typer.Option(help="An image that serves the model, or ./FOLDER of `cloudai package`."),
    ] = None,
    accelerator: Annotated[str | None, typer.Option(help='Such as "L4:1".')] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="The provider's own machine name.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Server processes on each replica.")] = None,
    host: Annotated[str | None, typer.Option(help="Where a local endpoint listens.")] = None,
    port: Annotated[int | None, typer.Option(help="Its port; 0 picks a free one.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Inputs in one call of predict.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds it may take.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Put it behind the endpoint that has the name.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be sent.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Wait until it is in service.")
    ] = True,
) -> int:
    """Deploy a model behind an endpoint.

    With --update the endpoint goes on answering while the new variants take over.
    """
    file = model if model is not None and model.endswith(specs.ENDINGS) else None
    fields = _beside(file, specs.table(file))
    resources = {
        key: value
        for key, value in (("accelerator", accelerator), ("instance_type", instance_type))
        if value is not None
    }
    options: dict[str, Any] = {
        "name": name,
        "handler": handler,
        "env": specs.pairs("--env", env),
        "tags": specs.pairs("--tag", tags),
        "requirements": requirements,
        "image": image,
        "workers": workers,
        "host": host,
        "port": port,
        "max_batch": max_batch,
        "timeout": timeout,
    }
    if variants:
        if model is not None:
            raise InvalidRequest("give MODEL or --variant, not both", field="variants")
        options["variants"] = [_variant(session, text, resources) for text in variants]
    elif model is not None and file is None:
        options["variants"] = [{"model": trained(session, model), "resources": resources}]
    spec = specs.read(Deployment, specs.over(fields, options))
    if plan:
        return plans.show(session, session.client.endpoints.plan(spec))
    with Live() as live:
        live.show(f"waiting for the endpoint {spec.name}")
        try:
            endpoint = _deploy(session, spec, update, wait)
        except KeyboardInterrupt:
            live.clear()
            session.note(f"The endpoint {spec.name!r} may still come up: see cloudai ls")
            raise
    status = endpoint.status
    if session.json:
        session.document({"id": endpoint.id, "status": status})
    session.say(endpoint.id)
    if wait:
        for line in watch.describe(status):
            session.say(line)
    return 0


def _deploy(session: CommandContext, spec: Deployment, update: bool, wait: bool) -> Endpoint:
    endpoints = session.client.endpoints
    if not update:
        return endpoints.deploy(spec, wait=wait)
    endpoint = endpoints.attach(spec.name)
    endpoint.update(spec, wait=wait)
    return endpoint


@command
def predict(
    session: CommandContext,
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="Its handle, or its name at the provider.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="JSON values; what is no JSON is a text."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="A file of JSON Lines, one input each; - is stdin."),
    ] = None,
    params: Annotated[
        _Strings, typer.Option("--param", metavar="NAME=VALUE", help="For predict. Repeatable.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Ask this variant, past the weights.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds, retries included.")] = None,
) -> None:
    """Ask an endpoint.

    It prints one line of JSON for each input, in their order. Without inputs they are read from
    stdin, one line of JSON each.
    """
    values = [typed(text) for text in inputs or ()]
    if file is not None or not values:
        values += _lines(file or "-")
    if not values:
        raise invalid("inputs", values, "is empty", "Give at least one input.")
    handle = session.client.endpoints.attach(endpoint)
    found = handle.invoke(
        values,
        params={name: typed(value) for name, value in specs.pairs("--param", params).items()},
        variant=variant,
        timeout=timeout,
    )
    if session.json:
        session.document(found)
        return
    for output in found.outputs:
        session.line(output)


def _lines(file: str) -> list[Any]:
    if file == "-":
        return _parsed("stdin", sys.stdin)
    try:
        with Path(file).open(encoding="utf-8") as lines:
            return _parsed(file, lines)
    except OSError as error:
        raise invalid("--file", file, f"cannot be read ({error.strerror})") from None


def _parsed(name: str, lines: Iterable[str]) -> list[Any]:
    found: list[Any] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line))
            except msgspec.DecodeError as error:
                raise invalid(
                    f"{name}, line {number}", line.strip(), f"is no JSON ({error})"
                ) from None
    return found


def trained(session: CommandContext, text: str) -> Any:
    """A model as a spec has it; a training job's handle stands for the model that it made."""
    if not text.startswith("cloudai:"):
        return text
    job = session.client.attach(text)
    if not isinstance(job, Job):
        raise invalid("model", text, "is not the handle of a training job")
    return msgspec.to_builtins(job.model)


def _variant(session: CommandContext, text: str, resources: dict[str, Any]) -> dict[str, Any]:
    name, place = pair("--variant", text)
    model, at, weight = place.rpartition("@")
    try:
        share = float(weight) if at else 1.0
    except ValueError:  # the @ belongs to the place
        model, share = place, 1.0
    return {
        "name": name,
        "model": trained(session, model if at else place),
        "weight": share,
        "resources": resources,
    }


def _beside(file: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a deployment's file with its paths made relative to the file."""
    made = dict(fields)
    if "handler" in made:
        made["handler"] = specs.beside(file, made["handler"])
    if isinstance(made.get("image"), str) and is_folder(made["image"]):
        made["image"] = specs.beside(file, made["image"])
    if isinstance(made.get("variants"), list):
        made["variants"] = [
            {
                key: specs.beside(file, value) if key in {"model", "handler"} else value
                for key, value in one.items()
            }
            if isinstance(one, dict)
            else one
            for one in made["variants"]
        ]
    return made

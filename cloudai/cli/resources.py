"""``cloudai ls`` and ``destroy``: the ledger."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from cloudai._core.state.ledger import Entry
from cloudai.cli.context import CommandContext, command
from cloudai.cli.exits import OK, USAGE
from cloudai.cli.terminal import ago, table
from cloudai.errors import CloudAIError, InvalidRequest, NotFound

KindOption = Annotated[
    Literal["training", "endpoint", "batch"] | None,
    typer.Option("--kind", help="Only these: training, endpoint or batch."),
]


@command
def ls(
    session: CommandContext,
    kind: KindOption = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the providers how each one stands.")
    ] = False,
) -> None:
    """List all that was created from here and is not removed.

    The oldest comes first. It reads the ledger, so the states are those that were last seen.
    """
    entries = _entries(session, kind)
    states = {id(entry): str(entry.state) for entry in entries}
    if refresh:
        states = {id(entry): _fresh(session, entry) for entry in entries}
    if session.json:
        session.document([_json(entry, states[id(entry)]) for entry in entries])
        return
    if not entries:
        session.note("nothing was created from here, or all of it is removed")
        return
    head = ("STATE", "KIND", "PROFILE", "NAME", "AGE", "URI")
    rows = [
        (
            states[id(entry)],
            entry.kind,
            entry.profile,
            entry.name,
            ago(entry.created),
            entry.uri or "(not confirmed)",
        )
        for entry in entries
    ]
    for line in table([head, *rows]):
        session.say(line)


@command
def destroy(
    session: CommandContext,
    uris: Annotated[
        list[str] | None, typer.Argument(metavar="URI", help="Handles, cloudai://…, or names.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that `cloudai ls` lists.")] = False,
    kind: KindOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove jobs and endpoints at their provider.

    All that they left there goes too. A job that runs is stopped. Asks first on a terminal;
    elsewhere --yes has to be given.
    """
    if everything == bool(uris):
        raise InvalidRequest("give handles, or --all", field="uri")
    if kind is not None and not everything:
        raise InvalidRequest("--kind goes with --all", field="--kind")
    targets = (
        _entries(session, kind) if everything else [_known(session, uri) for uri in uris or ()]
    )
    if targets and not yes and not _agreed(session, targets):
        session.note("nothing was removed")
        return USAGE
    removed: list[str] = []
    first = OK
    for target in targets:
        try:
            session.client.destroy(target)
        except CloudAIError as error:
            session.note(f"{_name(target)} is not removed:")
            first = first or session.fail(error)
            continue
        removed.append(_name(target))
        session.say(f"removed {_name(target)}")
    if session.json:
        session.document({"removed": removed})
    elif not targets:
        session.note("there is nothing to remove")
    return first


def _entries(session: CommandContext, kind: str | None) -> list[Entry]:
    return [one for one in session.client.resources() if kind is None or one.kind == kind]


def _known(session: CommandContext, uri: str) -> str | Entry:
    """The ledger's entry of a handle; a handle made elsewhere has to be there at its provider."""
    uri = session.uri(uri)
    for entry in session.client.resources():
        if entry.uri == uri:
            return entry
    return session.handle(uri).id


def _fresh(session: CommandContext, entry: Entry) -> str:
    """How it stands at its provider; GONE where it is not there any more."""
    if entry.uri is None:
        return str(entry.state)
    try:
        return str(session.client.attach(entry.uri).status.state)
    except NotFound:
        return "GONE"
    except CloudAIError as error:
        session.note(f"{entry.uri}: {error}")
        return f"{entry.state}?"


def _agreed(session: CommandContext, targets: list[Any]) -> bool:
    if not sys.stdin.isatty():
        raise InvalidRequest("there is no terminal to ask on", field="--yes", hint="Give --yes")
    for target in targets:
        session.note(f"  {_name(target)}")
    return typer.confirm(f"Remove {len(targets)}?", err=True)


def _name(target: str | Entry) -> str:
    if isinstance(target, str):
        return target
    return target.uri or f"{target.kind} {target.name} (not confirmed)"


def _json(entry: Entry, state: str) -> dict[str, Any]:
    return {
        "uri": entry.uri,
        "id": entry.id,
        "kind": entry.kind,
        "name": entry.name,
        "profile": entry.profile,
        "provider": entry.provider,
        "state": state,
        "created": entry.created,
        "updated": entry.updated,
    }

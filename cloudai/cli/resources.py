"""``cloudai ls``, ``destroy``, ``adopt`` and ``forget``: the ledger."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import msgspec
import typer

from cloudai._core.state.ledger import Entry
from cloudai.cli.context import CommandContext, command
from cloudai.cli.exits import OK, USAGE
from cloudai.cli.terminal import ago, table
from cloudai.errors import CloudAIError, Conflict, InvalidRequest, NotFound
from cloudai.types import State

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
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Ask, show prices an hour, and what the ledger does not know, by its tag."
        ),
    ] = False,
) -> None:
    """List all that was created from here and is not removed.

    The oldest comes first. It reads the ledger, so the states are those that were last seen.
    """
    entries = _entries(session, kind)
    states = {id(entry): str(entry.state) for entry in entries}
    if refresh or everything:
        states = {id(entry): _fresh(session, entry) for entry in entries}
    found = [_json(entry, states[id(entry)]) for entry in entries]
    if everything:
        for one in session.client.lost():
            if kind in (None, one.kind):
                row = msgspec.to_builtins(one)
                found.append({**_LOST, **row, "profile": session.client.profile.name})
        for row in found:
            row["hourly"] = _price(session, row)
    if session.json:
        session.document(found)
        return
    if not found:
        session.note("nothing was created from here, or all of it is removed")
        return
    head = ("STATE", "KIND", "PROFILE", "NAME", "AGE", *(["USD/H"] if everything else []), "URI")
    rows = [
        (
            row["state"],
            row["kind"],
            row["profile"],
            row["name"],
            "(not in the ledger)" if row["created"] is None else ago(row["created"]),
            *([_dollars(row["hourly"])] if everything else []),
            row["uri"] or "(not confirmed)",
        )
        for row in found
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
    force: Annotated[
        bool, typer.Option("--force", help="Also what cloudai did not make, by its name.")
    ] = False,
) -> int:
    """Remove jobs and endpoints at their provider.

    All that they left there goes too. A job that runs is stopped. Asks first on a terminal;
    elsewhere --yes has to be given. What lies in another account, region or workspace than the
    profile's, and what carries another's tag or none, is left alone.
    """
    if everything == bool(uris):
        raise InvalidRequest("give handles, or --all", field="uri")
    if kind is not None and not everything:
        raise InvalidRequest("--kind goes with --all", field="--kind")
    if force and everything:
        raise InvalidRequest("--force goes with handles or names", field="--force")
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
            session.client.destroy(target, force=force)
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


@command
def adopt(
    session: CommandContext,
    uris: Annotated[list[str], typer.Argument(metavar="URI...", help="Handles, cloudai://….")],
) -> int:
    """Take into the ledger what cloudai made elsewhere, or what it lost.

    `cloudai ls --all` lists it. What carries no tag of cloudai is refused.
    """
    first = OK
    taken: list[str] = []
    for uri in uris:
        try:
            taken.append(str(session.client.adopt(uri).uri))
        except CloudAIError as error:
            session.note(f"{uri} is not adopted:")
            first = first or session.fail(error)
            continue
        session.say(f"adopted {taken[-1]}")
    if session.json:
        session.document({"adopted": taken})
    return first


@command
def forget(
    session: CommandContext,
    uris: Annotated[
        list[str], typer.Argument(metavar="URI...", help="Handles, or names that `ls` lists.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Take rows out of the ledger; what runs, runs on.

    For what can't be reached any more. Its provider is not asked: what is still there stays, and
    is billed. Asks first on a terminal; elsewhere --yes has to be given.
    """
    rows: list[Entry] = []
    for uri in uris:
        same = [row for row in session.client.resources() if uri in (row.uri, row.name, row.key)]
        if not same:
            raise NotFound(f"the ledger has no {uri!r}", hint="cloudai ls lists what it has")
        rows += same
    if not yes and not _agreed(session, rows, "Forget"):
        session.note("nothing was forgotten")
        return USAGE
    for row in rows:
        session.client.forget(row)
        session.say(f"forgot {_name(row)}" + (f", made at {row.lies}" if row.lies else ""))
    if session.json:
        session.document({"forgot": [_name(row) for row in rows]})
    return OK


_LOST = {"id": None, "provider": None, "created": None, "updated": None, "place": None}
_ENDED = {"GONE", "ELSEWHERE", *(str(state) for state in State if state.done)}


def _price(session: CommandContext, row: dict[str, Any]) -> float | None:
    """US dollars an hour of what runs; None where it is not known."""
    if row["uri"] is None or row["state"] in _ENDED:
        return None
    try:
        return session.client.hourly(row["uri"])
    except CloudAIError:
        return None


def _dollars(price: float | None) -> str:
    return "" if price is None else f"{price:.3f}"


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
    except Conflict as error:
        session.note(f"{entry.uri}: {error}")
        return "ELSEWHERE"
    except CloudAIError as error:
        session.note(f"{entry.uri}: {error}")
        return f"{entry.state}?"


def _agreed(session: CommandContext, targets: list[Any], verb: str = "Remove") -> bool:
    if not sys.stdin.isatty():
        raise InvalidRequest("there is no terminal to ask on", field="--yes", hint="Give --yes")
    for target in targets:
        session.note(f"  {_name(target)}")
    return typer.confirm(f"{verb} {len(targets)}?", err=True)


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
        "place": None if entry.lies is None else msgspec.to_builtins(entry.lies),
    }

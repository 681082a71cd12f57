"""``cloudai status``, ``logs``, ``wait`` and ``cancel``: what is done with a handle."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer

from cloudai._core.calls.wait import intervals
from cloudai.cli import watch
from cloudai.cli.context import CommandContext, command
from cloudai.cli.exits import OK
from cloudai.cli.terminal import Live
from cloudai.client import Endpoint
from cloudai.errors import CloudAIError, InvalidRequest
from cloudai.types import LogLine, LogPage
from cloudai.types._base import invalid

Handle = Annotated[
    str, typer.Argument(metavar="URI", help="A handle, cloudai://…, or a name of `cloudai ls`.")
]
Handles = Annotated[
    list[str], typer.Argument(metavar="URI", help="Handles, cloudai://…, or names.")
]

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)\Z")
_SIZES = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@command
def status(session: CommandContext, uri: Handle) -> None:
    """Show a job or an endpoint."""
    handle = session.handle(uri)
    found = handle.status
    if session.json:
        session.document({"id": handle.id, "status": found})
    session.say(handle.id)
    for line in watch.describe(found):
        session.say(line)


@command
def logs(
    session: CommandContext,
    uri: Handle,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until its end.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Only lines this young, such as 90s, 10m, 2h, 1d.")
    ] = None,
) -> None:
    """Print a log; -f follows it.

    Ctrl-C leaves the job alone.
    """
    handle = session.handle(uri)
    start = None if since is None else time.time() - _seconds(since)
    lines = (
        _endpoint_lines(handle, follow, start)
        if isinstance(handle, Endpoint)
        else handle.logs(follow=follow, since=start)
    )
    try:
        for line in lines:
            if session.json:
                session.line(line)
            session.say(f"[{line.source}] {line.text}" if line.source else line.text)
    except KeyboardInterrupt:
        raise watch.left_alone(session, handle) from None


@command
def wait(
    session: CommandContext,
    uris: Handles,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for each; a job goes on when they are over.")
    ] = None,
) -> int:
    """Wait for jobs to end and endpoints to be in service.

    The exit code is that of the first one that did not succeed.
    """
    return _each(session, uris, lambda handle: _awaited(session, handle, timeout))


@command
def cancel(
    session: CommandContext,
    uris: Handles,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end.")] = False,
) -> int:
    """Ask jobs to stop.

    Harmless for one that has ended.
    """

    def stop(handle: Any) -> Any:
        if isinstance(handle, Endpoint):
            raise InvalidRequest(
                f"{handle.id} is an endpoint, which has no end to wait for",
                field="uri",
                hint=f"Remove it: cloudai destroy '{handle.id}'",
            )
        handle.cancel()
        return handle.wait(check=False) if wait else handle.status

    return _each(session, uris, stop)


def _each(session: CommandContext, uris: list[str], work: Any) -> int:
    """Does the work for each handle; JSON Lines where there are several."""
    first = OK
    for uri in uris:
        try:
            handle = session.handle(uri)
            found = work(handle)
        except CloudAIError as error:
            first = first or session.fail(error)
            continue
        if session.json:
            emit = session.document if len(uris) == 1 else session.line
            emit({"id": handle.id, "status": found})
        session.say(f"{handle.id} {found.state}")
    return first


def _awaited(session: CommandContext, handle: Any, timeout: float | None) -> Any:
    if not isinstance(handle, Endpoint):
        return watch.job(session, handle, timeout=timeout)
    with Live() as live:
        live.show(f"waiting for the endpoint {handle.name}")
        return handle.wait(timeout) if timeout is not None else handle.wait()


def _endpoint_lines(endpoint: Endpoint, follow: bool, since: float | None) -> Any:
    """An endpoint's log; followed by its pages' cursor until the endpoint has ended."""
    cursor: str | None = None
    pauses = intervals(remote=endpoint._bound.remote, timeout=None)
    while True:
        done = not follow or endpoint.status.state.done
        page: LogPage = endpoint._call(
            "logs",
            lambda call, at=cursor: endpoint._bound.adapter.logs(endpoint.native_id, at, call),
        )
        cursor = page.cursor
        yield from (line for line in page.lines if _young(line, since))
        if page.lines:
            pauses = intervals(remote=endpoint._bound.remote, timeout=None)
        elif done:
            return
        else:
            time.sleep(next(pauses))


def _young(line: LogLine, since: float | None) -> bool:
    return since is None or line.time is None or line.time >= since


def _seconds(text: str) -> float:
    match = _SPAN.match(text)
    if not match:
        raise invalid("--since", text, "is not a span of time", "Such as 90s, 10m, 2h or 1d.")
    return float(match[1]) * _SIZES[match[2]]

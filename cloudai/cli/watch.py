"""Waiting for a job where one can see how it goes: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from cloudai.cli.context import CommandContext
from cloudai.cli.exits import INTERRUPTED
from cloudai.cli.terminal import Live, bar, duration
from cloudai.client import BatchJob, Endpoint, Job
from cloudai.errors import JobError
from cloudai.types import EndpointStatus, JobStatus

_TOTALS = (("epoch", "epochs"), ("step", "steps"), ("step", "max_steps"))
"""A metric, and the hyperparameter that says how far it goes."""


def job(
    session: CommandContext,
    handle: Job | BatchJob,
    *,
    logs: bool = False,
    timeout: float | None = None,
) -> JobStatus:
    """Waits for a job's end.

    Parameters
    ----------
    session: the run of the command.
    logs: True writes the job's log to stderr as it comes, where there is no terminal.
    timeout: seconds; past it WaitTimeout is raised.

    Raises the error of an end that is not success. Ctrl-C leaves the job alone, says how to
    come back, and ends the command.
    """
    try:
        with Live() as live:
            if logs and not live.on and timeout is None:
                for line in handle.logs(follow=True):
                    session.note(line.text)
                try:
                    return handle.wait()
                except JobError as error:
                    error.log_tail = ()  # it has just been printed
                    raise
            spec = _spec(session, handle)
            said: list[object] = [None]

            def update(status: JobStatus) -> None:
                if live.on:
                    live.show(progress(status, spec))
                elif status.state is not said[0]:
                    said[0] = status.state
                    session.note(f"{handle.id} {status.state}")

            return handle.wait(timeout, on_update=update)
    except KeyboardInterrupt:
        raise left_alone(session, handle) from None


def left_alone(session: CommandContext, handle: Job | BatchJob | Endpoint) -> Exception:
    """Says that ctrl-C ended the look and not the job; gives what ends the command."""
    import typer

    session.note(f"\nThe job goes on. To come back:  cloudai wait '{handle.id}'")
    session.note(f"To follow its log:              cloudai logs -f '{handle.id}'")
    session.note(f"To stop it:                     cloudai cancel '{handle.id}'")
    return typer.Exit(INTERRUPTED)


def progress(status: JobStatus, spec: Mapping[str, Any]) -> str:
    """One line on how far a job is."""
    parts = [str(status.state)]
    share = _share(status, spec)
    if share is not None:
        parts.append(bar(share))
    if status.progress is not None:
        done, whole = status.progress
        parts.append(f"{done}/{whole if whole is not None else '?'} lines")
    if status.started_at is not None:
        parts.append(duration((status.ended_at or time.time()) - status.started_at))
    parts += [f"{name} {points[-1].value:.4g}" for name, points in status.metrics.items()]
    return "  ".join(parts)


def _share(status: JobStatus, spec: Mapping[str, Any]) -> float | None:
    """How much of the work is done, 0 to 1; None where nothing tells."""
    if status.progress is not None:
        done, whole = status.progress
        return done / whole if whole else None
    told = status.metrics.get("progress")
    if told:
        return told[-1].value
    for metric, total in _TOTALS:
        whole = spec.get("hyperparameters", {}).get(total)
        points = status.metrics.get(metric)
        if points and isinstance(whole, (int, float)) and whole > 0:
            return points[-1].value / whole
    return None


def _spec(session: CommandContext, handle: Job | BatchJob) -> dict[str, Any]:
    """The job's spec, from the ledger; empty for a job that was made elsewhere."""
    for entry in session.client.resources():
        if entry.uri == handle.id:
            return msgspec.json.decode(entry.spec)
    return {}


def describe(status: JobStatus | EndpointStatus) -> list[str]:
    """A snapshot in lines, for a person."""
    lines = [f"state:    {status.state}" + (f" ({status.reason})" if status.reason else "")]
    if isinstance(status, EndpointStatus):
        if status.url:
            lines.append(f"url:      {status.url}")
        lines += [
            f"variant:  {one.name}  {one.share:.0%} of the traffic  {one.ready} ready  {one.model}"
            for one in status.variants
        ]
    else:
        if status.started_at is not None:
            took = (status.ended_at or time.time()) - status.started_at
            lines.append(f"took:     {duration(took)}")
        if status.restarts:
            lines.append(f"restarts: {status.restarts}")
        if status.progress is not None:
            lines.append(f"lines:    {status.progress[0]} of {status.progress[1] or '?'}")
        if status.errors:
            lines.append(f"errors:   {status.errors}")
        lines += [f"metric:   {name} {of[-1].value:.6g}" for name, of in status.metrics.items()]
        lines += [f"output:   {name} {place}" for name, place in status.outputs.items()]
    if status.cost:
        lines.append(f"cost:     ${status.cost:.4f}")
    lines += [f"    {line}" for line in status.log_tail]
    return lines

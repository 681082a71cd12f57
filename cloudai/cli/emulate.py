"""``cloudai emulate``: offline clouds for any program of this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloudai._core.state.disk import write_whole
from cloudai.cli import exits
from cloudai.cli.context import CommandContext, command
from cloudai.types._base import invalid

if TYPE_CHECKING:
    from cloudai.testing.clouds import EmulatedCloud

_ENDING: Final = ("SIGTERM", "SIGHUP")
"""Signals that end it as Ctrl-C does."""


@command
def emulate(
    session: CommandContext,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[aws] [azure] [vertex] [-- COMMAND...]",
            help="Which clouds, else all; and a program to run in their environment.",
        ),
    ] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Run jobs and models here, for real.")
    ] = False,
    speed: Annotated[float, typer.Option(help="How many times as fast as the clock.")] = 1.0,
    port: Annotated[
        int, typer.Option(help="aws takes it, azure the next two, vertex the one after; 0: any.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the faults' chances.")] = 0,
    env_file: Annotated[
        str | None,
        typer.Option(
            "--env-file", metavar="FILE", help="Also write NAME=VALUE lines; removed at the end."
        ),
    ] = None,
) -> int:
    """Start AWS, Azure or Vertex AI on this machine, for any program.

    Prints the environment variables that point cloudai, and the vendors' own SDKs, to them, and
    serves until Ctrl-C or SIGTERM. With a COMMAND it runs that in the environment, prints
    nothing, and ends with its exit code.
    """  # fmt: skip
    names, program = _split(words or [])
    with _ended_by_signals(), ExitStack() as stack:
        try:
            clouds = _started(stack, names, execute=execute, speed=speed, port=port, seed=seed)
            from cloudai.testing.clouds import environment

            variables = environment(clouds)
            if env_file is not None:
                stack.callback(_remove, _written(Path(env_file), variables))
            if program:
                return _run(program, variables)
            _tell(session, clouds, variables)
            threading.Event().wait()
        except KeyboardInterrupt:
            session.note("cloudai: the emulated clouds end")
            return exits.INTERRUPTED if program else exits.OK
    return exits.OK


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """The clouds, and the program: what follows from the first word on that is none, or is
    named again (``cloudai emulate aws -- aws s3 ls``). Raises ConfigError for neither."""
    from cloudai.testing.clouds import CLOUDS
    from cloudai.types._base import unknown

    names: list[str] = []
    while words and words[0] in CLOUDS and words[0] not in names:
        names, words = [*names, words[0]], words[1:]
    if words and shutil.which(words[0]) is None:
        raise unknown("emulated cloud or program", words[0], CLOUDS)
    return names or list(CLOUDS), words


def _started(stack: ExitStack, names: list[str], **about: Any) -> list[EmulatedCloud]:
    from cloudai.testing.clouds import PORTS, emulated

    port = about.pop("port")
    made = [emulated(name, port=port and port + PORTS[name], **about) for name in names]
    return [stack.enter_context(cloud) for cloud in made]


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """SIGTERM and SIGHUP are taken as Ctrl-C is, so that all is cleaned up."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    # A shell starts what is put into the background with this one ignored.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(
    session: CommandContext, clouds: list[EmulatedCloud], variables: dict[str, str | None]
) -> None:
    unset = [name for name, value in variables.items() if value is None]
    values = {name: value for name, value in variables.items() if value is not None}
    if session.json:
        about = {cloud.name: {"url": cloud.url} for cloud in clouds}
        session.line({"clouds": about, "environment": values, "unset": unset})
    if unset:
        session.say(f"unset {' '.join(unset)}")
    for name, value in values.items():
        session.say(f"export {name}={shlex.quote(value)}")
    for cloud in clouds:
        session.note(f"cloudai: {cloud.name} is emulated at {cloud.url}")
    session.note("cloudai: Ctrl-C ends it")


def _written(file: Path, variables: dict[str, str | None]) -> Path:
    """The variables as a file that a shell can source and Docker read. Raises InvalidRequest."""
    lines = [
        f"{name}={shlex.quote(value)}\n" for name, value in variables.items() if value is not None
    ]
    try:
        # Another process sees the whole file or none; it holds keys.
        write_whole(file, "".join(lines).encode())
    except OSError as error:
        raise invalid(
            "--env-file", str(file), f"cannot be written ({error.strerror})", "Name another file."
        ) from error
    return file


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink(missing_ok=True)


def _run(program: list[str], variables: dict[str, str | None]) -> int:
    """Runs the program to its end; its exit code, as a shell has it."""
    from cloudai.testing.clouds import apply

    env = dict(os.environ)
    apply(variables, env.__setitem__, lambda name: env.pop(name, None))
    with subprocess.Popen(program, env=env) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    return code if code >= 0 else 128 - code

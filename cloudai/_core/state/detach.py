"""Starts a process that outlives whoever started it, and leaves no zombie there: the shell in
between ends at once, and the process becomes a child of init."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cloudai._core.state.disk import MEND, disk_errors

# A shell gives what it starts in the background /dev/null for input, so the pipe is passed on as
# another descriptor first.
_SHELL: Final = 'exec 3<&0; "$@" <&3 3<&- &'


def start(argv: Sequence[str], log: Path, *, given: bytes = b"", cwd: str | None = None) -> None:
    """Starts the command in a session of its own, which keeps ^C away from it.

    Parameters
    ----------
    log: its output is appended to this file. given: what it reads from standard input (up to
        64 KiB, what a pipe holds): the way for secrets, which then stand in no file, argument or
        environment.

    Raises StateError where the log cannot be written.
    """
    with disk_errors(log, MEND), open(log, "ab") as output:
        subprocess.run(
            ["/bin/sh", "-c", _SHELL, "sh", *argv],
            input=given,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=cwd,
            check=True,
        )

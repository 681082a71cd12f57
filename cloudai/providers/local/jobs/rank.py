"""What torchrun starts in place of each rank's script: it ties the rank's life to the agent's,
gives the rank a log of its own, and becomes the script.

torchrun's workers lead sessions of their own, so that killing the agent's group misses them
(measured: they lived on). The kernel's parent-death signal does not.

Run as a file, with the standard library alone: ``python -I -S rank.py COMMAND...``.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    folder = os.environ.get("CLOUDAI_LOG_DIR")
    if folder:
        # One file a rank: two ranks writing one would tear each other's lines.
        path = os.path.join(folder, f"log.rank{os.environ.get('RANK', '0')}")
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606


if __name__ == "__main__":
    main()

"""The supervisor of one job: a process of its own session that outlives the client.

It holds a lock on ``<job>/lock`` for as long as it lives: a job that says RUNNING while that
lock is free has lost its supervisor. It starts the script, keeps the times and metrics of its
log, restarts it where the spec says so, stops it when asked or when its time is over, and
leaves no process behind. It sits idle between ten looks a second and holds no pipe of the
script, so the script runs as fast as without it.

Started as ``main()`` with the home and the job's id as arguments. Imports the standard library
alone, so that it starts in well under 150 ms.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from cloudai._core.numerals import numeral
from cloudai._core.state import lock as _lock
from cloudai._core.state import processes
from cloudai.errors import CloudAIError, StateError
from cloudai.providers.local.jobs import launch, logs, requirements, signals
from cloudai.providers.local.jobs.store import Store

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

T = TypeVar("T")

TICK: Final = 0.1
"""Seconds between two looks at the log, the clock and the wish to cancel."""
LEFTOVER_SECONDS: Final = 1.0
"""What a finished script left running has this long to end by itself."""
STATE_SECONDS: Final = 60.0
"""How long the state file is tried while the disk is full."""
TAIL: Final = 20

# The failing rank's own code, in the report that torchrun's agent prints.
_RANK_CODE: Final = re.compile(r"exitcode\s*:\s*(-?\d+)")


class End(NamedTuple):
    """How one run of a command ended: its return code (negative: the signal), and why it was
    stopped: "", "cancel", "timeout" or "signal"."""

    code: int
    stopped: str = ""


class Supervisor:
    def __init__(self, home: Path, id: str) -> None:
        self.store = Store(home)
        self.id = id
        self.folder = self.store.folder(id)
        self.token = os.urandom(16).hex()
        self.sheet: dict[str, Any] = {}
        self._deadline: float | None = None
        self._main: int | None = None
        self._code: int | None = None
        self._watch = logs.Watch(self.folder, [], 1, lambda points: None)
        self._signals = signals.Signals()

    def run(self) -> None:
        """Supervises the job from QUEUED to its end; at once over if it is not QUEUED."""
        if not self._lock():
            return
        if not self.store.change(self.id, only_from=["QUEUED"], state="STARTING", token=self.token):
            return
        self._signals.listen()
        processes.adopt_orphans()
        self.sheet = json.loads(self._row()["sheet"])
        self._watch = logs.Watch(
            self.folder,
            self.sheet["metrics"],
            self.sheet["nproc"],
            lambda points: self.store.add_metrics(self.id, points),
        )
        try:
            self._supervise()
        finally:
            self._clear()

    def _supervise(self) -> None:
        try:
            env = {**launch.inherited(), **self.sheet["env"], processes.TOKEN: self.token}
            env |= self._secrets()
        except CloudAIError as error:
            self._finish("FAILED", str(error))
            return
        python = self.sheet["python"]
        if self.sheet["requirements"]:
            end, python = self._install(env)
            if end.stopped or end.code:
                self._conclude(end, "the requirements could not be installed")
                return
        argv = launch.command(python, self.sheet["script"], self.sheet["nproc"])
        started = time.time()
        self._save(only_from=["STARTING"], state="RUNNING", started_at=started)
        if self.sheet["timeout"] is not None:
            self._deadline = time.monotonic() + self.sheet["timeout"]
        retry, restarts = self.sheet["retry"], 0
        while True:
            env["CLOUDAI_RESTART_COUNT"] = str(restarts)
            mark = self._log_size()
            end = self._execute(argv, env, self.sheet["cwd"])
            if not end.stopped and end.code > 0 and self.sheet["nproc"] > 1:
                end = End(self._rank_code(mark) or end.code)
            cause = "preempted" if end.code < 0 else "failed"
            if end.stopped or not end.code or restarts >= retry["max"] or cause not in retry["on"]:
                break
            restarts += 1
            self._note(f"restart {restarts} of {retry['max']}: the script {_how(end.code)}")
            self._save(restarts=restarts)
            self._pause(min(0.1 * 2 ** (restarts - 1), 10.0))
        self._conclude(end, "")

    # -- one command ---------------------------------------------------------------------

    def _execute(self, argv: list[str], env: dict[str, str], cwd: str) -> End:
        """Runs a command to its end, or until it has to be stopped; nothing of it is left."""
        log = os.open(self.folder / logs.MAIN, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        me = os.getpid()
        self._code = None
        try:
            child = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # This process has one thread, so code between fork and exec is safe.
                preexec_fn=lambda: processes.die_with(me),
            )
        except OSError as error:
            self._note(f"{argv[0]} cannot be started: {error.strerror}")
            return End(127)
        finally:
            os.close(log)
        self._main = child.pid
        stopped = ""
        while True:
            self._reap()
            self._observe()
            if self._code is not None:
                break
            stopped = self._reason_to_stop()
            if stopped:
                break
            self._signals.sleep(TICK)
        if stopped:
            self._save(only_from=["STARTING", "RUNNING"], state="STOPPING")
            self._stop(self._grace())
        else:
            self._stop(LEFTOVER_SECONDS)
        while self._code is None:  # it ended after the last look, and is not yet collected
            self._reap()
            self._signals.sleep(0.005)
        child.returncode = self._code
        self._observe()
        return End(child.returncode, stopped)

    def _reason_to_stop(self) -> str:
        if (self.folder / "cancel").exists():
            return "cancel"
        if self._signals.told:
            return "signal"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "timeout"
        return ""

    def _grace(self) -> float:
        """Seconds from SIGTERM to SIGKILL; a cancel may name fewer."""
        with suppress(OSError, ValueError):
            return float((self.folder / "cancel").read_text())
        return float(self.sheet["grace"])

    def _stop(self, grace: float) -> None:
        """Ends all that the command started: SIGTERM, then after the grace SIGKILL."""
        deadline = time.monotonic() + grace
        processes.send(self._left(), signal.SIGTERM)
        while self._left():
            number = signal.SIGKILL if time.monotonic() >= deadline else 0
            if number:
                processes.send(self._left(), number)
            self._observe()
            self._signals.sleep(0.02)

    def _left(self) -> list[int]:
        self._reap()
        left = processes.descendants(os.getpid())
        if not processes.LINUX and self._main is not None:
            # No adoption there: what left the tree still bears the token.
            left += [pid for pid in processes.marked(self.token) if pid not in left]
        return left

    def _reap(self) -> None:
        """Collects whoever ended, the adopted ones too."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._main:
                    self._code = os.waitstatus_to_exitcode(status)

    # -- the log -----------------------------------------------------------------------

    def _observe(self, ended: bool = False) -> None:
        with suppress(StateError):  # a full disk costs the metrics, not the job
            self._watch.look(ended)

    @property
    def _log(self) -> Path:
        return self.folder / logs.MAIN

    def _log_size(self) -> int:
        with suppress(OSError):
            return self._log.stat().st_size
        return 0

    def _rank_code(self, start: int) -> int | None:
        """The code of the rank that failed first, which the agent reports last."""
        with suppress(OSError), open(self._log, "rb") as file:
            file.seek(start)
            codes = _RANK_CODE.findall(file.read().decode("utf-8", "replace"))
            return int(codes[-1]) if codes else None
        return None

    def _note(self, text: str) -> None:
        """A line of the supervisor's own in the log."""
        with suppress(OSError), open(self._log, "a", encoding="utf-8") as file:
            file.write(f"[cloudai] {text}\n")

    # -- before the start ----------------------------------------------------------------

    def _secrets(self) -> dict[str, str]:
        references: dict[str, dict[str, Any]] = self.sheet["secrets"]
        if not references:
            return {}
        # Only here is more of cloudai needed than the standard library.
        from cloudai.providers.local.profile import reopen
        from cloudai.types import SecretRef

        profile = reopen(self.sheet["profile"])
        found: dict[str, str] = {}
        for variable, reference in references.items():
            try:
                found[variable] = profile.reveal(SecretRef(**reference))
            except CloudAIError as error:
                raise StateError(f"secrets.{variable}: {error}") from error
        return found

    def _install(self, env: dict[str, str]) -> tuple[End, str]:
        """Installs the requirements into an environment of the job's own; gives its Python."""
        venv = requirements.Venv(self.folder / "venv")
        end = self._execute(venv.make(), env, str(self.folder))
        if end.stopped or end.code:
            return end, venv.python
        venv.show_parent()
        install = venv.install(self.sheet["requirements"])
        return self._execute(install, env, self.sheet["cwd"]), venv.python

    # -- states --------------------------------------------------------------------------

    def _conclude(self, end: End, prefix: str) -> None:
        """Records the end that the last command came to."""
        because = f"{prefix}: " if prefix else ""
        if end.stopped == "cancel":
            self._finish("CANCELLED", "cancelled")
        elif end.stopped == "timeout":
            seconds = self.sheet["timeout"]
            self._finish("TIMED_OUT", f"it ran longer than timeout={numeral(seconds)} s", end.code)
        elif end.stopped == "signal":
            name = signal.Signals(self._signals.told).name
            self._finish(
                "PREEMPTED", f"the supervisor was told to stop ({name}), as at a shutdown", end.code
            )
        elif end.code == 0:
            row = self._row()
            partial = row["outcome"] == "PARTIAL"
            reason = f"{row['errors']} of {row['done']} lines failed" if partial else None
            self._finish("PARTIAL" if partial else "SUCCEEDED", reason, 0)
        elif end.code < 0 and self.sheet["spot"]:
            self._finish("PREEMPTED", f"the script {_how(end.code)}", end.code)
        else:
            reason = self._row()["reason"]
            self._finish("FAILED", reason or f"{because}the script {_how(end.code)}", end.code)

    def _finish(self, state: str, reason: str | None, code: int | None = None) -> None:
        self._observe(ended=True)
        columns: dict[str, Any] = {"state": state, "reason": reason, "ended_at": time.time()}
        if code is not None:
            columns["exit_code"] = code if code >= 0 else 128 - code
        if state != "SUCCEEDED":
            columns["log_tail"] = json.dumps(logs.tail(self.folder, TAIL))
        self._save(**columns)

    def _save(self, only_from: list[str] | None = None, **columns: Any) -> None:
        """Writes the state."""
        self._patiently(lambda: self.store.change(self.id, only_from=only_from, **columns))

    def _row(self) -> sqlite3.Row:
        return self._patiently(lambda: self.store.row(self.id))

    def _patiently(self, work: Callable[[], T]) -> T:
        """Does it; while the disk is full (then not even reading works), again and again for a
        minute."""
        deadline = time.monotonic() + STATE_SECONDS
        while True:
            try:
                return work()
            except StateError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.5)

    # -- this process --------------------------------------------------------------------

    def _lock(self) -> bool:
        """Takes the lock, for life. A second supervisor of the same job finds it taken."""
        held = _lock.kept(self.folder / "lock", seconds=1.0)
        if held is None:  # by another one; or the job was deleted meanwhile
            return False
        # For whoever looks into the folder; the lock is what tells that we live.
        os.truncate(held, 0)
        os.write(held, f"{os.getpid()}\n".encode())
        return True

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._reason_to_stop():
            self._signals.sleep(min(left, TICK))

    def _clear(self) -> None:
        """Whatever happened above, no process is left."""
        while left := self._left():
            processes.send(left, signal.SIGKILL)
            self._signals.sleep(0.02)


def _how(code: int) -> str:
    """What happened to the script, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = " (the system ran out of memory, or somebody killed it)" if code == -9 else ""
    return f"was killed by {name}{why}"


def main() -> None:
    """``python -c ... HOME ID``: supervises the job ID of HOME."""
    home, id = Path(sys.argv[1]), sys.argv[2]
    with suppress(PermissionError):  # already a session's leader
        os.setsid()
    os.chdir("/")
    supervisor = Supervisor(home, id)
    try:
        supervisor.run()
    except BaseException as error:
        # The traceback goes to supervisor.log; the job must not seem to run.
        with suppress(CloudAIError):
            supervisor.store.change(
                id,
                only_from=["STARTING", "RUNNING", "STOPPING"],
                state="FAILED",
                reason=f"the supervisor failed: {error!r}; see {supervisor.folder}/supervisor.log",
                ended_at=time.time(),
            )
        raise

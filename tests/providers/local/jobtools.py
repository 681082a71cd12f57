"""What the tests of local jobs share: an adapter, a script's folder, bounded polling."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cloudai._core.profiles.config import Config, Profile
from cloudai.protocols import Call
from cloudai.types import JobStatus, State, TrainingJob

CALL = Call()


def profile(**keys: Any) -> Profile:
    return Config(file=None, start=Path("/")).profile(provider="local", **keys)


def script(folder: Path, text: str, name: str = "train.py") -> str:
    """A source folder with one script in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text))
    return str(folder)


def job(name: str, source: str, **fields: Any) -> TrainingJob:
    fields.setdefault("entry", "train.py")
    fields.setdefault("idempotency_key", f"key-{name}")
    return TrainingJob(name=name, source=source, **fields)


def until(check: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """What ``check`` gives, once that is true."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.01)


def ended(adapter: Any, id: str, seconds: float = 60.0) -> JobStatus:
    """The job's last status."""

    def look() -> JobStatus | None:
        status = adapter.status(id, CALL)
        return status if status.state.done else None

    return until(look, f"the end of {id}", seconds)


def run(adapter: Any, spec: Any, expect: State = State.SUCCEEDED) -> JobStatus:
    """Submits and waits; shows the log where it ended otherwise than expected."""
    id = adapter.submit(spec, CALL)
    status = ended(adapter, id)
    assert status.state is expect, (status, text(adapter, id))
    return status


def text(adapter: Any, id: str) -> list[str]:
    return [line.text for line in adapter.logs(id, None, CALL).lines]


def supervisor(home: Path, id: str) -> int:
    """The supervisor's process id, as its lock file tells it."""
    lock = home / "jobs" / id / "lock"
    return int(until(lambda: lock.exists() and lock.read_text(), f"the supervisor of {id}"))


def gone(pid: int) -> bool:
    """Whether a process is over; a zombie that its parent has not collected is."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

"""What the fake's adapters share: the script's queues, the faults, the received requests.

There is one cloud_state for each home and script in a process. Jobs and endpoints are in the store,
which processes share; queues and received requests belong to the process.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai.errors import ConfigError, NotFound
from cloudai.protocols import Call
from cloudai.providers.fake import _script
from cloudai.providers.fake._script import Fate, Fault, JobsScript, Reply, Script
from cloudai.providers.fake._store import Store

KEPT: Final = 1000
"""Received requests that are remembered."""


class Received(msgspec.Struct, frozen=True):
    """A request that reached the fake: the operation, and its request, spec or id."""

    operation: str
    request: Any


class FakeState:
    """See the module.

    Parameters
    ----------
    home: the folder of the state. file: a script.
    """

    def __init__(self, home: Path, file: Path | None) -> None:
        self.home = home
        self.store = Store(home / "fake")
        self.received: deque[Received] = deque(maxlen=KEPT)
        self.counter = itertools.count(1)
        self.lock = threading.Lock()
        self.play(_script.read(file) if file else Script())

    @classmethod
    def of(cls, profile: Profile) -> FakeState:
        """The cloud_state of a profile."""
        file = profile.path("script", Path()) if profile.get("script") is not None else None
        return cls.at(profile.home, file)

    @classmethod
    def at(cls, home: Path, file: Path | None = None) -> FakeState:
        """The process's one cloud_state of this home and script."""
        key = (home.expanduser().absolute(), file)
        with _lock:
            found = _states.get(key)
            if found is None:
                found = _states[key] = cls(*key)
            return found

    def play(self, script: Script) -> None:
        """Starts over with a script."""
        self.script = script
        self.replies = deque(
            Reply(text=reply) if isinstance(reply, str) else reply for reply in script.chat.replies
        )
        self.fates = {
            "training": deque(script.training.fates),
            "batch": deque(script.batch.fates),
        }
        self.predictions = deque(script.endpoints.predictions)
        self.faults = list(script.faults)

    def fate(self, capability: str, native: dict[str, dict[str, Any]]) -> Fate:
        """What becomes of the job that is being submitted: its own ``native["fake"]``, else the
        next of the queue, else the default."""
        fate = self.own_fate(capability, native)
        if fate is not None:
            return fate
        with self.lock:
            queue = self.fates[capability]
            return queue.popleft() if queue else self._default(capability)

    def own_fate(self, capability: str, native: dict[str, dict[str, Any]]) -> Fate | None:
        """The fate that a spec brings along; None where it brings none."""
        own = native.get("fake")
        if own is None:
            return None
        base = msgspec.to_builtins(self._default(capability))
        return _script.convert({**base, **own}, Fate, 'native["fake"]')

    def _default(self, capability: str) -> Fate:
        script: JobsScript = getattr(self.script, capability)
        return script.default

    def reply(self) -> Reply | None:
        """The next scripted reply; None where the queue is empty."""
        with self.lock:
            return self.replies.popleft() if self.replies else None

    def known(self, capability: str, model: str) -> str:
        """The model's name, ``fake`` for the default. NotFound where the script has names and
        this is none of them."""
        models: tuple[str, ...] = getattr(self.script, capability).models
        if model and models and model not in models:
            raise NotFound(
                f"there is no model {model!r}",
                provider="fake",
                hint=f"There are: {', '.join(models)}",
            )
        return model or (models[0] if models else "fake")

    def arrive(self, operation: str, request: Any, call: Call) -> Fault | None:
        """Notes a request and gives the fault that is due for it, if any."""
        call.remaining()
        self.received.append(Received(operation, request))
        if not self.faults:  # the common case, without the lock
            return None
        with self.lock:
            for index, fault in enumerate(self.faults):
                if not fault.strikes(operation):
                    continue
                if fault.skip:
                    self.faults[index] = msgspec.structs.replace(fault, skip=fault.skip - 1)
                    continue
                if fault.times > 1:
                    self.faults[index] = msgspec.structs.replace(fault, times=fault.times - 1)
                else:
                    del self.faults[index]
                return fault
        return None

    @contextmanager
    def serving(self, operation: str, request: Any, call: Call) -> Generator[None]:
        """One call of an operation that is answered in one piece: raises the due fault before
        or after the body."""
        fault = self.arrive(operation, request, call)
        if fault is not None:
            pause(fault.seconds, call)
            if fault.error and not fault.after:
                raise fault.exception()
        yield
        if fault is not None and fault.error:
            raise fault.exception()

    @asynccontextmanager
    async def aserving(self, operation: str, request: Any, call: Call) -> AsyncGenerator[None]:
        """The async twin of ``serving``."""
        fault = self.arrive(operation, request, call)
        if fault is not None:
            await apause(fault.seconds, call)
            if fault.error and not fault.after:
                raise fault.exception()
        yield
        if fault is not None and fault.error:
            raise fault.exception()


_states: weakref.WeakValueDictionary[tuple[Path, Path | None], FakeState] = (
    weakref.WeakValueDictionary()
)
_lock = threading.Lock()


def _after_fork() -> None:
    # Another thread of the parent may have held a lock; here there is no other thread.
    global _lock
    _lock = threading.Lock()
    for cloud_state in list(_states.values()):
        cloud_state.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def speed(profile: Profile) -> float:
    """How fast the profile's jobs run. Raises ConfigError unless it is above zero."""
    value = profile.get("speed", 1.0)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"speed={value!r} of the profile {profile.name!r} is not above 0")
    return number


def pause(seconds: float, call: Call) -> None:
    """Sleeps, at most to the call's deadline; CallTimeout when that comes first."""
    if seconds > 0:
        time.sleep(min(seconds, call.remaining(seconds)))
        call.remaining()


async def apause(seconds: float, call: Call) -> None:
    """The async twin of ``pause``."""
    if seconds > 0:
        await asyncio.sleep(min(seconds, call.remaining(seconds)))
        call.remaining()

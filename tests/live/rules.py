"""The live run's own rules, in the process that runs the suite: nothing is made beyond the budget,
all that a test made is removed after it, and what was said is kept without its secrets."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cloudai
from cloudai._core.calls.call import Caller
from cloudai.client import collections, endpoints
from cloudai.types import TrainingJob
from live import recording
from live.meter import HOLD, Meter, OverBudget, TooDear, rate_of

TAG = "cloudai-live"
ABOUT: dict[str, Any] = json.loads(os.environ["CLOUDAI_LIVE"])
"""From ``run.py``: provider, keys, budget, run, folder."""
METER = Meter(ABOUT["budget"])
STOPPED = 3
"""The exit code where the budget was met."""


def stop(error: OverBudget) -> None:
    pytest.exit(f"stopped before the budget: {error}", returncode=STOPPED)


def metered(real: Any) -> Any:
    """The funnel of every submit and deploy, with the price before it."""

    def create(runtime: Any, binding: Any, kind: str, spec: Any, send: Any, timeout: Any) -> str:
        if isinstance(spec, TrainingJob) and spec.timeout is None:
            spec = msgspec.structs.replace(spec, timeout=HOLD * 3600)
        spec = msgspec.structs.replace(spec, tags={**spec.tags, TAG: ABOUT["run"]})
        plan = binding.adapter.plan(spec)
        if plan.ok:
            try:
                METER.begin(rate_of(plan))
            except OverBudget as error:
                stop(error)
            except TooDear as error:
                pytest.skip(str(error))
        return real(runtime, binding, kind, spec, send, timeout)

    return create


def paid(real: Any) -> Any:
    """The one path of a call, with the price of chats and embeddings around it."""

    def run(self: Any, name: str, function: Any, call: Any, *rest: Any) -> Any:
        if not name.startswith(("chat", "embeddings")):
            return real(self, name, function, call, *rest)
        try:
            METER.ask()
        except OverBudget as error:
            stop(error)
        answer = real(self, name, function, call, *rest)
        METER.paid(getattr(answer, "cost", None))
        return answer

    return run


def remove_all() -> list[str]:
    """Destroys what the ledger has; gives what could not be."""
    left: list[str] = []
    with cloudai.Client(provider=ABOUT["provider"], **ABOUT["keys"]) as client:
        for row in client.resources():
            try:
                client.destroy(row)
            except cloudai.CloudAIError as error:
                left.append(f"{row.uri or row.name}: {error}")
    return left


@pytest.fixture(autouse=True, scope="session")
def _live() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (collections, endpoints):
            patch.setattr(module, "create", metered(module.create))
        patch.setattr(Caller, "run", paid(Caller.run))
        kept = recording.Kept(Path(ABOUT["folder"], "cassette.json"))
        with kept.listening(patch):
            try:
                yield
            finally:
                remove_all()
                kept.save()
                told = {"spent": METER.spent, "budget": METER.budget}
                Path(ABOUT["folder"], "spent.json").write_text(json.dumps(told))


@pytest.fixture(autouse=True)
def _nothing_stays() -> Generator[None]:
    """What a test made goes with it, and its price stops."""
    watch = threading.Event()

    def over() -> None:
        # A machine that is slow to go must not eat what others have not asked for.
        while not watch.wait(5):
            if METER.spent > METER.budget:
                os.kill(os.getpid(), 2)
                return

    guard = threading.Thread(target=over, daemon=True)
    guard.start()
    yield
    with suppress(cloudai.CloudAIError):
        remove_all()
    watch.set()
    METER.settle()

"""The worker of a local batch: runs the batch runner, reports progress to the job's row.

Started by the supervisor with the home and the job's id as arguments. SIGTERM ends it at once:
what it finished is kept beside the output.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.batches.runner import BatchResult, Transform, run_batch
from cloudai._core.handlers.handler import load_handler
from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.registry import load
from cloudai.errors import CloudAIError
from cloudai.providers.local.jobs.store import Store
from cloudai.providers.local.profile import reopen
from cloudai.providers.local.spec import SPEC
from cloudai.types import JSON, BatchTransform
from cloudai.types._base import met

REPORT_SECONDS: Final = 0.25
TOGETHER: Final = 64
"""Lines of a chat batch that the engine is asked at once; it answers them together."""


def _transform(spec: BatchTransform, profile: Profile) -> tuple[Transform, JSON]:
    """What transforms the records, and what identifies it: progress that another model or
    handler made is not gone on with."""

    def adapter(capability: str) -> Any:
        return load(SPEC.capabilities[capability])(profile)

    if spec.model_uri is not None:
        handler = None if spec.handler is None else Path(spec.handler)
        loaded = load_handler(Path(spec.model_uri), handler)
        files = [*sorted(Path(spec.model_uri).rglob("*")), loaded.file]
        identity = [
            [str(path), about.st_size, about.st_mtime_ns]
            for path in files
            if path.is_file() and "__pycache__" not in path.parts and (about := path.stat())
        ]
        return lambda records: loaded.predict(records, spec.params), identity
    made, (kind, name) = transforms.of(spec, adapter)
    if not name:
        name = str(profile.get("chat_model" if kind == "chat" else "embedding_model") or "")
    return made, [kind, name]


class _Report:
    """Writes progress to the job's row, a few times a second at most."""

    def __init__(self, store: Store, id: str) -> None:
        self._store = store
        self._id = id
        self._last = 0.0

    def progress(self, done: int, total: int | None, errors: int) -> None:
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            self._store.change(self._id, done=done, total=total, errors=errors)

    def published(self, result: BatchResult) -> None:
        self._store.change(
            self._id,
            outcome=result.state.value,
            done=result.lines,
            total=result.lines,
            errors=result.errors,
        )


def run(home: Path, id: str) -> None:
    """Runs the batch of a job, or goes on with it."""
    store = Store(home)
    row = store.row(id, "batch")
    if row["outcome"] is not None:  # killed between its end and its exit
        return
    spec = msgspec.json.decode(row["spec"], type=met(BatchTransform))
    sheet = msgspec.json.decode(row["sheet"])
    profile = reopen(sheet["profile"])
    transform, identity = _transform(spec, profile)
    concurrency = None if spec.endpoint is not None else 1
    if spec.chat is not None:
        spec, concurrency = msgspec.structs.replace(spec, batch_size=1), TOGETHER
    report = _Report(store, id)
    print(f"{spec.input} -> {spec.output}", flush=True)  # noqa: T201 - the job's log
    started = time.monotonic()
    result = run_batch(
        spec,
        transform,
        identity=identity,
        concurrency=concurrency,
        progress=report.progress,
        published=report.published,
    )
    seconds = time.monotonic() - started
    print(  # noqa: T201
        f"{result.lines} lines, {result.errors} failed, {seconds:.1f} s", flush=True
    )


def main() -> None:
    home, id = Path(sys.argv[1]), sys.argv[2]
    try:
        run(home, id)
    except CloudAIError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        Store(home).change(id, reason=f"{type(error).__name__}: {error}")
        sys.exit(1)
    # Threads of a model's runtime may linger at exit; all is written.
    sys.stdout.flush()
    os._exit(0)

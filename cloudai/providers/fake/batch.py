"""Batch transforms of the fake provider. The work is done when the batch is submitted, by
cloudai's own runner, into the fake's home; the output appears when the job's course has ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.batches.runner import Transform, check_paths, run_batch
from cloudai._core.files.paths import here
from cloudai._core.profiles.config import Profile
from cloudai._core.state.disk import whole
from cloudai._core.state.home import ensure
from cloudai.errors import Conflict, HandlerError, InvalidRequest
from cloudai.protocols import Call
from cloudai.providers.fake._course import Course
from cloudai.providers.fake._jobs import FakeJobs
from cloudai.providers.fake._script import Fate
from cloudai.providers.fake._store import JobRow
from cloudai.providers.fake.chat import FakeChat
from cloudai.providers.fake.embeddings import FakeEmbeddings
from cloudai.providers.fake.endpoints import FakeEndpoints, loaded, variant_faults
from cloudai.types import (
    BatchTransform,
    State,
    Variant,
    Violation,
)
from cloudai.types._base import met


class _Work(msgspec.Struct, frozen=True):
    """What the runner achieved at submission: records done and failed, whether there is an
    output and a file of errors."""

    lines: int = 0
    errors: int = 0
    output: bool = False
    letters: bool = False


class FakeBatch(FakeJobs[BatchTransform]):
    """Batch transforms: real handlers are run; fake models, chat and embeddings answer by the
    fake's rules. ``native={"fake": {…}}`` sets the course, as for training jobs."""

    capability = "batch"
    spec_type = BatchTransform

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._profile = profile

    def violations(self, spec: BatchTransform) -> list[Violation]:
        found: list[Violation] = []
        try:
            check_paths(spec)
        except InvalidRequest as error:
            found.append(Violation(error.field or "input", error.message, error.hint or ""))
        try:
            if spec.chat is not None:
                transforms.chat_request(spec.chat, spec.params)
            elif spec.embeddings is not None:
                transforms.embedding_request(spec.embeddings, spec.params)
        except InvalidRequest as error:
            found.append(Violation(error.field or "params", error.message, error.hint or ""))
        if spec.model is not None:
            found += [
                Violation(error.field or "model", error.message, error.hint or "")
                for error in variant_faults(_variant(spec), None)
            ]
        return found

    def dropped(self, spec: BatchTransform) -> list[str]:
        lost = ["shards: the fake works in one process"] if spec.shards > 1 else []
        return [*lost, "secrets: no process gets them"] if spec.secrets else lost

    def prepare(
        self, id: str, spec: BatchTransform, fate: Fate, call: Call
    ) -> tuple[Fate, dict[str, Any]]:
        """Runs the batch. A bad record becomes the job's failure, as it would elsewhere; an
        output that is taken is refused at once."""
        _, output = check_paths(spec)
        if output.exists() and not spec.overwrite:
            raise Conflict(
                f"output={spec.output!r} exists",
                provider="fake",
                hint="Use overwrite=True to replace it, or name another output.",
            )
        folder = self.folder(id)
        shutil.rmtree(folder, ignore_errors=True)
        ensure(folder)
        draft = msgspec.structs.replace(
            spec,
            output=str(folder / output.name),
            # A chunk is repeated as a whole when one of its lines fails; a script answers once.
            batch_size=1 if spec.chat is not None else spec.batch_size,
        )
        try:
            result = run_batch(draft, self._transform(spec), concurrency=1)
        except (InvalidRequest, HandlerError) as error:
            told = str(error)
            failed = msgspec.structs.replace(
                fate,
                state=State.FAILED,
                reason=told.splitlines()[0],
                logs=(*fate.logs, *told.splitlines()),
            )
            return failed, msgspec.to_builtins(_Work())
        work = _Work(result.lines, result.errors, True, result.errors_file is not None)
        if result.errors and fate.state is State.SUCCEEDED:
            fate = msgspec.structs.replace(
                fate, state=State.PARTIAL, reason=f"{result.errors} lines failed"
            )
        return fate, msgspec.to_builtins(work)

    def publish(self, row: JobRow, spec: BatchTransform, way: Course) -> None:
        # The errors first, so that they are there when the output is.
        for _, target in reversed(self._files(row, spec)):
            draft = self.folder(row.id) / target.name
            if draft.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with whole(target) as file:
                    file.write(draft.read_bytes())

    def outputs(self, row: JobRow, spec: BatchTransform) -> dict[str, str]:
        return {name: str(target) for name, target in self._files(row, spec)}

    def counted(self, row: JobRow, way: Course, now: float) -> dict[str, Any]:
        work = msgspec.json.decode(row.work, type=met(_Work))
        done = sum(
            1
            for line in range(work.lines)
            if (moment := way.moment((line + 1) / work.lines)) is not None and moment <= now
        )
        ended = way.at(now).state.done
        return {
            "progress": (done, work.lines),
            "errors": work.errors if ended and done == work.lines else 0,
        }

    def said(self, spec: BatchTransform) -> list[tuple[float, str]]:
        return [(0.0, f"fake: transforms {spec.input}")]

    def _files(self, row: JobRow, spec: BatchTransform) -> list[tuple[str, Path]]:
        work = msgspec.json.decode(row.work, type=met(_Work))
        output = here(spec.output)
        if output is None or not work.output:
            return []
        letters = output.with_name(f"{output.name}.errors.jsonl")
        return [("output", output), *([("errors", letters)] if work.letters else [])]

    def _transform(self, spec: BatchTransform) -> Transform:
        if spec.model is not None:
            return _handler(spec)
        adapters = {"chat": FakeChat, "embeddings": FakeEmbeddings, "endpoints": FakeEndpoints}
        return transforms.of(spec, lambda capability: adapters[capability](self._profile))[0]


def _variant(spec: BatchTransform) -> Variant:
    return Variant(model=spec.model or "", handler=spec.handler)


def _handler(spec: BatchTransform) -> Callable[[list[Any]], list[Any]]:
    handler = loaded(_variant(spec), None)
    if handler is None:
        return list
    return lambda values: handler.predict(values, spec.params)

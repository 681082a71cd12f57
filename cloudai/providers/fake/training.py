"""Training jobs of the fake provider. No script is run: a job takes the course of its fate, and
its model directory holds a manifest and the metrics that the spec asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.files.paths import here
from cloudai._core.state.home import ensure
from cloudai.protocols import Call
from cloudai.providers.fake._course import Course
from cloudai.providers.fake._jobs import FakeJobs, place, points
from cloudai.providers.fake._script import Fate
from cloudai.providers.fake._store import JobRow
from cloudai.types import TrainingJob, Violation

MANIFEST: Final = "cloudai-fake.json"
"""In a model directory: it was made by a fake job, and holds no weights."""

_POINTS: Final = 3


class FakeTraining(FakeJobs[TrainingJob]):
    """Scripted training jobs.

    ``native={"fake": {…}}`` sets one job's fate: ``state``, ``running`` (seconds), ``exit_code``,
    ``logs``, ``metrics``, ``preemptions`` and the others of a scripted fate.
    """

    capability = "training"
    spec_type = TrainingJob

    def violations(self, spec: TrainingJob) -> list[Violation]:
        found: list[Violation] = []
        source = here(spec.source) if spec.source is not None else None
        if source is not None and not source.is_dir():
            found.append(Violation("source", f"{spec.source!r} is not a directory."))
        elif source is not None:
            for field in ("entry", "requirements"):
                name = getattr(spec, field)
                if name is not None and not (source / name).is_file():
                    found.append(Violation(field, f"there is no {name!r} in {spec.source!r}."))
        for name in spec.inputs:
            path = here(spec.input(name).uri)
            if path is not None and not path.exists():
                found.append(
                    Violation(f"inputs.{name}", f"there is no {str(path)!r}.", "Mend the path.")
                )
        return found

    def dropped(self, spec: TrainingJob) -> list[str]:
        return ["nothing is trained: the model directory holds a manifest and no weights"]

    def prepare(
        self, id: str, spec: TrainingJob, fate: Fate, call: Call
    ) -> tuple[Fate, dict[str, Any]]:
        return fate, {}

    def publish(self, row: JobRow, spec: TrainingJob, way: Course) -> None:
        ensure(self.folder(row.id))
        for name, uri in self.outputs(row, spec).items():
            target = here(uri)
            if target is None:
                continue
            with tempfile.TemporaryDirectory(dir=self.folder(row.id)) as draft:
                made = Path(draft) / name
                made.mkdir()
                if name == "model":
                    self._write_model(made, row, spec, way)
                place(made, target)

    def _write_model(self, folder: Path, row: JobRow, spec: TrainingJob, way: Course) -> None:
        values = _metrics(spec, row.fate)
        manifest = {
            "made_by": "the fake provider of cloudai",
            "job": row.id,
            "name": row.name,
            "hyperparameters": spec.hyperparameters,
            "inputs": {name: spec.input(name).uri for name in spec.inputs},
        }
        for file, content in ((MANIFEST, manifest), ("metrics.json", values)):
            (folder / file).write_bytes(msgspec.json.format(msgspec.json.encode(content)))

    def outputs(self, row: JobRow, spec: TrainingJob) -> dict[str, str]:
        own = self.folder(row.id)
        asked = spec.outputs
        return {
            "model": asked.model or str(own / "model"),
            "checkpoints": asked.checkpoints or str(own / "checkpoints"),
            "output": asked.data or str(own / "output"),
        }

    def counted(self, row: JobRow, way: Course, now: float) -> dict[str, Any]:
        values = _metrics(self._spec(row), row.fate)
        found = {name: points(way, of, now) for name, of in values.items()}
        return {"metrics": {name: of for name, of in found.items() if of}}

    def said(self, spec: TrainingJob) -> list[tuple[float, str]]:
        return [(0.0, f"fake: {spec.entry or spec.image or spec.base_model} is not run")]


def _metrics(spec: TrainingJob, fate: Fate) -> dict[str, tuple[float, ...]]:
    """The scripted values; for the others of the spec three that fall (1, 1/2, 1/3) where the
    name speaks of a loss or an error, and rise (0, 1/2, 2/3) otherwise."""
    falling = tuple(1 / (step + 1) for step in range(_POINTS))
    made = {
        metric.name: falling
        if any(word in metric.name.lower() for word in ("loss", "error", "perplexity"))
        else tuple(1 - value for value in falling)
        for metric in spec.metrics
    }
    return {**made, **fate.metrics}

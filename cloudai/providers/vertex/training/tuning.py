"""Fine-tuning: TuningJobs, which tune Google's own models and put the result behind an endpoint.

The tuned model never leaves Vertex AI. ``outputs["model"]`` is the resource name of its endpoint,
which chat takes for a model's name; ``outputs["registered_model"]`` goes on being tuned as a
``base_model``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudai._core import examples
from cloudai._core.calls.call import multi_step_create
from cloudai._core.numerals import numeral
from cloudai.errors import InvalidRequest
from cloudai.protocols import Call
from cloudai.providers.vertex import common, models, once
from cloudai.providers.vertex.endpoints.models import clear_endpoint
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.gcs import Files, split
from cloudai.providers.vertex.resources import Resources
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.providers.vertex.training import examples as _examples
from cloudai.providers.vertex.training import tuning_wire as wire
from cloudai.types import (
    CostRange,
    JobStatus,
    LogPage,
    NativeRequest,
    Plan,
    TrainingJob,
    Violation,
)
from cloudai.types._base import invalid


class Tuning:
    """Tuning jobs on Vertex AI. A job's id is its resource name."""

    def __init__(self, session: VertexSession, files: Files) -> None:
        self._session = session
        self._files = files
        self._jobs = Resources(session, wire.COLLECTION)
        self._endpoints = Resources(session, "endpoints")
        self._models = Resources(session, "models")

    def plan(self, spec: TrainingJob) -> Plan:
        """Needs no connection: local files are read and checked, those of a bucket are not."""
        found = wire.violations(spec, self._session.location)
        requests: list[NativeRequest] = []
        size = 0
        for name in self._local(spec):
            try:
                with tempfile.TemporaryFile() as scratch:
                    made = _examples.convert(_file(spec, name), scratch, f"inputs.{name}")
            except InvalidRequest as error:
                found.append(Violation(error.field or "inputs", error.message, error.hint or ""))
                continue
            size += made.size if name == "train" else 0
            requests.append(
                NativeRequest(
                    operation=f"PUT {self._target(spec, name)}",
                    body={"from": spec.input(name).uri, "examples": made.count},
                )
            )
        if not found:
            body = wire.encode(spec, self._uris(spec), self._session.profile.get("service_account"))
            operation = f"POST /{API}/{self._session.parent}/{wire.COLLECTION}"
            requests.append(NativeRequest(operation=operation, body=body))
        return Plan(
            provider=PROVIDER,
            capability="training",
            requests=() if found else tuple(requests),
            violations=tuple(found),
            dropped=tuple(wire.dropped(spec)),
            cost=None if found else _cost(spec, size),
        )

    def _local(self, spec: TrainingJob) -> list[str]:
        return [
            name
            for name in wire.INPUTS
            if name in spec.inputs and not spec.input(name).uri.startswith("gs://")
        ]

    def _base(self, spec: TrainingJob) -> str:
        return common.place(self._session.bucket, "tuning", spec.name, spec.idempotency_key)

    def _target(self, spec: TrainingJob, name: str) -> str:
        return f"{self._base(spec)}/{name}.jsonl"

    def _uris(self, spec: TrainingJob) -> dict[str, str]:
        local = self._local(spec)
        return {
            name: self._target(spec, name) if name in local else spec.input(name).uri
            for name in wire.INPUTS
            if name in spec.inputs
        }

    def submit(self, spec: TrainingJob, call: Call) -> str:
        """Checks every example, uploads what is not yet as the service reads it, and creates the
        job. Raises InvalidRequest for what ``plan`` lists, for a bucket in another region and
        for a bad line; NotFound for a file that is not in its bucket."""
        for violation in wire.violations(spec, self._session.location):
            raise InvalidRequest(
                f"{violation.field}: {violation.problem}",
                field=violation.field,
                provider=PROVIDER,
                hint=violation.mend or None,
            )
        uris = self._uris(spec)
        local = self._local(spec)
        key, base = str(spec.idempotency_key), self._base(spec)
        with tempfile.TemporaryDirectory(prefix="cloudai-tuning-") as folder:
            made: dict[str, Path] = {}
            # All local files before anything is sent, then what only the bucket can tell.
            for name in sorted(uris, key=lambda name: name not in local):
                path = Path(folder, f"{name}.jsonl")
                if name in local:
                    source = _file(spec, name)
                else:
                    source = Path(folder, "fetched", Path(spec.input(name).uri).name)
                    self._files.get_file(spec.input(name).uri, source, call)
                with path.open("wb") as target:
                    found = _examples.convert(source, target, f"inputs.{name}")
                if name in local or not found.native:
                    made[name] = path
                    uris[name] = self._target(spec, name)
            for bucket in sorted({split(uri)[0] for uri in uris.values()}):
                self._files.check_region(bucket, call)
            body = wire.encode(spec, uris, self._session.profile.get("service_account"))
            already = once.rival(self._files, base, lambda: self.find(key, call), call)
            if already is not None:
                return already
            with multi_step_create(), self._files.undone(base, call):
                for name, path in made.items():
                    self._files.put_file(uris[name], path, call)
                return str(self._jobs.create(body, call)["name"])

    def discard(self, spec: TrainingJob, call: Call) -> None:
        """Removes what was uploaded for a job that was never made."""
        self._files.remove_folder(self._base(spec), call)

    def find(self, key: str, call: Call) -> str | None:
        found = self._jobs.find(key, call)
        return None if found is None else str(found["name"])

    def job(self, id: str, call: Call) -> dict[str, Any]:
        """The service's own description. Raises NotFound."""
        return self._jobs.get(id, call)

    def status(self, id: str, call: Call) -> JobStatus:
        return wire.status(self._jobs.get(id, call))

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """What happened to the job; the cursor counts the lines that were seen."""
        if cursor is not None and not cursor.isdigit():
            raise invalid("cursor", cursor, "is not one of this provider")
        lines = wire.lines(self._jobs.get(id, call))
        return LogPage(lines=tuple(lines[int(cursor or 0) :]), cursor=str(len(lines)))

    def cancel(self, id: str, call: Call) -> None:
        self._jobs.cancel(id, call)

    def delete(self, id: str, call: Call) -> None:
        """Ends it if it runs, and removes the tuned model, its endpoints and the uploaded files.
        The job's own record stays: the API has no way to remove it."""
        job = self._jobs.end(id, call)
        if job is None:
            return
        for endpoint in wire.endpoints(job):
            clear_endpoint(self._endpoints, endpoint, call)
        model = job.get("tunedModel", {}).get("model")
        if model:
            self._models.drop(str(model).partition("@")[0], call)
        train = str(job.get("supervisedTuningSpec", {}).get("trainingDatasetUri", ""))
        validation = str(job.get("supervisedTuningSpec", {}).get("validationDatasetUri", ""))
        for uri in (train, validation):
            folder = uri.rpartition("/")[0]
            if "/cloudai/tuning/" in folder:
                self._files.remove_folder(folder, call)

    def list(self, call: Call) -> Sequence[JobStatus]:
        return [wire.status(job) for job in self._jobs.list(f"labels.{common.KEY_LABEL}:*", call)]


def _file(spec: TrainingJob, name: str) -> Path:
    """The local file of an input. Raises InvalidRequest."""
    return examples.find(spec.input(name).uri, f"inputs.{name}", "Give a path, or gs://.")


def _cost(spec: TrainingJob, size: int) -> CostRange | None:
    """From the file's size: four bytes a token, give or take a half."""
    row = models.TUNING.find(spec.base_model or "")
    if row is None or row.price is None or not size:
        return None
    price = row.price.input
    epochs = wire.hyperparameters(spec).get("epochs")
    low, high = (epochs, epochs) if epochs else (1, 10)
    return CostRange(
        low=round(size / 6 * low * price / 1e6, 4),
        high=round(size / 2 * high * price / 1e6, 4),
        basis=f"{size} bytes of examples, {low} to {high} epochs, ${numeral(price)} for a million "
        "training tokens; the tuned model is billed by its use",
        as_of=row.read,
    )

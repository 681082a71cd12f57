"""Azure OpenAI's fine-tuning jobs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from cloudai._core import examples
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CloudAIError,
    Conflict,
    InvalidRequest,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.protocols import Call, Place
from cloudai.providers.azure import arm
from cloudai.providers.azure.errors import refuse
from cloudai.providers.azure.models import REGIONAL, TUNING
from cloudai.providers.azure.openai import examples as _examples
from cloudai.providers.azure.openai import files_api
from cloudai.providers.azure.openai.wire import training as wire
from cloudai.providers.azure.session import session
from cloudai.types import (
    CostRange,
    JobStatus,
    LogPage,
    NativeRequest,
    Plan,
    TrainingJob,
    Violation,
)

_JOBS: Final = "fine_tuning/jobs"
_FILE_ID: Final = re.compile(r"file-[0-9a-zA-Z]+\Z|assistant-[0-9a-zA-Z]+\Z")
_DELETES: Final = "2024-10-21"
"""The dated API that deletes fine-tuning jobs; v1 has no operation for it (spec read 2026-11)."""
_SCRIPTS: Final = (
    'Azure ML runs scripts and containers: set workspace = "…" in the profile (with '
    "subscription and resource_group); the adapter is cloudai.providers.azure.ml.training"
)


class AzureFineTuning:
    """Fine-tuning jobs of the profile's resource. The id is the service's ``ftjob-…``."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        # v1 keeps metadata with a job. A dated version has none: there the name of the job's own
        # training file has the mark of its key.
        self._dated = self._session.api_version is not None

    def plan(self, spec: TrainingJob) -> Plan:
        """Checks the files too: they are read here as they would be for the upload."""
        if spec.kind != "finetune":
            problem = f"{spec.kind} jobs do not run on Azure OpenAI."
            return self._plan((), (Violation("kind", problem, _SCRIPTS),), spec, None)
        violations = self._violations(spec)
        requests: list[NativeRequest] = []
        named: dict[str, str] = {}
        size = 0
        for name in ("train", "validation"):
            if name not in spec.inputs:
                continue
            uri = spec.input(name).uri
            if _FILE_ID.match(uri):
                named[name] = uri
                continue
            try:
                with tempfile.TemporaryFile() as scratch:
                    self._converted(spec, name, scratch)
                    length = scratch.tell()
            except InvalidRequest as error:
                violations.append(Violation(error.field or "inputs", str(error)))
                continue
            named[name] = f"<the id of {name}>"
            size += length if name == "train" else 0
            requests.append(
                NativeRequest(
                    operation=self._operation("POST", "files"),
                    body={"purpose": "fine-tune", "file": f"{name}.jsonl, {length} bytes"},
                )
            )
        if "train" in named and not violations:
            body = self._body(spec, named)
            requests.append(NativeRequest(operation=self._operation("POST", _JOBS), body=body))
        return self._plan(tuple(requests), tuple(violations), spec, _cost(spec, size))

    def _violations(self, spec: TrainingJob) -> list[Violation]:
        found = wire.violations(spec)
        if self._dated and "train" in spec.inputs and _FILE_ID.match(spec.input("train").uri):
            problem = "is a file's id, and by a dated api_version a job is known by its own file."
            found.append(
                Violation("inputs.train", problem, "Give the file, or leave api_version out.")
            )
        return found

    def _body(self, spec: TrainingJob, files: dict[str, str]) -> dict[str, Any]:
        return wire.encode(spec, files["train"], files.get("validation"), dated=self._dated)

    def _operation(self, method: str, path: str) -> str:
        prefix = "/openai/v1/" if self._session.api_version is None else "/openai/"
        return f"{method} {prefix}{path}"

    def _plan(
        self,
        requests: tuple[NativeRequest, ...],
        violations: tuple[Violation, ...],
        spec: TrainingJob,
        cost: CostRange | None,
    ) -> Plan:
        dropped = wire.dropped(spec)
        if self._dated and spec.tags:
            dropped.append("tags: a dated api_version keeps none with a job; leave it out")
        return Plan(
            provider="azure",
            capability="training",
            requests=requests,
            violations=violations,
            dropped=tuple(dropped),
            cost=cost,
        )

    def _converted(self, spec: TrainingJob, name: str, target: IO[bytes]) -> int:
        field = f"inputs.{name}"
        path = examples.find(spec.input(name).uri, field, "Give a path, or a file id: file-…")
        return _examples.convert(path, target, spec.method, field)

    def check(self, spec: TrainingJob) -> None:
        if spec.kind != "finetune":
            raise UnsupportedByProvider(
                f"kind={spec.kind!r}", provider="azure", alternative=_SCRIPTS
            )
        refuse(self._violations(spec))

    def submit(self, spec: TrainingJob, call: Call) -> str:
        """Raises UnsupportedByProvider for a script or container, InvalidRequest for a bad
        training file, before anything is sent; QuotaExceeded when 20 jobs are queued."""
        self.check(spec)
        files: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="cloudai-") as folder:
            made: dict[str, Path] = {}
            for name in ("train", "validation"):
                if name not in spec.inputs:
                    continue
                if _FILE_ID.match(spec.input(name).uri):
                    files[name] = spec.input(name).uri
                    continue
                made[name] = Path(folder, f"{name}.jsonl")
                with made[name].open("wb") as target:
                    self._converted(spec, name, target)
            known = self.find(str(spec.idempotency_key), call)
            if known is not None:
                return known
            fresh: list[str] = []
            for name, path in made.items():
                unique = files_api.unique_name(path, name)
                if self._dated and name == "train":
                    unique = wire.marked(unique, str(spec.idempotency_key))
                files[name], new = files_api.upload(self._session, path, unique, "fine-tune", call)
                fresh += [files[name]] if new else []
        body = self._body(spec, files)
        try:
            id = str(files_api.post(self._session, _JOBS, call, body)["id"])
        except CloudAIError as error:
            if not error.retryable and not error.ambiguous:
                files_api.discard(self._session, fresh, call)  # nobody will come back for them
            raise
        return self._first(str(spec.idempotency_key), id, call)

    def _first(self, key: str, made: str, call: Call) -> str:
        """The first of the jobs with a key, where another machine made one at the same time: the
        service takes no request token. A later one is cancelled while it is still queued."""
        wanted = self.tag_of(key)
        same = [str(job["id"]) for job, tag in self._tagged(call) if tag == wanted]
        first = same[-1] if same else made  # the newest come first
        if first != made:
            self.cancel(made, call)
        return first

    def where(self, call: Call) -> Place:
        return arm.place(self._session)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key in its tag. Raises NotFound."""
        job = files_api.get(self._session, f"{_JOBS}/{id}", call)
        if not self._dated:
            return _key(job)
        with suppress(NotFound):
            file = files_api.get(self._session, f"files/{job['training_file']}", call)
            return wire.mark_of(str(file.get("filename")))
        return None

    def tag_of(self, key: str) -> str:
        """How a key stands in a job's tag."""
        return wire.mark(key) if self._dated else key

    def find(self, key: str, call: Call) -> str | None:
        """Looks through the jobs for the key's tag: the service has no keys."""
        wanted = self.tag_of(key)
        return next((str(job["id"]) for job, tag in self._tagged(call) if tag == wanted), None)

    def _tagged(self, call: Call) -> Iterator[tuple[dict[str, Any], str]]:
        """The jobs that were made through cloudai, with their tags, the newest first."""
        marks: dict[str, str | None] = {}
        if self._dated:
            files = files_api.listed(self._session, "files", call, purpose="fine-tune")
            marks = {str(one["id"]): wire.mark_of(str(one.get("filename"))) for one in files}
        for job in files_api.listed(self._session, _JOBS, call):
            tag = marks.get(str(job.get("training_file"))) if self._dated else _key(job)
            if tag is not None:
                yield job, tag

    def _get(self, id: str, call: Call) -> dict[str, Any]:
        try:
            return files_api.get(self._session, f"{_JOBS}/{id}", call)
        except NotFound as error:
            error.message = f"there is no fine-tuning job {id!r} at {self._session.endpoint}"
            raise

    def status(self, id: str, call: Call) -> JobStatus:
        """A snapshot; once it has ended, with the metrics of results.csv and checkpoints as
        ``outputs["checkpoint-STEP"]``."""
        from msgspec.structs import replace

        job = self._get(id, call)
        found = wire.status(job)
        if not found.state.done or not job.get("result_files"):
            return found
        measured: dict[str, Any] = {}
        for file in job.get("result_files") or ():
            with suppress(NotFound):  # deleted since
                measured.update(
                    wire.metrics(files_api.content(self._session, str(file), call), found.ended_at)
                )
        outputs = dict(found.outputs)
        # Of a job that was cancelled too: what it had learned until then can be deployed.
        for point in self.checkpoints(id, call):
            outputs[f"checkpoint-{point['step_number']}"] = str(
                point["fine_tuned_model_checkpoint"]
            )
        cost = TUNING.tokens_cost(str(job.get("model") or ""), job.get("trained_tokens") or 0)
        return replace(found, metrics=measured, outputs=outputs, cost=cost or None)

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The job's events. The cursor is the last event's id."""
        fresh: list[dict[str, Any]] = []
        for event in files_api.listed(self._session, f"{_JOBS}/{id}/events", call):
            if event.get("id") == cursor:
                break
            fresh.append(event)
        fresh.reverse()  # they come newest first
        last = str(fresh[-1]["id"]) if fresh else cursor or ""
        return LogPage(lines=tuple(map(wire.line, fresh)), cursor=last)

    def cancel(self, id: str, call: Call) -> None:
        """Asks for its end; harmless when it has ended."""
        self._verb(id, "cancel", call)

    def pause(self, id: str, call: Call) -> None:
        """Pauses a running job; its checkpoint can be deployed meanwhile."""
        self._verb(id, "pause", call)

    def resume(self, id: str, call: Call) -> None:
        """Goes on with a paused job."""
        self._verb(id, "resume", call)

    def _verb(self, id: str, verb: str, call: Call) -> None:
        try:
            files_api.post(self._session, f"{_JOBS}/{id}/{verb}", call)
        except (Conflict, InvalidRequest):
            if verb != "cancel" or not wire.status(self._get(id, call)).state.done:
                raise

    def checkpoints(self, id: str, call: Call) -> list[dict[str, Any]]:
        """The job's checkpoints as the service lists them, the newest first: each may be
        deployed by its ``fine_tuned_model_checkpoint``."""
        return list(files_api.listed(self._session, f"{_JOBS}/{id}/checkpoints", call))

    def delete(self, id: str, call: Call) -> None:
        """Cancels it, and deletes the job with its files. The fine-tuned model itself is the
        resource's; a deployment of it is an endpoint, deleted as one."""
        try:
            job = self._get(id, call)
        except NotFound:
            return
        if not wire.status(job).state.done:
            self.cancel(id, call)
        given = {job.get("training_file"), job.get("validation_file"), *(job["result_files"] or ())}
        for file in filter(None, given - self._shared(id, call)):
            files_api.delete_file(self._session, str(file), call)
        with suppress(NotFound):
            files_api.send(self._session, "DELETE", f"{_JOBS}/{id}", call, api_version=_DELETES)

    def _shared(self, id: str, call: Call) -> set[str]:
        """Files that other jobs still need: one upload serves all that train on its content."""
        return {
            str(job.get(field))
            for job in files_api.listed(self._session, _JOBS, call)
            if job["id"] != id and not wire.status(job).state.done
            for field in ("training_file", "validation_file")
        }

    def list(self, call: Call) -> Sequence[JobStatus]:
        """The jobs that were made through cloudai."""
        return [wire.status(job) for job, _ in self._tagged(call)]


def _key(job: dict[str, Any]) -> str | None:
    return (job.get("metadata") or {}).get(wire.KEY) or None


def _cost(spec: TrainingJob, size: int) -> CostRange | None:
    """From the file's size: four bytes a token, give or take a half."""
    row = TUNING.find(spec.base_model or "")
    if row is None or row.price is None or not size:
        return None
    price = row.price.input
    epochs = spec.hyperparameters.get("n_epochs", spec.hyperparameters.get("epochs"))
    known = isinstance(epochs, (int, float))
    low, high = (epochs, epochs) if known else (1, 10)
    return CostRange(
        low=round(size / 6 * low * price / 1_000_000, 4),
        high=round(size / 2 * high * price * REGIONAL / 1_000_000, 4),
        basis=f"{size} bytes of examples, {low} to {high} epochs, price of training tokens; "
        "hosting of a deployment is billed by the hour beside it",
        as_of=row.read,
    )


def pause(job: Any) -> None:
    """Pauses the fine-tuning job of a handle (``client.training.submit`` gives one)."""
    _on(job, lambda adapter, id, call: adapter.pause(id, call))


def resume(job: Any) -> None:
    """Goes on with the paused fine-tuning job of a handle."""
    _on(job, lambda adapter, id, call: adapter.resume(id, call))


def checkpoints(job: Any) -> list[dict[str, Any]]:
    """The checkpoints of the fine-tuning job of a handle, the newest first."""
    return _on(job, lambda adapter, id, call: adapter.checkpoints(id, call))


def _on(job: Any, verb: Callable[[AzureFineTuning, str, Call], Any]) -> Any:
    # What no other provider has is no method of the handle; the call takes its path all the same.
    bound = job._bound
    if not isinstance(bound.adapter, AzureFineTuning):
        raise UnsupportedByProvider(
            "pause, resume and checkpoints",
            provider=bound.profile.provider,
            alternative="They belong to fine-tuning jobs of Azure OpenAI",
        )
    return bound.caller.run(
        "training.verb",
        lambda call: verb(bound.adapter, job.native_id, call),
        bound.caller.call(),
    )

"""Training on Azure ML: a script or a container as a command job.

The source travels as a code asset named by its content, local inputs likewise; outputs go to
the workspace's own datastore unless the spec says otherwise. Serverless compute, unless
``native={"azure": {"compute": NAME}}`` names a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloudai import bootstrap
from cloudai._core.files.paths import here
from cloudai._core.files.tree import planned, source, tree
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CloudAIError,
    Conflict,
    InvalidRequest,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.protocols import Call, Place
from cloudai.providers.azure.errors import refuse
from cloudai.providers.azure.ml import job_wire as wire
from cloudai.providers.azure.ml import machines
from cloudai.providers.azure.ml.workspace import (
    API_VERSION,
    ARTIFACTS,
    DATA,
    Files,
    Workspace,
    asset_name,
    remote,
)
from cloudai.types import (
    CostRange,
    JobStatus,
    LogLine,
    LogPage,
    NativeRequest,
    Plan,
    TrainingJob,
    Violation,
)
from cloudai.types._base import invalid


class AzureMLTraining:
    """``Jobs[TrainingJob]`` on the profile's workspace. The id is the job's name there."""

    def __init__(self, profile: Profile) -> None:
        self._workspace = Workspace(profile)

    def plan(self, spec: TrainingJob) -> Plan:
        """The asset, environment and job requests, without those that upload files."""
        travels, wrong = planned(spec, self._workspace.session.profile.home)
        violations = [*wire.violations(spec), *wrong]
        requests: tuple[NativeRequest, ...] = ()
        if not violations:
            try:
                requests = self._requests(spec)
            except CloudAIError as error:
                field = getattr(error, "field", None) or "source"
                violations = [Violation(field, str(error))]
        return Plan(
            provider="azure",
            capability="training",
            requests=requests,
            violations=tuple(violations),
            dropped=tuple(wire.dropped(spec)),
            uploads=travels,
            cost=None if violations else self._cost(spec),
        )

    @staticmethod
    def _cost(spec: TrainingJob) -> CostRange | None:
        """Of serverless machines; a cluster's are the workspace's."""
        if "compute" in spec.native.get("azure", {}) or spec.spot is not None:
            return None
        most = (spec.timeout or 3600.0) / 3600
        what = f"from one minute to {'the timeout' if spec.timeout else 'one hour'}"
        name = machines.machine(spec.resources)
        return machines.cost(name, spec.resources.nodes, min(most, 1 / 60), most, what)

    def _requests(self, spec: TrainingJob) -> tuple[NativeRequest, ...]:
        workspace = self._workspace
        query = f"?api-version={API_VERSION}"
        made: list[NativeRequest] = []

        def put(path: str, body: Any) -> str:
            operation = f"PUT {workspace.id_of(path)}{query}"
            made.append(NativeRequest(operation=operation, body=body))
            return workspace.id_of(path)

        def upload(files: Files) -> tuple[str, str]:
            path = f"codes/{asset_name(files)}/versions/1"
            uri = f"<where {len(files)} files lie>"
            body = {"properties": {"codeUri": uri, "isAnonymous": True}}
            return put(path, body), uri

        code = upload(self._code(spec))[0] if spec.source is not None else None
        inputs = {
            name: upload(files)[1] + tail if files else uri
            for name, (files, uri, tail) in self._inputs(spec).items()
        }
        body = wire.environment(spec)
        named = self._named_environment(spec)
        if body is not None:
            named = put(f"environments/{wire.environment_name(body)}/versions/1", body)
        put(f"jobs/{wire.job_id(spec)}", self._encode(spec, code, named, inputs))
        return tuple(made)

    def _encode(
        self, spec: TrainingJob, code: str | None, environment: str, inputs: dict[str, str]
    ) -> dict[str, Any]:
        compute = spec.native.get("azure", {}).get("compute")
        return wire.encode(
            spec,
            code=code,
            environment=environment,
            inputs=inputs,
            compute=self._workspace.id_of(f"computes/{compute}") if compute else None,
        )

    def _named_environment(self, spec: TrainingJob) -> str:
        given = str(spec.native.get("azure", {}).get("environment", ""))
        return self._workspace.named("environments", given) if given else ""

    def _code(self, spec: TrainingJob) -> Files:
        files = source(spec, self._workspace.session.profile.home).files
        files[wire.BOOTSTRAP] = Path(str(bootstrap.__file__))
        return files

    def _inputs(self, spec: TrainingJob) -> dict[str, tuple[Files, str, str]]:
        """Each input's files, or its URI; and what follows the place where files lie."""
        found: dict[str, tuple[Files, str, str]] = {}
        for name in spec.inputs:
            uri = spec.input(name).uri
            if remote(uri):
                found[name] = ({}, uri, "")
                continue
            path = here(uri)
            if path is None:
                raise invalid(f"inputs.{name}", uri, "cannot be read by Azure ML", "Copy it there.")
            if path.is_dir():
                found[name] = (tree(path, field=f"inputs.{name}").files, uri, "")
            elif path.is_file():
                found[name] = ({path.name: path}, uri, f"/{path.name}")
            else:
                raise invalid(f"inputs.{name}", uri, "does not exist", f"Looked at {path}.")
        return found

    def check(self, spec: TrainingJob) -> None:
        if spec.kind == "finetune":
            raise UnsupportedByProvider(
                "kind='finetune'",
                provider="azure",
                alternative="Azure OpenAI fine-tunes: use a profile without workspace",
            )
        refuse(wire.violations(spec))
        self._inputs(spec)
        if spec.source is not None:
            self._code(spec)
        wire.environment(spec)

    def submit(self, spec: TrainingJob, call: Call) -> str:
        """Raises UnsupportedByProvider for a fine-tuning job; InvalidRequest for a source,
        entry or input that is not there, before anything is sent."""
        self.check(spec)
        workspace = self._workspace
        given = self._inputs(spec)
        files = self._code(spec) if spec.source is not None else None
        environment = wire.environment(spec)
        known = workspace.found(f"jobs/{wire.job_id(spec)}", call)
        if known is not None:
            tag = (known["properties"].get("tags") or {}).get(wire.KEY)
            if tag == spec.idempotency_key:
                return wire.job_id(spec)
            raise Conflict(
                f"there is a job {wire.job_id(spec)!r} that another made",
                provider="azure",
                hint="Use another name or key",
            )
        code = workspace.upload("codes", files, call)[0] if files is not None else None
        inputs = {
            name: workspace.upload("codes", files, call)[1] + tail if files else uri
            for name, (files, uri, tail) in given.items()
        }
        named = self._named_environment(spec)
        if environment is not None:
            path = f"environments/{wire.environment_name(environment)}/versions/1"
            if workspace.found(path, call) is None:
                workspace.send("PUT", path, call, environment)
            named = workspace.id_of(path)
        id = wire.job_id(spec)
        try:
            workspace.send("PUT", f"jobs/{id}", call, self._encode(spec, code, named, inputs))
        except Conflict:
            # Another machine was quicker with the same key.
            if self.owner(id, call) != spec.idempotency_key:
                raise
        return id

    def where(self, call: Call) -> Place:
        return self._workspace.place(call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key in its tag. Raises NotFound."""
        return (self._get(id, call)["properties"].get("tags") or {}).get(wire.KEY) or None

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its machines, on demand in East US; 0.0 where none runs."""
        job = self._get(id, call)
        if wire.status(job, None).state.done:
            return 0.0
        told = job["properties"].get("resources") or {}
        name = told.get("instanceType") or self._workspace.size_of(
            str(job["properties"].get("computeId") or ""), call
        )
        return machines.hourly([(str(name), int(told.get("instanceCount") or 1))])

    def find(self, key: str, call: Call) -> str | None:
        for job in self._workspace.listed("jobs", call):
            if (job["properties"].get("tags") or {}).get(wire.KEY) == key:
                return str(job["name"])
        return None

    def _get(self, id: str, call: Call) -> dict[str, Any]:
        try:
            return self._workspace.send("GET", f"jobs/{id}", call)
        except NotFound as error:
            error.message = f"there is no job {id!r} in the workspace"
            raise

    def status(self, id: str, call: Call) -> JobStatus:
        """A snapshot; of a job that has ended, with its exit code and metrics from the log."""
        job = self._get(id, call)
        found = wire.status(job, None)
        if not found.state.done:
            return found
        logs = [self._workspace.read(ARTIFACTS, path, call) for path in wire.logs_of(job)]
        return wire.status(job, "\n".join(log.decode("utf-8", "replace") for log in logs))

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The lines of ``user_logs/std_log.txt``, or of each machine's. The cursor is a number of
        bytes for each. The files hold no times: a line's is that at which it was there at the
        latest."""
        job = self._get(id, call)
        found = wire.status(job, None)
        ended, seen = found.state.done, found.ended_at or time.time()
        paths = wire.logs_of(job)
        starts = [int(at) for at in cursor.split("-")] if cursor else [0] * len(paths)
        lines: list[LogLine] = []
        for number, (path, start) in enumerate(zip(paths, starts, strict=True)):
            fresh = self._workspace.read(ARTIFACTS, path, call, start)
            if not ended:
                fresh = fresh[: fresh.rfind(b"\n") + 1]  # the last line may still grow
            starts[number] += len(fresh)
            source = f"process{number}" if len(paths) > 1 else ""
            texts = fresh.decode("utf-8", "replace").splitlines()
            lines += [LogLine(text=text, time=seen, source=source) for text in texts]
        return LogPage(lines=tuple(lines), cursor="-".join(map(str, starts)))

    def cancel(self, id: str, call: Call) -> None:
        """Asks for its end; harmless when it has ended."""
        with suppress(Conflict, InvalidRequest):
            self._workspace.send("POST", f"jobs/{id}/cancel", call)

    def download(self, id: str, output: str, to: str, call: Call) -> str:
        """Copies an output from the workspace's datastore. Raises InvalidRequest for a folder
        that is not empty, and for an output that lies elsewhere."""
        target = Path(to)
        if target.exists() and any(target.iterdir()):
            raise invalid("to", to, "is not empty", "Name a new folder.")
        uri = wire.status(self._get(id, call), None).outputs.get(output, "")
        prefix = f"azureml://datastores/{DATA}/paths/"
        if not uri.startswith(prefix):
            raise invalid("output", uri, f"is not in {DATA}", "Copy it with Azure's own tools.")
        target.mkdir(parents=True, exist_ok=True)
        self._workspace.download(DATA, uri.removeprefix(prefix), target, call)
        return str(target)

    def delete(self, id: str, call: Call) -> None:
        """Cancels it, and deletes it with its outputs in the workspace's datastore."""
        try:
            job = self._get(id, call)
        except NotFound:
            return
        if not wire.status(job, None).state.done:
            self.cancel(id, call)
        self._workspace.remove(DATA, f"{wire.SOURCE}/{id}", call)
        with suppress(NotFound):
            self._workspace.send("DELETE", f"jobs/{id}", call)

    def list(self, call: Call) -> Sequence[JobStatus]:
        """The jobs that were made through cloudai."""
        return [
            wire.status(job, None)
            for job in self._workspace.listed("jobs", call)
            if (job["properties"].get("tags") or {}).get(wire.KEY)
        ]

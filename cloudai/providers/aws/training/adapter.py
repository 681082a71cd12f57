"""Training jobs on SageMaker.

Longer than other modules: the adapter's methods are one Protocol's, over one session.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai import bootstrap
from cloudai._core import frameworks
from cloudai._core.calls import wait
from cloudai._core.calls.call import multi_step_create
from cloudai._core.files import pack
from cloudai._core.files.paths import here
from cloudai._core.files.tree import source, uploads
from cloudai._core.files.unpack import unpack
from cloudai._core.metrics import MetricPatterns
from cloudai._core.profiles.config import Profile
from cloudai.errors import Conflict, InvalidRequest, NotFound, UnsupportedByProvider
from cloudai.protocols import Call, Place
from cloudai.providers.aws import catalog, common, images, package, s3, tags
from cloudai.providers.aws import logs as _logs
from cloudai.providers.aws.session import session
from cloudai.providers.aws.training import efa, wire
from cloudai.types import (
    JobStatus,
    LogPage,
    MetricPoint,
    NativeRequest,
    Plan,
    State,
    TrainingJob,
)
from cloudai.types._base import invalid

GROUP: Final = "/aws/sagemaker/TrainingJobs"
"""The log group of all training jobs."""

_TAIL: Final = 20
_LATE: Final = 120.0
"""Seconds after a job's end in which lines of its log may still come in."""
_KEPT: Final = 256


class AwsTraining:
    """Training jobs: the source packaged, script mode in SageMaker's framework images or one's
    own; ``native={"aws": {…}}`` is merged into CreateTrainingJob last."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._store = s3.Store(self._session)
        self._keys = tags.Keys(self._session, "training", "describe_training_job", "TrainingJob")
        self._lock = threading.Lock()
        self._ended_ones: dict[str, JobStatus] = {}

    # Planning: pure, offline.

    def plan(self, spec: TrainingJob) -> Plan:
        """The requests, what SageMaker would refuse, what is lost, what it costs."""
        draft = common.Draft()
        travels = draft.attempt(lambda: uploads(spec, self._session.profile.home))
        body = self._draft(spec, draft)
        requests: list[NativeRequest] = []
        cost = None
        if body is not None:
            base = self._base(spec)
            requests += [
                NativeRequest(operation="s3:PutObject", body={"from": origin, "to": target})
                for origin, target in self._uploads(spec, base)
            ]
            requests.append(NativeRequest(operation="sagemaker:CreateTrainingJob", body=body))
            machine = wire.machines(body)[0]
            most = body["StoppingCondition"]["MaxRuntimeInSeconds"]
            what = f"for a minute up to the {most} s that it may run"
            if not body.get("EnableManagedSpotTraining"):
                cost = common.cost(machine, spec.resources.nodes, 60, most, what)
        return Plan(
            provider="aws",
            capability="training",
            requests=tuple(requests),
            violations=draft.violations,
            dropped=tuple(draft.dropped),
            notes=()
            if body is None or spec.image is not None
            else images.notes(spec.framework, "training", date.today()),
            uploads=travels or (),
            cost=cost,
        )

    def _base(self, spec: TrainingJob) -> str:
        return f"s3://{self._session.bucket()}/cloudai/{spec.name}"

    def _draft(self, spec: TrainingJob, draft: common.Draft) -> dict[str, Any] | None:
        """The request; None where too much is wrong to write it."""
        if spec.kind == "finetune":
            draft.wrong(
                UnsupportedByProvider(
                    'kind="finetune"',
                    provider="aws",
                    alternative='Run your own script with kind="script", or fine-tune on azure',
                    field="kind",
                )
            )
            return None
        shape = self._session.model("sagemaker").operation_model("CreateTrainingJob").input_shape
        types = shape.members["ResourceConfig"].members["InstanceType"]
        machines = draft.attempt(lambda: common.machines(spec.resources, types))
        role = draft.attempt(self._session.role)
        base = draft.attempt(lambda: self._base(spec))
        vpc = draft.attempt(self._session.vpc)
        kms_key = draft.attempt(self._session.kms_key)
        image = draft.attempt(lambda: self._image(spec, machines or [common.DEFAULT_MACHINE]))
        draft.attempt(lambda: self._check_secrets(spec))
        draft.attempt(lambda: wire.check_spot(spec))
        draft.attempt(lambda: wire.check_retry(spec))
        draft.attempt(lambda: common.check_key(spec.idempotency_key))
        draft.found(frameworks.check(spec))
        for name in spec.inputs:
            draft.attempt(lambda name=name: _check_input(spec, name))
        for name in ("model", "checkpoints", "data"):
            draft.attempt(lambda name=name: _check_output(spec, name))
        if spec.kind == "script" and len(spec.inputs) > 19:
            draft.wrong(
                InvalidRequest(
                    f"inputs: {len(spec.inputs)} and the source's own are more than the 20 "
                    "channels of SageMaker",
                    field="inputs",
                    hint="Put several inputs below one prefix",
                )
            )
        if len(spec.hyperparameters) > 100:
            draft.wrong(
                InvalidRequest(
                    f"hyperparameters: {len(spec.hyperparameters)} are more than the 100 that "
                    "SageMaker carries",
                    field="hyperparameters",
                    hint="Put the rest into a file of the source, or nest them in one object",
                )
            )
        draft.dropped += self._dropped(spec)
        if kms_key is not None:
            draft.dropped += common.own_disks(machines or ())
        if machines is None or role is None or base is None or image is None:
            return None
        place = wire.Place(
            role=role,
            base=base,
            image=image,
            machines=machines,
            kms_key=kms_key,
            vpc=vpc,
        )
        body = wire.request(spec, place)
        draft.check(shape, body, wire.FIELDS)
        return body

    def _image(self, spec: TrainingJob, machines: list[str]) -> str:
        if spec.image is not None:
            native = spec.native.get("aws", {}).get("AlgorithmSpecification", {})
            self._session.check_image(spec.image, vpc="TrainingImageConfig" in native)
            return spec.image
        return images.image(
            spec.framework,
            "training",
            self._session.region,
            chip=catalog.chip(machines[0]),
            suffix=self._session.dns_suffix,
        )

    def _check_secrets(self, spec: TrainingJob) -> None:
        if spec.kind != "script":
            return
        for name, ref in spec.secrets.items():
            if ref.store not in {"secretsmanager", "ssm"}:
                raise UnsupportedByProvider(
                    f"secrets.{name}: a secret of {ref.store!r} in a SageMaker job",
                    provider="aws",
                    alternative="Put it into secretsmanager or ssm, which the job's role can read",
                    field="secrets",
                )

    def _dropped(self, spec: TrainingJob) -> list[str]:
        found: list[str] = []
        if spec.kind == "container" and spec.secrets:
            found.append("secrets: a container of your own has to fetch them itself")
        if spec.outputs.data is not None:
            found.append("outputs.data: SageMaker puts it beside the model, as output.tar.gz")
        if spec.spot is not None and spec.resources.any_of:
            found.append("resources.any_of: spot jobs take the first one that SageMaker has")
        if spec.retry.max and "failed" in spec.retry.on:
            found.append("retry.on: SageMaker starts anew after its own failures, not the script's")
        if any(spec.input(name).mode == "mount" for name in spec.inputs):
            found.append("inputs.mode: mount is FastFile, read-only and sequential at best")
        return found

    def _uploads(self, spec: TrainingJob, base: str) -> list[tuple[str, str]]:
        """What goes to S3 first: from where, to where."""
        found: list[tuple[str, str]] = []
        for name in spec.inputs:
            path = here(spec.input(name).uri)
            if path is not None:
                found.append((str(path), wire.channel_uri(spec, name, base)))
        if spec.kind == "script":
            found.append((str(spec.source), f"{base}/{wire.CODE}/{wire.SOURCE}"))
        return found

    # Doing.

    def check(self, spec: TrainingJob) -> None:
        self._checked(spec)

    def _checked(self, spec: TrainingJob) -> dict[str, Any]:
        """The request, of which nothing is wrong."""
        draft = common.Draft()
        draft.attempt(lambda: uploads(spec, self._session.profile.home))
        body = self._draft(spec, draft)
        draft.refuse()
        assert body is not None  # noqa: S101 - nothing was wrong
        return body

    def submit(self, spec: TrainingJob, call: Call) -> str:
        """Uploads what is local and creates the job. Its id is its name."""
        body = self._checked(spec)
        assert spec.name is not None  # noqa: S101
        base = self._base(spec)
        self._check_remote(spec, call)
        with multi_step_create():
            for origin, target in self._uploads(spec, base):
                if target.endswith(wire.SOURCE):
                    self._upload_source(spec, target, wire.machines(body), call)
                else:
                    self._store.upload_tree(Path(origin), target, call)
            self._keys.sending(spec.idempotency_key, spec.name)
            try:
                self._session.call("sagemaker", "create_training_job", call, **body)
            except Conflict as error:
                return self._keys.adopt(error, spec.idempotency_key, spec.name, call)
        return spec.name

    def discard(self, spec: TrainingJob, call: Call) -> None:
        """Removes what was uploaded for a job that does not exist."""
        try:
            self._described(str(spec.name), call)
        except NotFound:
            bucket = self._session.bucket()
            self._store.delete_under(f"s3://{bucket}/cloudai/{spec.name}/", call)

    def _check_remote(self, spec: TrainingJob, call: Call) -> None:
        """Refuses buckets and data that are not there, before the job exists."""
        self._store.check_bucket(self._session.bucket(), "bucket", call)
        for name in spec.inputs:
            uri = spec.input(name).uri
            if s3.is_s3(uri):
                self._store.check_exists(uri, f"inputs.{name}", call)
        for name in ("model", "checkpoints"):
            uri = getattr(spec.outputs, name)
            if uri is not None:
                self._store.check_bucket(s3.parse(uri)[0], f"outputs.{name}", call)

    def _upload_source(
        self, spec: TrainingJob, target: str, machines: list[str], call: Call
    ) -> None:
        fabric = {name: efa.variables(name) for name in machines}
        extra = {
            "cloudai_job.json": wire.job_file(spec, self._session.region, fabric),
            "cloudai_start.py": (package.CONTAINER / "start.py").read_bytes(),
            "cloudai_bootstrap.py": Path(bootstrap.__file__).read_bytes(),
        }
        files = source(spec, self._session.profile.home).files
        with tempfile.TemporaryDirectory(prefix="cloudai-") as draft:
            packed = Path(draft) / wire.SOURCE
            with packed.open("wb") as out:
                pack.write(out, {**files, **extra})
            self._store.upload(packed, target, call)

    def find(self, key: str, call: Call) -> str | None:
        """The job that was submitted with a key."""
        return self._keys.find(key, call)

    def where(self, call: Call) -> Place:
        return self._session.place(call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key that it carries. Raises NotFound."""
        return self._keys.owner(id, call)

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its machines, on demand; 0.0 where none runs."""
        described = self._described(id, call)
        if described["TrainingJobStatus"] not in {"InProgress", "Stopping"}:
            return 0.0
        config = described["ResourceConfig"]
        return catalog.hourly([(config.get("InstanceType", ""), config.get("InstanceCount", 1))])

    def _described(self, id: str, call: Call) -> dict[str, Any]:
        return self._session.call("sagemaker", "describe_training_job", call, TrainingJobName=id)

    def status(self, id: str, call: Call) -> JobStatus:
        """The snapshot; a job that has ended has its metrics, a failed one its last lines."""
        known = self._ended_ones.get(id)
        described = self._described(id, call)
        plain = wire.status(described, {})
        if not plain.state.done:
            return plain
        if known is not None and known.created_at == plain.created_at:
            return known
        # SageMaker itself keeps one value a minute and the last one; the log has them all.
        patterns = MetricPatterns(
            (row["Name"], row["Regex"])
            for row in described["AlgorithmSpecification"].get("MetricDefinitions", ())
        )
        metrics: dict[str, tuple[MetricPoint, ...]] = {}
        if patterns:
            lines = _logs.everything(self._session, GROUP, f"{id}/", call)
            metrics = patterns.points((line.text, line.time or 0.0) for line in lines)
        failed = plain.state is State.FAILED
        tail = _logs.tail(self._session, GROUP, f"{id}/", _TAIL, call) if failed else ()
        ended = msgspec.structs.replace(plain, metrics=metrics, log_tail=tail)
        if plain.ended_at is not None and time.time() - plain.ended_at > _LATE:
            # An ended job changes no more, and its log may be long to read.
            with self._lock:
                if len(self._ended_ones) > _KEPT:
                    self._ended_ones.clear()
                self._ended_ones[id] = ended
        return ended

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """New lines of all machines."""
        if cursor is None:
            self._described(id, call)  # NotFound for a job that never was
        return _logs.page(self._session, GROUP, f"{id}/", cursor, call)

    def cancel(self, id: str, call: Call) -> None:
        """Stops the job; harmless when it has ended."""
        try:
            self._session.call("sagemaker", "stop_training_job", call, TrainingJobName=id)
        except (Conflict, InvalidRequest):
            status = self._described(id, call)["TrainingJobStatus"]
            if status not in {"Completed", "Failed", "Stopped", "Stopping"}:
                raise

    def delete(self, id: str, call: Call) -> None:
        """Removes the job and what it left in S3 under its own prefix."""
        try:
            described = self._described(id, call)
        except NotFound:
            return
        if described["TrainingJobStatus"] in {"InProgress", "Stopping"}:
            self.cancel(id, call)
            described = self._ended(id, call)
        bucket = self._session.bucket()
        self._store.delete_under(f"s3://{bucket}/cloudai/{id}/", call)
        # Where the user named a place of his own, SageMaker wrote below the job's name there.
        where = described["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        if where != f"s3://{bucket}/cloudai/{id}/output":
            self._store.delete_under(f"{where}/{id}/", call)
        self._session.call("sagemaker", "delete_training_job", call, TrainingJobName=id)

    def _ended(self, id: str, call: Call) -> dict[str, Any]:
        """The job, once it has stopped: SageMaker deletes ended ones alone."""
        for pause in wait.intervals(remote=True, timeout=call.remaining()):
            described = self._described(id, call)
            if described["TrainingJobStatus"] in {"Completed", "Failed", "Stopped"}:
                return described
            time.sleep(pause)
        raise Conflict(
            f"the training job {id!r} is still stopping",
            provider="aws",
            hint="Delete it again later: SageMaker deletes ended jobs alone",
        )

    def list(self, call: Call) -> Sequence[JobStatus]:
        """The jobs that cloudai made."""
        found: list[JobStatus] = []
        for name in self._keys.listed(call):
            try:
                found.append(wire.status(self._described(name, call), {}))
            except NotFound:
                continue  # the tagging service has not heard yet that it was deleted
        return found

    def download(self, id: str, output: str, to: str, call: Call) -> str:
        """Fetches an output into a new folder; archives are unpacked there."""
        target = Path(to)
        if target.exists() and any(target.iterdir()):
            raise invalid("to", to, "is not empty", "Name a new folder.")
        uri = self.status(id, call).outputs.get(output)
        if uri is None:
            raise NotFound(f"{id} has no output {output!r}", provider="aws")
        if not uri.endswith(".tar.gz"):
            self._store.download_tree(uri, target, call)
            return str(target)
        with tempfile.TemporaryDirectory(prefix="cloudai-") as draft:
            packed = Path(draft) / "output.tar.gz"
            self._store.download(uri, packed, call)
            unpack(packed, target)
        return str(target)


def _check_input(spec: TrainingJob, name: str) -> None:
    uri = spec.input(name).uri
    field = f"inputs.{name}"
    if name == wire.CODE and spec.kind == "script":
        raise invalid(field, uri, "takes the name of the source's channel", "Name it otherwise.")
    if s3.is_s3(uri):
        s3.parse(uri, field)
        return
    path = here(uri)
    if path is None:
        raise invalid(
            field,
            uri,
            "is not what SageMaker reads",
            "Use an s3:// URI, or a path of this machine.",
        )
    if not path.exists():
        raise invalid(field, uri, "does not exist", "Mend the path.")


def _check_output(spec: TrainingJob, name: str) -> None:
    uri = getattr(spec.outputs, name)
    if uri is not None and not s3.is_s3(uri):
        raise invalid(
            f"outputs.{name}",
            uri,
            "is not an S3 URI",
            "SageMaker writes to S3; download() fetches it from there.",
        )
    if uri is not None:
        s3.parse(uri, f"outputs.{name}")

"""Batch prediction jobs: read from a bucket, answered, written in shards and in no order."""

from __future__ import annotations

import random
import re
import threading
from typing import Any

import msgspec

from cloudai.testing.emulators.vertex import _schema
from cloudai.testing.emulators.vertex._collection import DONE, Collection
from cloudai.testing.emulators.vertex._gemini import Gemini
from cloudai.testing.emulators.vertex._http import Answer, Refused, Request
from cloudai.testing.emulators.vertex._jobs import TOLD, Executor, Fate, check_labels
from cloudai.testing.emulators.vertex._operations import Operations
from cloudai.testing.emulators.vertex._serving import Serving
from cloudai.testing.emulators.vertex._state import VertexState, stamp
from cloudai.testing.emulators.vertex._storage import Storage


class Batches(Collection):
    """BatchPredictionJobs.

    Attributes
    ----------
    fates: pattern on the display name → what it ends in, instead of what its lines make it.
    """

    kind = "BatchPredictionJob"

    def __init__(
        self,
        cloud_state: VertexState,
        operations: Operations,
        storage: Storage,
        serving: Serving,
        gemini: Gemini,
        seed: int,
    ) -> None:
        super().__init__(cloud_state, operations)
        self._storage = storage
        self._serving = serving
        self._gemini = gemini
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.executor: Executor | None = None
        self.pending = 0.05
        self.fates: dict[str, Fate] = {}
        self._runs: dict[str, _Run] = {}

    def _create(self, request: Request, project: str, location: str) -> dict[str, Any]:
        parent = self._cloud_state.parent(project, location)
        version = request.path.split("/")[1]
        body = _schema.checked(
            version, "BatchPredictionJob", request.json, ignored=self._cloud_state.ignored
        )
        check_labels(body.get("labels", {}))
        if ("model" in body) == ("unmanagedContainerModel" in body):
            raise Refused(
                400, "INVALID_ARGUMENT", "One of model and unmanaged_container_model must be set."
            )
        fields = body.get("instanceConfig", {})
        if fields.get("includedFields") and fields.get("excludedFields"):
            raise Refused(
                400, "INVALID_ARGUMENT", "included_fields and excluded_fields exclude each other."
            )
        model = body.get("model", "")
        if model and not re.match(r"publishers/[^/]+/models/|projects/", model):
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid model: {model}")
        if model.startswith("projects/"):
            self._serving.model(model)
        for uri in body["inputConfig"].get("gcsSource", {}).get("uris", []):
            if self._storage.get(uri) is None:
                raise Refused(400, "INVALID_ARGUMENT", f"Input file {uri} does not exist.")
        name = f"{parent}/batchPredictionJobs/{self._cloud_state.number()}"
        now = self._cloud_state.clock.now()
        job = {
            **body, "name": name, "createTime": stamp(now), "updateTime": stamp(now),
            "state": "JOB_STATE_PENDING",
        }  # fmt: skip
        self.all[name] = job
        self._runs[name] = _Run(now, self._cloud_state.told.take("batch", "Vertex AI"))
        return job

    def _advance(self, name: str) -> dict[str, Any]:
        job, run = self.all[name], self._runs[name]
        now = self._cloud_state.clock.now()
        if job["state"] in DONE or now < run.created + self.pending:
            return job
        if run.thread is None:
            job["state"] = "JOB_STATE_RUNNING"
            job["startTime"] = stamp(now)
            run.thread = threading.Thread(target=self._worked, args=(job, run), daemon=True)
            run.thread.start()
            return job
        total = run.total
        job["completionStats"] = {
            "successfulCount": str(run.good),
            "failedCount": str(run.bad),
            "incompleteCount": str(max(0, total - run.good - run.bad)),
        }
        if not run.thread.is_alive():
            job["endTime"] = job["updateTime"] = stamp(now)
            job["state"] = run.state
            if run.error:
                job["error"] = {"code": run.code, "message": run.error}
                job["partialFailures"] = [{"code": run.code, "message": run.error}]
            for pattern, fate in self.fates.items():
                if re.search(pattern, job["displayName"]):
                    job["state"] = fate.state
                    if fate.message:
                        job["error"] = {"code": fate.code, "message": fate.message}
        return job

    def _worked(self, job: dict[str, Any], run: _Run) -> None:
        try:
            if run.told is None or run.told in {"SUCCEEDED", "PARTIAL"}:
                self._work(job, run)
            else:  # it is not run
                told = TOLD[run.told]
                run.state, run.code = told["state"], told.get("code", 3)
                run.error = told.get("message", "")
        finally:
            if "unmanagedContainerModel" in job and self.executor is not None:
                self.executor.on_delete({"name": job["name"]})

    def _work(self, job: dict[str, Any], run: _Run) -> None:
        lines: list[Any] = []
        for uri in job["inputConfig"]["gcsSource"]["uris"]:
            data = self._storage.get(uri) or b""
            lines += [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
        run.total = len(lines)
        good: list[bytes] = []
        bad: list[bytes] = []
        size = int(job.get("manualBatchTuningParameters", {}).get("batchSize", 16))
        answer = self._transform(job, run)
        begin = 0
        while answer is not None and begin < len(lines) and not run.cancelled.is_set():
            part = lines[begin : begin + size]
            begin += size
            try:
                if run.told == "PARTIAL" and begin > len(lines) // 2:
                    raise Refused(500, "INTERNAL", "emulated failure")
                found = answer(part)
            except Refused as error:
                run.error = error.message
                about = {"code": 3, "message": error.message}
                bad += [msgspec.json.encode({**_asked(job, one), "error": about}) for one in part]
                run.bad += len(part)
            else:
                good += [
                    msgspec.json.encode({**_asked(job, one), **told})
                    for one, told in zip(part, found, strict=True)
                ]
                run.good += len(part)
        if run.cancelled.is_set():
            run.state, run.error = "JOB_STATE_CANCELLED", ""
            return
        where = f"{job['outputConfig']['gcsDestination']['outputUriPrefix']}/prediction-emulated"
        self._random.shuffle(good)
        half = (len(good) + 1) // 2
        for index, shard in enumerate((good[:half], good[half:])):
            text = b"".join(line + b"\n" for line in shard)
            self._storage.put(f"{where}/prediction.results-{index:05d}-of-00002", text)
        text = b"".join(line + b"\n" for line in bad)
        self._storage.put(f"{where}/prediction.errors_stats-00000-of-00001", text)
        job["outputInfo"] = {"gcsOutputDirectory": where}
        if answer is None or (bad and not good):
            run.state = "JOB_STATE_FAILED"
        elif bad:
            run.state = "JOB_STATE_PARTIALLY_SUCCEEDED"

    def _transform(self, job: dict[str, Any], run: _Run) -> Any:
        """What answers some lines; None, with the run's error, where the model does not load."""
        publisher = re.search(r"publishers/google/models/([^/]+)\Z", job.get("model", ""))
        if publisher is not None:
            return lambda part: [self._google(publisher[1], job, one) for one in part]
        tuned = job.get("model", "").partition("@")[0]
        if tuned in self._gemini.tuned:
            return lambda part: [
                {"status": "", "response": self._gemini.answer(tuned, one["request"])}
                for one in part
            ]
        if "model" in job:
            model = self._serving.model(job["model"])
        else:
            model = {"name": job["name"], **job["unmanagedContainerModel"]}
            why = self.executor.on_deploy(model) if self.executor is not None else None
            if why is not None:
                run.error = why
                return None

        def answer(part: list[Any]) -> list[dict[str, Any]]:
            instances = [_instance(one, job.get("instanceConfig", {})) for one in part]
            found = self._serving.predictions(model, instances, job.get("modelParameters"))
            if len(found) != len(part):
                raise Refused(400, "INVALID_ARGUMENT", "The model gave another number of outputs.")
            return [{"prediction": one} for one in found]

        return answer

    def _google(self, model: str, job: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
        if model in self._gemini.models:
            return {"status": "", "response": self._gemini.answer(model, line["request"])}
        dim = self._gemini.embedding_models.get(model)
        if dim is None:
            raise Refused(404, "NOT_FOUND", f"Publisher Model `{model}` was not found.")
        asked = job.get("modelParameters", {})
        size = asked.get("outputDimensionality") or dim
        if model.startswith("gemini-embedding"):
            return {"response": self._gemini_embedding(line, dim)}
        return {"predictions": [{"embeddings": self._gemini.vector(line["content"], size, dim)}]}

    def _gemini_embedding(self, line: dict[str, Any], dim: int) -> dict[str, Any]:
        """As "Get batch embeddings inferences" has it (Google Cloud, read 2026-11-30)."""
        request = line.get("request", {})
        if not isinstance(line.get("key"), str) or not {"content", *request} <= {
            "content", "embed_content_config",
        }:  # fmt: skip
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                'A line has "key" and "request", which has "content" and "embed_content_config".',
            )
        config = request.get("embed_content_config", {})
        text = request["content"]["parts"][0]["text"]
        made = self._gemini.vector(text, config.get("output_dimensionality") or dim, dim)
        return {
            "embedding": {"values": made["values"]},
            "usageMetadata": {"promptTokenCount": made["statistics"]["token_count"]},
        }

    def _cancel(self, request: Request, project: str, location: str, id: str) -> Answer:
        job = self._need(project, location, id)
        if job["state"] in DONE:
            raise Refused(400, "FAILED_PRECONDITION", f"The job is in state {job['state']}.")
        run = self._runs[job["name"]]
        run.cancelled.set()
        job["state"] = "JOB_STATE_CANCELLING"
        if run.thread is None:
            job["state"] = "JOB_STATE_CANCELLED"
            job["endTime"] = stamp(self._cloud_state.clock.now())
        return Answer(json={})

    def stop(self) -> None:
        """Ends what is still run."""
        for run in self._runs.values():
            run.cancelled.set()


class _Run:
    def __init__(self, created: float, told: str | None) -> None:
        self.told = told
        self.created = created
        self.thread: threading.Thread | None = None
        self.cancelled = threading.Event()
        self.state = "JOB_STATE_SUCCEEDED"
        self.error = ""
        self.code = 3
        self.total = self.good = self.bad = 0


def _instance(line: Any, config: dict[str, Any]) -> Any:
    """What of a line is sent to the model, by the job's instanceConfig."""
    if not isinstance(line, dict):
        return line
    left = {*config.get("excludedFields", ()), config.get("keyField")}
    included = config.get("includedFields") or [name for name in line if name not in left]
    if config.get("instanceType") == "array":
        return [line[name] for name in included]
    return {name: line[name] for name in included if name in line}


def _asked(job: dict[str, Any], line: Any) -> dict[str, Any]:
    """How the output names the line that it answers."""
    key = job.get("instanceConfig", {}).get("keyField")
    if key:
        return {"key": line[key]}
    if isinstance(line, dict) and "key" in line and "request" in line:
        return {"key": line["key"]}
    if isinstance(line, dict) and "request" in line:
        return {"request": line["request"]}
    return {"instance": line}

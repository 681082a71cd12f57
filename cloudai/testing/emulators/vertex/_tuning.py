"""Tuning jobs: they read their examples, make a Model behind an Endpoint, and it answers as it was
shown; where this machine's models answer, one of them is fine-tuned."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from cloudai.testing.emulators.vertex import _local_models, _schema
from cloudai.testing.emulators.vertex._answers import text_of
from cloudai.testing.emulators.vertex._collection import DONE, Collection
from cloudai.testing.emulators.vertex._gemini import Gemini
from cloudai.testing.emulators.vertex._http import Answer, Refused, Request
from cloudai.testing.emulators.vertex._jobs import Fate, check_labels
from cloudai.testing.emulators.vertex._serving import Serving
from cloudai.testing.emulators.vertex._state import VertexState, stamp
from cloudai.testing.emulators.vertex._storage import Storage

# Of "Supported models", Gemini tuning API reference (read 2026-11-30), what has not ended since.
TUNABLE: Final = {"gemini-3.5-flash", "gemini-3.5-flash-lite", "gemini-3.1-flash-lite"}
MAX_EPOCHS: Final = 100


class Tunings(Collection):
    """TuningJobs.

    Attributes
    ----------
    fate: of a job that no entry of ``fates`` fits. fates: pattern on the tuned model's display
        name → fate. What a job's examples are wrong in goes before its fate.
    """

    kind = "TuningJob"

    def __init__(
        self, cloud_state: VertexState, storage: Storage, serving: Serving, gemini: Gemini
    ) -> None:
        super().__init__(cloud_state, None)  # they cannot be deleted
        self._storage = storage
        self._serving = serving
        self._gemini = gemini
        self.fate = Fate()
        self.fates: dict[str, Fate] = {}
        self._cancelled: set[str] = set()

    def _create(self, request: Request, project: str, location: str) -> dict[str, Any]:
        parent = self._cloud_state.parent(project, location)
        if location == "global":
            raise Refused(400, "INVALID_ARGUMENT", "Tuning is not supported in global.")
        version = request.path.split("/")[1]
        body = _schema.checked(
            version, "TuningJob", request.json, ignored=self._cloud_state.ignored
        )
        check_labels(body.get("labels", {}))
        if "supervisedTuningSpec" not in body:
            raise Refused(400, "INVALID_ARGUMENT", "tuning_spec is required.")
        if ("baseModel" in body) == ("preTunedModel" in body):
            raise Refused(
                400, "INVALID_ARGUMENT", "One of base_model and pre_tuned_model must be set."
            )
        base = body.get("baseModel")
        if base is not None and base.removesuffix("-001") not in TUNABLE:
            raise Refused(400, "INVALID_ARGUMENT", f"Base model {base} is not supported.")
        if base is None:
            name = body["preTunedModel"].get("tunedModelName", "")
            found = self._gemini.tuned.get(self._serving.model(name)["name"])
            if found is None:
                raise Refused(400, "INVALID_ARGUMENT", f"{name} is not a tuned model.")
            base = found[0]
        epochs = body["supervisedTuningSpec"].get("hyperParameters", {}).get("epochCount")
        if epochs is not None and not 1 <= int(epochs) <= MAX_EPOCHS:
            raise Refused(400, "INVALID_ARGUMENT", "epoch_count must be in the range [1, 100].")
        for key in ("trainingDatasetUri", "validationDatasetUri"):
            uri = body["supervisedTuningSpec"].get(key)
            if uri is not None and self._storage.get(uri) is None:
                raise Refused(400, "INVALID_ARGUMENT", f"Dataset {uri} does not exist.")
        name = f"{parent}/tuningJobs/{self._cloud_state.number()}"
        now = self._cloud_state.clock.now()
        self.all[name] = {
            **body, "name": name, "createTime": stamp(now), "updateTime": stamp(now),
            "state": "JOB_STATE_PENDING", "emulated": {"created": now, "base": base},
        }  # fmt: skip
        return self._advance(name)

    def _fate(self, job: dict[str, Any]) -> Fate:
        label = job.get("tunedModelDisplayName", "")
        found = (fate for pattern, fate in self.fates.items() if re.search(pattern, label))
        return next(found, self.fate)

    def _advance(self, name: str) -> dict[str, Any]:
        job = self.all[name]
        if job["state"] not in DONE:
            self._step(job)
        return {key: value for key, value in job.items() if key != "emulated"}

    def _step(self, job: dict[str, Any]) -> None:
        now, fate = self._cloud_state.clock.now(), self._fate(job)
        began = job["emulated"]["created"] + fate.pending
        if job["name"] in self._cancelled:
            if "work" in job["emulated"]:
                job["emulated"]["work"].stop()
            self._end(job, "JOB_STATE_CANCELLED", 1, "Job is cancelled by the user.")
        elif now < began:
            return
        elif now < began + fate.running or fate.state not in DONE:
            job.setdefault("startTime", stamp(began))
            held = now >= began + fate.running
            job["state"] = fate.state if held else "JOB_STATE_RUNNING"
        else:
            job.setdefault("startTime", stamp(began))
            examples, why = self._examples(job)
            if why is not None:
                self._end(job, "JOB_STATE_FAILED", 3, why)
            elif fate.state != "JOB_STATE_SUCCEEDED":
                self._end(job, fate.state, fate.code or 13, fate.message)
            elif self._gemini.local is not None and (code := self._tuned(job)) != 0:
                job["state"] = "JOB_STATE_RUNNING"
                if code is not None:
                    told = "\n".join(job["emulated"]["work"].lines()[-5:])
                    self._end(job, "JOB_STATE_FAILED", 13, told)
            else:
                self._make(job, examples)
                self._end(job, "JOB_STATE_SUCCEEDED", 0, "")

    def _tuned(self, job: dict[str, Any]) -> int | None:
        """The exit code of the fine-tuning itself, which is begun when it is first asked for;
        None while it goes on."""
        models = self._gemini.local
        assert models is not None  # noqa: S101 - the caller's condition
        if "work" not in job["emulated"]:
            spec = job["supervisedTuningSpec"]
            given = spec.get("hyperParameters", {})
            data = self._storage.get(spec["trainingDatasetUri"]) or b""
            source = job.get("preTunedModel", {}).get("tunedModelName", "").partition("@")[0]
            hyperparameters: dict[str, Any] = {}
            if given.get("epochCount"):
                hyperparameters["n_epochs"] = int(given["epochCount"])
            if given.get("learningRateMultiplier"):
                hyperparameters["learning_rate_multiplier"] = given["learningRateMultiplier"]
            examples = [_messages(msgspec.json.decode(line)) for line in data.splitlines()]
            job["emulated"]["work"] = models.tune(source, examples, hyperparameters)
        return job["emulated"]["work"].ended()

    def stop(self) -> None:
        """Ends what is still tuned."""
        for job in self.all.values():
            if "work" in job["emulated"]:
                job["emulated"]["work"].stop()

    def _end(self, job: dict[str, Any], state: str, code: int, message: str) -> None:
        job["state"] = state
        job["endTime"] = job["updateTime"] = stamp(self._cloud_state.clock.now())
        if message:
            job["error"] = {"code": code, "message": message}

    def _examples(self, job: dict[str, Any]) -> tuple[dict[str, str], str | None]:
        """Last question → answer, of all examples; or what is wrong with one."""
        found: dict[str, str] = {}
        data = self._storage.get(job["supervisedTuningSpec"]["trainingDatasetUri"]) or b""
        for number, line in enumerate(data.splitlines(), 1):
            try:
                example = msgspec.json.decode(line)
                _schema.checked(
                    "v1",
                    "GenerateContentRequest",
                    {"model": "m", **example},
                    ignored=[],
                )
                *before, answer = example["contents"]
                if answer["role"] != "model":
                    return {}, f"Row: {number}. The last role must be model."
                asked = [one for one in before if one["role"] == "user"]
                found[text_of(asked[-1]["parts"]) if asked else ""] = text_of(answer["parts"])
            except (msgspec.DecodeError, KeyError, TypeError, ValueError, Refused) as error:
                return {}, f"Row: {number}. Invalid example: {error}"
        if not found:
            return {}, "The dataset has no examples."
        return found, None

    def _make(self, job: dict[str, Any], examples: dict[str, str]) -> None:
        base = job["emulated"]["base"]
        data = self._storage.get(job["supervisedTuningSpec"]["trainingDatasetUri"]) or b""
        parent = job["name"].rpartition("/tuningJobs/")[0]
        label = job.get("tunedModelDisplayName", "tuned")
        model, endpoint = self._serving.tuned(parent, label, job.get("labels", {}))
        source = job.get("preTunedModel", {}).get("tunedModelName", "").partition("@")[0]
        learnt = {**self._gemini.tuned.get(source, ("", {}))[1], **examples}
        # By the Model too: a later job goes on from it.
        self._gemini.tuned[model] = self._gemini.tuned[endpoint] = (base, learnt)
        work = job["emulated"].get("work")
        if work is not None and self._gemini.local is not None:
            for name in (model, endpoint):
                self._gemini.local.add(name, work)
        job["tunedModel"] = {"model": f"{model}@1", "endpoint": endpoint}
        given = job["supervisedTuningSpec"].get("hyperParameters", {})
        job["tuningDataStats"] = {
            "supervisedTuningDataStats": {
                "tuningDatasetExampleCount": str(len(data.splitlines())),
                "totalBillableTokenCount": str(len(data.split())),
                "tuningStepCount": str(int(given.get("epochCount", 1)) * len(examples)),
            }
        }

    def _cancel(self, request: Request, project: str, location: str, id: str) -> Answer:
        job = self._need(project, location, id)
        if job["state"] in DONE:
            raise Refused(400, "FAILED_PRECONDITION", "The TuningJob is not active.")
        self._cancelled.add(job["name"])
        self.all[job["name"]]["state"] = "JOB_STATE_CANCELLING"
        return Answer(json={})


def _messages(example: dict[str, Any]) -> list[dict[str, str]]:
    """An example as the local trainer reads it."""
    told = _local_models.request_of("", example).messages
    return [{"role": one.role, "content": one.text} for one in told]

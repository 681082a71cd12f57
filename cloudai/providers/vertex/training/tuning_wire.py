"""Fine-tuning in Vertex AI's words: TuningJob (aiplatform v1) with a SupervisedTuningSpec."""

from __future__ import annotations

import re
from typing import Any, Final

from cloudai.formats.native import merge
from cloudai.providers.vertex import common, models
from cloudai.types import JobStatus, LogLine, State, TrainingJob, Violation

COLLECTION: Final = "tuningJobs"
INPUTS: Final = {"train": "trainingDatasetUri", "validation": "validationDatasetUri"}

_ALIASES: Final = {"n_epochs": "epochs", "num_train_epochs": "epochs", "epoch_count": "epochs"}
_MODEL: Final = re.compile(r"gemini-|.+/.")
_FIELDS: Final = {
    "epochs": "epochCount",
    "learning_rate_multiplier": "learningRateMultiplier",
    "adapter_size": "adapterSize",
}
# SupervisedHyperParameters.AdapterSize.
_SIZES: Final = {
    1: "ADAPTER_SIZE_ONE",
    2: "ADAPTER_SIZE_TWO",
    4: "ADAPTER_SIZE_FOUR",
    8: "ADAPTER_SIZE_EIGHT",
    16: "ADAPTER_SIZE_SIXTEEN",
    32: "ADAPTER_SIZE_THIRTY_TWO",
}


def hyperparameters(spec: TrainingJob) -> dict[str, Any]:
    """The spec's hyperparameters by their usual names."""
    return {_ALIASES.get(name, name): value for name, value in spec.hyperparameters.items()}


def violations(spec: TrainingJob, location: str) -> list[Violation]:
    """What Vertex AI would refuse, beside what it would of the files."""
    found = list(common.check_labels(spec.tags))
    if spec.method != "supervised":
        found.append(
            Violation(
                "method",
                f"{spec.method!r} is not in Vertex AI's API (v1).",
                'Use method="supervised", or google-genai\'s client.tunings (v1beta1).',
            )
        )
    if location in {"global", "us", "eu"}:
        found.append(Violation("location", f"nothing is tuned in {location!r}.", "Name a region."))
    if "/endpoints/" in (spec.base_model or ""):
        found.append(
            Violation(
                "base_model",
                f"{spec.base_model!r} is an endpoint.",
                'Name its Model: job.outputs["registered_model"].',
            )
        )
    elif spec.base_model and not _MODEL.match(spec.base_model):
        found.append(
            Violation(
                "base_model",
                f"{spec.base_model!r} is no model that Vertex AI tunes.",
                "Name a Gemini, a Model of your own, or an open model as PUBLISHER/NAME.",
            )
        )
    for name in sorted(set(spec.inputs) - set(INPUTS)):
        found.append(
            Violation(f"inputs.{name}", "has no place in fine-tuning.", "Use train, validation.")
        )
    found += _bad_hyperparameters(hyperparameters(spec))
    return found


def _bad_hyperparameters(given: dict[str, Any]) -> list[Violation]:
    found: list[Violation] = []
    for name, value in given.items():
        field = f"hyperparameters.{name}"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name not in _FIELDS:
            mend = f"There are: {', '.join(_FIELDS)}."
            if name in {"learning_rate", "lr"}:
                mend = "The service scales its own rate: use learning_rate_multiplier."
            found.append(Violation(field, "is no hyperparameter of Gemini's tuning.", mend))
        elif name == "epochs" and not (isinstance(value, int) and number and value >= 1):
            found.append(Violation(field, f"{value!r} is not a whole number from 1 on."))
        elif name == "learning_rate_multiplier" and not (number and value > 0):
            found.append(Violation(field, f"{value!r} is not a number above 0."))
        elif name == "adapter_size" and not (number and value in _SIZES):
            sizes = ", ".join(map(str, _SIZES))
            found.append(Violation(field, f"{value!r} is not a size of adapter.", f"{sizes}."))
    return found


def dropped(spec: TrainingJob) -> list[str]:
    """What the spec asks for and tuning does not carry."""
    code = "no code of yours runs"
    asked: tuple[tuple[str, Any, str], ...] = (
        (
            "resources",
            spec.resources.accelerator or spec.resources.instance_type,
            "the service chooses the machines",
        ),
        ("timeout", spec.timeout, "tuning jobs have none; cancel() ends one"),
        ("spot", spec.spot, "the service chooses the machines"),
        ("retry", spec.retry.max, "the service does not start a failed job again"),
        ("env", spec.env, code),
        ("secrets", spec.secrets, code),
        ("requirements", spec.requirements, code),
        (
            "outputs",
            spec.outputs.model or spec.outputs.checkpoints or spec.outputs.data,
            "the model stays at Vertex AI, behind an endpoint",
        ),
        ("metrics", spec.metrics, "they are in the job's Vertex AI Experiment, not in a log"),
    )
    return [f"{name}: {why}" for name, value, why in asked if value]


def encode(spec: TrainingJob, files: dict[str, str], service_account: str | None) -> dict[str, Any]:
    """The TuningJob to create. ``files``: the gs:// URI of each input."""
    given = hyperparameters(spec)
    tuning: dict[str, Any] = {INPUTS[name]: uri for name, uri in files.items()}
    if given:
        made = {_FIELDS[name]: value for name, value in given.items()}
        if "adapterSize" in made:
            made["adapterSize"] = _SIZES[made["adapterSize"]]
        if "epochCount" in made:
            made["epochCount"] = str(made["epochCount"])  # an int64 is a text in JSON
        tuning["hyperParameters"] = made
    base = spec.base_model or ""
    body: dict[str, Any] = {
        "supervisedTuningSpec": tuning,
        "tunedModelDisplayName": spec.name or "tuned",
        "labels": common.labels(spec.tags, spec.idempotency_key, spec.name),
    }
    if base.startswith("projects/"):
        body["preTunedModel"] = {"tunedModelName": base}  # goes on from a tuned model
    else:
        body["baseModel"] = base.rpartition("/")[2]
    if service_account is not None:
        body["serviceAccount"] = service_account
    return merge(body, spec.native.get("vertex", {}))


def status(job: dict[str, Any]) -> JobStatus:
    """A TuningJob as a snapshot."""
    native = str(job.get("state") or "JOB_STATE_UNSPECIFIED")
    state, reason, _ = common.ending(common.state(native), job.get("error"))
    if native == "JOB_STATE_PAUSED":
        reason = reason or "it is paused, and goes on when it is resumed"
    tuned: dict[str, Any] = job.get("tunedModel", {})
    outputs: dict[str, str] = {}
    if state is State.SUCCEEDED and tuned.get("endpoint"):
        outputs["model"] = tuned["endpoint"]
        if tuned.get("model"):
            outputs["registered_model"] = tuned["model"]
    for point in tuned.get("checkpoints", ()):
        if point.get("endpoint"):
            outputs[f"checkpoint-{point.get('step', point.get('checkpointId'))}"] = point[
                "endpoint"
            ]
    return JobStatus(
        id=str(job.get("name", "")),
        state=state,
        name=job.get("tunedModelDisplayName"),
        idempotency_key=job.get("labels", {}).get(common.KEY_LABEL),
        reason=reason,
        native_state=native,
        created_at=common.seconds(job.get("createTime")),
        started_at=common.seconds(job.get("startTime")),
        ended_at=common.seconds(job.get("endTime")),
        outputs=outputs,
        cost=_cost(job) if state.done else None,
    )


def _stats(job: dict[str, Any]) -> dict[str, Any]:
    return job.get("tuningDataStats", {}).get("supervisedTuningDataStats", {})


def _cost(job: dict[str, Any]) -> float | None:
    """US dollars: the tokens that are billed, times the epochs."""
    tokens = int(_stats(job).get("totalBillableTokenCount", 0))
    given = job.get("supervisedTuningSpec", {}).get("hyperParameters", {})
    if not tokens or "epochCount" not in given:
        return None
    trained = tokens * int(given["epochCount"])
    return models.TUNING.tokens_cost(str(job.get("baseModel", "")), trained)


def lines(job: dict[str, Any]) -> list[LogLine]:
    """What happened to a job so far: the service keeps no log of a tuning job."""
    found: list[LogLine] = []

    def add(at: str | None, text: str) -> None:
        if at:
            found.append(LogLine(text, common.seconds(at), "tuning"))

    source = job.get("baseModel") or job.get("preTunedModel", {}).get("tunedModelName", "")
    add(job.get("createTime"), f"created: tunes {source}")
    add(job.get("startTime"), "started")
    ended = job.get("endTime")
    stats = _stats(job)
    if stats.get("tuningDatasetExampleCount"):
        add(
            ended,
            f"{stats['tuningDatasetExampleCount']} examples, "
            f"{stats.get('totalBillableTokenCount', '?')} billable tokens, "
            f"{stats.get('tuningStepCount', '?')} steps",
        )
    for index, why in zip(
        stats.get("truncatedExampleIndices", ()),
        stats.get("droppedExampleReasons", ()),
        strict=False,
    ):
        add(ended, f"example {index} was dropped: {why}")
    reason = job.get("error", {}).get("message")
    add(ended, f"ended: {job.get('state')}{f': {reason}' if reason else ''}")
    return found


def endpoints(job: dict[str, Any]) -> list[str]:
    """The endpoints that a job made, its checkpoints' too."""
    tuned = job.get("tunedModel", {})
    made = [tuned.get("endpoint"), *(one.get("endpoint") for one in tuned.get("checkpoints", ()))]
    return list(dict.fromkeys(filter(None, made)))

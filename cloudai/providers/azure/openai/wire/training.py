"""Fine-tuning jobs: ``TrainingJob`` into the request, the job's answers into snapshots."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from typing import Any, Final

from cloudai.types import JobStatus, LogLine, MetricPoint, State, TrainingJob, Violation

MAX_SUFFIX: Final = 18
"""Characters of the suffix, without dots (Azure OpenAI's fine-tuning guide, read 2025-08)."""
TYPES: Final = ("Standard", "GlobalStandard", "Developer", "developerTier")
"""In any case of letters: Microsoft's guide also writes ``globalstandard``. Sent as it is given,
and left out unless asked for: no published description has the field (2024-10-21, v1)."""
KEY: Final = "cloudai_key"
NAME: Final = "cloudai_name"
MAX_TAGS: Final = 14
"""Metadata pairs of 16 (openai SDK 3.54, ``Metadata``), less the two of our own."""

_COMMON: Final = {"n_epochs", "batch_size", "learning_rate_multiplier"}
_HYPERPARAMETERS: Final[dict[str, set[str]]] = {
    "supervised": _COMMON,
    "dpo": _COMMON | {"beta"},
    "reinforcement": _COMMON
    | {"compute_multiplier", "eval_interval", "eval_samples", "reasoning_effort"},
}
_ALIASES: Final = {"epochs": "n_epochs", "num_train_epochs": "n_epochs"}
_NATIVE: Final = {"suffix", "trainingType", "grader", "response_format", "seed", "integrations"}

_STATES: Final[dict[str, State]] = {
    "validating_files": State.STARTING,
    "created": State.QUEUED,
    "pending": State.QUEUED,
    "notrunning": State.QUEUED,
    "queued": State.QUEUED,
    "resuming": State.QUEUED,
    "running": State.RUNNING,
    "pausing": State.RUNNING,
    # Neutral states have none for it: a paused job waits to go on.
    "paused": State.QUEUED,
    "cancelling": State.STOPPING,
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
    "cancelled": State.CANCELLED,
    "canceled": State.CANCELLED,
}


def violations(spec: TrainingJob) -> list[Violation]:
    """What the service would refuse, or what cannot be asked of it."""
    found: list[Violation] = []
    native = spec.native.get("azure", {})
    allowed = _HYPERPARAMETERS[spec.method] | {"seed"}
    for name in spec.hyperparameters:
        if _ALIASES.get(name, name) not in allowed:
            mend = f"There are: {', '.join(sorted(allowed))}."
            if name in {"learning_rate", "lr"}:
                mend = "The service scales its own rate: use learning_rate_multiplier."
            found.append(
                Violation(
                    f"hyperparameters.{name}",
                    f"is no hyperparameter of {spec.method} fine-tuning.",
                    mend,
                )
            )
    suffix = native.get("suffix")
    if suffix is not None and (len(suffix) > MAX_SUFFIX or "." in suffix or not suffix):
        found.append(
            Violation(
                "native.azure.suffix",
                f"{suffix!r} has {len(suffix)} characters or a dot; {MAX_SUFFIX} are allowed, "
                "and no dot.",
                "Shorten it.",
            )
        )
    kind = native.get("trainingType")
    if kind is not None and str(kind).lower() not in {one.lower() for one in TYPES}:
        found.append(
            Violation("native.azure.trainingType", f"{kind!r} is not one of {', '.join(TYPES)}.")
        )
    if spec.spot is not None and not str(kind or "developer").lower().startswith("developer"):
        found.append(
            Violation("spot", f"contradicts trainingType={kind}.", "Spot is the Developer tier.")
        )
    if spec.method == "reinforcement" and "grader" not in native:
        found.append(
            Violation(
                "native.azure.grader",
                "is needed by reinforcement fine-tuning.",
                'Give native={"azure": {"grader": {"type": "string_check", …}}}.',
            )
        )
    for name in set(native) - _NATIVE:
        found.append(
            Violation(
                f"native.azure.{name}",
                "is not known here.",
                f"There are: {', '.join(sorted(_NATIVE))}.",
            )
        )
    for name in set(spec.inputs) - {"train", "validation"}:
        found.append(
            Violation(f"inputs.{name}", "has no place in fine-tuning.", "Use train, validation.")
        )
    for name, value in spec.tags.items():
        if len(name) > 64 or len(value) > 512:
            found.append(Violation(f"tags.{name}", "exceeds 64 or 512 characters."))
    if len(spec.tags) > MAX_TAGS:
        found.append(Violation("tags", f"{len(spec.tags)} tags exceed {MAX_TAGS}."))
    return found


def dropped(spec: TrainingJob) -> list[str]:
    """What the spec asks for and fine-tuning cannot carry."""
    asked = {
        "resources": spec.resources.accelerator or spec.resources.instance_type,
        "timeout": spec.timeout,
        "env": spec.env,
        "secrets": spec.secrets,
        "requirements": spec.requirements,
        "outputs": spec.outputs.model or spec.outputs.checkpoints or spec.outputs.data,
        "retry": spec.retry.max,
    }
    why = {
        "resources": "the service chooses the machines",
        "timeout": "the service has no time limit of the job's own; cancel it yourself",
        "env": "no code of yours runs",
        "secrets": "no code of yours runs",
        "requirements": "no code of yours runs",
        "outputs": "the model stays at the service, under a name",
        "retry": "the service does not start a failed job again",
    }
    found = [f"{name}: {why[name]}" for name, value in asked.items() if value]
    if spec.metrics:
        found.append("metrics: they come from results.csv, not from patterns on the log")
    return found


def encode(
    spec: TrainingJob, training_file: str, validation_file: str | None, *, dated: bool
) -> dict[str, Any]:
    """The body of ``POST fine_tuning/jobs``.

    Parameters
    ----------
    dated: for a dated ``api_version``, which has no metadata, and hyperparameters of supervised
        jobs at the top (FineTuningJobCreation, 2024-10-21, read 2026-11-30).
    """
    native = spec.native.get("azure", {})
    given = {_ALIASES.get(name, name): value for name, value in spec.hyperparameters.items()}
    seed = given.pop("seed", native.get("seed"))
    method: dict[str, Any] = {}
    if spec.method == "reinforcement":
        method["grader"] = native["grader"]
        if "response_format" in native:
            method["response_format"] = native["response_format"]
    if given:
        method["hyperparameters"] = given
    body: dict[str, Any] = {
        "model": spec.base_model,
        "training_file": training_file,
        "suffix": native.get("suffix") or _suffix(spec),
    }
    if dated and spec.method == "supervised":
        body |= method
    else:
        body["method"] = {"type": spec.method, spec.method: method}
    if "trainingType" in native or spec.spot is not None:
        body["trainingType"] = native.get("trainingType") or "developerTier"
    if not dated:
        own = {KEY: spec.idempotency_key or "", NAME: spec.name or ""}
        body["metadata"] = {**spec.tags, **own}
    if validation_file is not None:
        body["validation_file"] = validation_file
    if seed is not None:
        body["seed"] = seed
    if "integrations" in native:
        body["integrations"] = native["integrations"]
    return body


def _suffix(spec: TrainingJob) -> str:
    name, base = spec.name or "cloudai", spec.base_model or ""
    if base and name.startswith(base):  # the default; the model's name repeats the base anyway
        name = f"cloudai{name[len(base) :]}"
    return re.sub(r"[^a-zA-Z0-9-]", "-", name)[:MAX_SUFFIX].strip("-") or "cloudai"


_MARKED: Final = re.compile(r"-([0-9a-f]{16})\.jsonl\Z")


def mark(key: str) -> str:
    """An idempotency key as it stands in the name of a training file."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def marked(filename: str, key: str) -> str:
    """The name of a training file whose job has no metadata: ``train-DIGEST-MARK.jsonl``."""
    return f"{filename.removesuffix('.jsonl')}-{mark(key)}.jsonl"


def mark_of(filename: str) -> str | None:
    """The mark in a file's name; None where there is none."""
    found = _MARKED.search(filename)
    return found[1] if found and filename.count("-") == 2 else None


def status(job: dict[str, Any]) -> JobStatus:
    """A snapshot. Azure leaves out, or sets to null, whatever it does not know yet."""
    native = str(job.get("status") or "pending")
    state = _STATES.get(native.lower(), State.UNKNOWN)
    error: dict[str, Any] = job.get("error") or {}
    metadata: dict[str, str] = job.get("metadata") or {}
    reason = error.get("message") or None
    if native.lower() == "paused":
        reason = "paused; cloudai.providers.azure.openai.training.resume(job) goes on with it"
    if reason and error.get("code"):
        reason = f"{error['code']}: {reason}"
    model = job.get("fine_tuned_model")
    return JobStatus(
        id=str(job["id"]),
        state=state,
        name=metadata.get(NAME) or None,
        idempotency_key=metadata.get(KEY) or None,
        reason=reason,
        native_state=native,
        created_at=_time(job.get("created_at")),
        started_at=_time(job.get("created_at")) if state is not State.QUEUED else None,
        ended_at=_time(job.get("finished_at")) if state.done else None,
        outputs={"model": str(model)} if model and state is State.SUCCEEDED else {},
    )


def _time(value: Any) -> float | None:
    return float(value) if value else None


def line(event: dict[str, Any]) -> LogLine:
    """A line of the log."""
    level = event.get("level") or "info"
    text = str(event.get("message") or "")
    return LogLine(
        text=text if level == "info" else f"{str(level).upper()}: {text}",
        time=_time(event.get("created_at")),
    )


def metrics(results: bytes, ended_at: float | None) -> dict[str, tuple[MetricPoint, ...]]:
    """``results.csv`` as metrics: a column each; empty cells are no points."""
    found: dict[str, list[MetricPoint]] = {}
    text = results.decode("utf-8-sig", "replace")
    for row in csv.DictReader(io.StringIO(text, newline="")):
        for name, cell in row.items():
            if name in {None, "step"} or not isinstance(cell, str):
                continue
            try:
                value = float(cell)
            except ValueError:
                continue
            points = found.setdefault(name, [])
            step = row.get("step") or ""
            points.append(
                MetricPoint(value, int(step) if step.isdigit() else len(points), ended_at or 0.0)
            )
    # -1 is the service's word for "not measured at this step".
    return {
        name: tuple(point for point in points if point.value != -1.0)
        for name, points in found.items()
        if any(point.value != -1.0 for point in points)
    }

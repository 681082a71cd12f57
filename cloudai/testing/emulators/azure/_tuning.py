"""Fine-tuning jobs, emulated: validation of the files, a life by the clock, events, results,
checkpoints, pause and resume. Where the executor has models of this machine, one is fine-tuned."""

from __future__ import annotations

import json
import secrets
from typing import Any, Final

from cloudai.testing.emulators.azure._files import Files, paged
from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._state import AzureState
from cloudai.testing.emulators.azure._validate import check
from cloudai.testing.emulators.common.local_models import LocalModels
from cloudai.testing.emulators.common.tuned import Tuning as Tuned

# Models that support fine-tuning, Microsoft Foundry (2026-03-05): until spring 2027, for those who
# tuned them before (model retirement schedule, 2026-07-07). gpt-5 takes an invitation.
MODELS: Final = {
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano-2025-04-14",
    "o4-mini-2025-04-16",
}
VALIDATING: Final = 0.5
QUEUED: Final = 0.5
RUNNING: Final = 2.0
"""Seconds of the emulator's clock in each state."""
_STEPS: Final = 10
_MAX_RUNNING: Final = 3
_MAX_QUEUED: Final = 20
_ENDED: Final = {"succeeded", "failed", "cancelled"}


class Tuning:
    """``/openai/…/fine_tuning/jobs``."""

    def __init__(self, cloud_state: AzureState, files: Files) -> None:
        self._cloud_state = cloud_state
        self._files = files

    def routes(self, table: Routes) -> None:
        for prefix in ("/openai/v1/fine_tuning/jobs", "/openai/fine_tuning/jobs"):
            table.add("POST", prefix, self._create)
            table.add("GET", prefix, self._list)
            table.add("GET", f"{prefix}/{{id}}", self._get)
            table.add("GET", f"{prefix}/{{id}}/events", self._events)
            table.add("GET", f"{prefix}/{{id}}/checkpoints", self._checkpoints)
            for verb, handler in (
                ("cancel", self._cancel),
                ("pause", self._pause),
                ("resume", self._resume),
            ):
                table.add("POST", f"{prefix}/{{id}}/{verb}", handler)
        # Only the dated API deletes.
        table.add("DELETE", "/openai/fine_tuning/jobs/{id}", self._delete)

    def _create(self, request: Request) -> Response:
        body = check("fine_tuning", request.json())
        dated = not request.path.startswith("/openai/v1/")
        unknown = _undated(body, request.query.get("api-version", "")) if dated else set[str]()
        if unknown:
            name = min(unknown)
            message = f"Unrecognized request argument supplied: {name}"
            raise Refused(400, "invalidPayload", message, param=name)
        if body["model"] not in MODELS and body["model"] not in self._cloud_state.tuned:
            raise Refused(
                400, "invalidPayload", f"The model {body['model']!r} cannot be fine-tuned."
            )
        suffix = body.get("suffix")
        if suffix is not None and (not 1 <= len(suffix) <= 18 or "." in suffix):
            raise Refused(400, "invalidPayload", "The suffix must be 1..18 long, without dots.")
        kind = body.get("trainingType", "Standard")
        if kind.lower() not in {"standard", "globalstandard", "developer", "developertier"}:
            raise Refused(400, "invalidPayload", f"Unknown trainingType {kind!r}.")
        for field in ("training_file", "validation_file"):
            if body.get(field):
                held = self._files.held(body[field])
                if held.purpose != "fine-tune":
                    raise Refused(400, "invalidPayload", f"{field} has another purpose.")
        with self._cloud_state.lock:
            waiting = [
                j for j in self._cloud_state.tunings.values() if self._state(j) not in _ENDED
            ]
            if len(waiting) >= _MAX_RUNNING + _MAX_QUEUED:
                raise Refused(429, "quotaExceeded", "Too many fine-tuning jobs are queued.")
            id = f"ftjob-{secrets.token_hex(16)}"
            bad = self._problem(body)
            job: dict[str, Any] = {
                "id": id,
                "born": self._cloud_state.clock(),
                "body": body,
                "fate": "failed" if bad else self._cloud_state.fate("fine_tuning", "succeeded"),
                "problem": bad,
                "paused": None,
                "lost": 0.0,
                "stopped": None,
            }
            self._cloud_state.tunings[id] = job
            return Response(status=201, body=self._shown(job))

    def _problem(self, body: dict[str, Any]) -> str | None:
        """What the validation of the training file finds."""
        content = self._files.held(body["training_file"]).content
        if not content.startswith(b"\xef\xbb\xbf"):
            return "The training file must be UTF-8 with a byte order mark (utf-8-sig)."
        lines = [line for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        if len(lines) < 10:
            return f"Training file has {len(lines)} example(s), but must have at least 10."
        kind = (body.get("method") or {}).get("type", "supervised")
        for number, line in enumerate(lines, 1):
            try:
                example = json.loads(line)
            except ValueError:
                return f"Line {number} is not valid JSON."
            wanted = ("input", "preferred_output") if kind == "dpo" else ("messages",)
            if any(name not in example for name in wanted):
                return f"Line {number} lacks {wanted}."
            if kind == "supervised" and example["messages"][-1]["role"] != "assistant":
                return f"Line {number}: the last message must be from the assistant."
        return None

    def _age(self, job: dict[str, Any]) -> float:
        """Seconds of life, without those it was paused."""
        until = job["paused"] if job["paused"] is not None else self._cloud_state.clock()
        return until - job["born"] - job["lost"]

    def _state(self, job: dict[str, Any]) -> str:
        if job["stopped"] is not None:
            return "cancelled"
        age = self._age(job)
        if age < VALIDATING:
            return "pending" if age < VALIDATING / 2 else "validating_files"
        if job["problem"]:
            return "failed"
        if age < VALIDATING + QUEUED:
            return "queued"
        work = self._work(job)
        if work is not None:
            return self._ended(job, work)
        if age < VALIDATING + QUEUED + RUNNING:
            return "running" if job["paused"] is None else "paused"
        return job["fate"]

    def _work(self, job: dict[str, Any]) -> Tuned | None:
        """The fine-tuning itself, begun when it is first asked for; None where none is done."""
        models: LocalModels | None = getattr(self._cloud_state.executor, "models", None)
        if models is None or job["fate"] != "succeeded" or _method(job["body"]) != "supervised":
            return None
        if "work" not in job:
            given = (job["body"].get("method") or {}).get("supervised") or {}
            wanted = {**(job["body"].get("hyperparameters") or {})}
            wanted |= given.get("hyperparameters") or {}
            content = self._files.held(job["body"]["training_file"]).content
            examples = [
                json.loads(line)["messages"]
                for line in content.decode("utf-8-sig").split("\n")
                if line.strip()
            ]
            job["work"] = models.tune(
                job["body"]["model"],
                [[_plain(message) for message in messages] for messages in examples],
                {name: value for name, value in wanted.items() if value != "auto"},
            )
        return job["work"]

    def _ended(self, job: dict[str, Any], work: Tuned) -> str:
        code = work.ended()
        if code is None:
            return "running" if job["paused"] is None else "paused"
        if code:
            job["problem"] = "\n".join(work.lines()[-5:]) or f"it ended with {code}"
            return "failed"
        return "succeeded"

    def _shown(self, job: dict[str, Any]) -> dict[str, Any]:
        state, body = self._state(job), job["body"]
        done = state == "succeeded"
        if done:
            self._finish(job)
        error = None
        if state == "failed":
            error = {
                "code": "invalid_training_file"
                if job["problem"] and "work" not in job
                else "internal_error",
                "message": job["problem"] or "The job failed.",
                "param": "training_file" if job["problem"] else None,
            }
        # As Azure does: null, or nothing at all, while it is not known.
        shown: dict[str, Any] = {
            "id": job["id"],
            "object": "fine_tuning.job",
            "status": state,
            "model": body["model"],
            "created_at": int(job["born"]),
            "finished_at": int(self._cloud_state.clock()) if state in _ENDED else None,
            "training_file": body["training_file"],
            "validation_file": body.get("validation_file"),
            "fine_tuned_model": job.get("model") if done else None,
            "result_files": [job["results"]] if done else None,
            "trained_tokens": 12_000 if done else None,
            "seed": body.get("seed", 42),
            "method": body.get("method"),
            "metadata": body.get("metadata"),
            "suffix": body.get("suffix"),
            "error": error,
            "hyperparameters": _hyperparameters(body),
            "organization_id": "",
        }
        if state == "pending" or not shown["method"]:
            del shown["method"]
        return shown

    def _finish(self, job: dict[str, Any]) -> None:
        if "results" in job:
            return
        rows = ["step,train_loss,train_mean_token_accuracy,valid_loss"]
        losses = self._losses(job)
        for step, loss in enumerate(losses, 1):
            measured = "0.5" if step == len(losses) else "-1.0"
            rows.append(f"{step},{loss:.4f},{step / len(losses):.2f},{measured}")
        job["results"] = self._files.add(
            "results.csv", "fine-tune-results", "\n".join(rows).encode()
        )
        suffix = job["body"].get("suffix") or "custom"
        job["model"] = f"{job['body']['model']}.ft-{job['id'][6:14]}-{suffix}"
        self._cloud_state.tuned[job["model"]] = job["body"]
        if "work" in job:
            models: Any = getattr(self._cloud_state.executor, "models", None)
            models.add(job["model"], job["work"])

    def _losses(self, job: dict[str, Any]) -> list[float]:
        if "work" in job:
            return job["work"].losses()
        return [2.0 / step for step in range(1, _STEPS + 1)]

    def _held(self, request: Request) -> dict[str, Any]:
        found = self._cloud_state.tunings.get(request.groups["id"])
        if found is None:
            raise Refused(404, "NotFound", "The fine-tuning job does not exist.")
        return found

    def _get(self, request: Request) -> Response:
        with self._cloud_state.lock:
            return Response(body=self._shown(self._held(request)))

    def _list(self, request: Request) -> Response:
        with self._cloud_state.lock:
            jobs = [self._shown(job) for job in reversed(self._cloud_state.tunings.values())]
        return paged(jobs, request)

    def _events(self, request: Request) -> Response:
        with self._cloud_state.lock:
            job = self._held(request)
            age, born = self._age(job), job["born"]
            told = [(0.0, "info", "Job enqueued. Waiting for jobs ahead to complete.")]
            if job["problem"]:
                told.append((VALIDATING, "error", f"Job failed: {job['problem']}"))
            elif "work" in job:
                begun, lines = VALIDATING + QUEUED, job["work"].lines()
                told.append((begun, "info", "Job started."))
                told += [(begun, "info", line) for line in lines]
                state = self._state(job)
                if state in _ENDED:
                    told.append((begun, "info", f"Job {state}."))
            else:
                begun = VALIDATING + QUEUED
                told.append((begun, "info", "Job started."))
                for step in range(1, _STEPS + 1):
                    at = begun + RUNNING * step / _STEPS
                    told.append((at, "info", f"Step {step}: training loss={2.0 / step:.2f}"))
                told.append((begun + RUNNING, "info", f"Job {job['fate']}."))
        events = [
            {
                "id": f"ftevent-{index}",
                "object": "fine_tuning.job.event",
                "created_at": int(born + at),
                "level": level,
                "message": message,
                "type": "message",
            }
            for index, (at, level, message) in enumerate(told)
            if at <= age
        ]
        return paged(events[::-1], request)

    def _checkpoints(self, request: Request) -> Response:
        with self._cloud_state.lock:
            job = self._held(request)
            shown = self._shown(job)
        data: list[dict[str, Any]] = []
        if shown["status"] == "succeeded":
            data = [
                {
                    "id": f"ftchkpt-{step}",
                    "object": "fine_tuning.job.checkpoint",
                    "created_at": shown["finished_at"],
                    "fine_tuned_model_checkpoint": f"{job['model']}:ckpt-step-{step}",
                    "fine_tuning_job_id": job["id"],
                    "step_number": step,
                    "metrics": {"step": step, "train_loss": 2.0 / step},
                }
                for step in (_STEPS, _STEPS // 2)
            ]
        return paged(data, request)

    def _cancel(self, request: Request) -> Response:
        with self._cloud_state.lock:
            job = self._held(request)
            if self._state(job) in _ENDED:
                raise Refused(400, "invalidPayload", "The job has ended and cannot be cancelled.")
            job["stopped"] = self._cloud_state.clock()
            if "work" in job:
                job["work"].stop()
            return Response(body=self._shown(job))

    def _pause(self, request: Request) -> Response:
        with self._cloud_state.lock:
            job = self._held(request)
            if self._state(job) != "running":
                raise Refused(400, "invalidPayload", "Only a running job can be paused.")
            job["paused"] = self._cloud_state.clock()
            return Response(body=self._shown(job))

    def _resume(self, request: Request) -> Response:
        with self._cloud_state.lock:
            job = self._held(request)
            if job["paused"] is None:
                raise Refused(400, "invalidPayload", "Only a paused job can be resumed.")
            job["lost"] += self._cloud_state.clock() - job["paused"]
            job["paused"] = None
            return Response(body=self._shown(job))

    def _delete(self, request: Request) -> Response:
        with self._cloud_state.lock:
            job = self._held(request)
            if self._state(job) not in _ENDED:
                raise Refused(409, "conflict", "The job is under way.")
            del self._cloud_state.tunings[job["id"]]
        return Response(status=204)

    def close(self) -> None:
        """Ends what is still tuned."""
        for job in self._cloud_state.tunings.values():
            if "work" in job:
                job["work"].stop()


def _undated(body: dict[str, Any], version: str) -> set[str]:
    """Fields that a dated version has not (FineTuningJobCreation, 2024-10-21; previews of 2025
    have a method and a training type)."""
    known = {
        "model", "training_file", "validation_file", "hyperparameters", "suffix", "seed",
    }  # fmt: skip
    if version >= "2025":
        known |= {"method", "trainingType", "integrations"}
    return set(body) - known


def _method(body: dict[str, Any]) -> str:
    return (body.get("method") or {}).get("type", "supervised")


def _plain(message: dict[str, Any]) -> dict[str, str]:
    """A message as the local trainer reads it."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content)
    return {"role": message["role"], "content": content}


def _hyperparameters(body: dict[str, Any]) -> dict[str, Any]:
    """What the job says of them, wherever they were asked for; "auto" where they were not."""
    method = body.get("method") or {}
    told = method.get(method.get("type", ""), {}).get("hyperparameters") or {}
    names = ("n_epochs", "batch_size", "learning_rate_multiplier")
    return {name: told.get(name, "auto") for name in names}

"""Batches, emulated: the input file's rules, a life by the clock, output in another order."""

from __future__ import annotations

import json
import random
import secrets
from typing import Any, Final

from cloudai.testing.emulators.azure._chat import DataPlane
from cloudai.testing.emulators.azure._files import Files, paged
from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._state import BATCH_SKUS, AzureState
from cloudai.testing.emulators.azure._validate import check

VALIDATING: Final = 0.3
RUNNING: Final = 0.7
"""Seconds of the emulator's clock in each state."""
_MAX_LINES: Final = 100_000
_ENDED: Final = {"completed", "failed", "expired", "cancelled"}
_PATHS: Final = {"/chat/completions", "/v1/chat/completions"}


class Batches:
    """``/openai/…/batches``.

    Attributes
    ----------
    enqueued: words of input that may be waiting at once; None: any number.
    """

    def __init__(self, cloud_state: AzureState, files: Files, data: DataPlane) -> None:
        self._cloud_state = cloud_state
        self._files = files
        self._data = data
        self.enqueued: int | None = None

    def routes(self, table: Routes) -> None:
        for prefix in ("/openai/v1/batches", "/openai/batches"):
            table.add("POST", prefix, self._create)
            table.add("GET", prefix, self._list)
            table.add("GET", f"{prefix}/{{id}}", self._get)
            table.add("POST", f"{prefix}/{{id}}/cancel", self._cancel)

    def _create(self, request: Request) -> Response:
        body = check("batches", request.json())
        held = self._files.held(body["input_file_id"])
        if held.purpose != "batch":
            raise Refused(400, "invalidPayload", "The input file has another purpose.")
        if body["endpoint"] not in _PATHS:
            raise Refused(400, "invalidPayload", f"Unsupported endpoint {body['endpoint']!r}.")
        with self._cloud_state.lock:
            id = f"batch_{secrets.token_hex(12)}"
            lines, errors = self._lines(held.content, body["endpoint"])
            words = len(held.content.split())
            if self.enqueued is not None and not errors:
                waiting = sum(
                    b["words"]
                    for b in self._cloud_state.batches.values()
                    if self._state(b) not in _ENDED
                )
                if waiting + words > self.enqueued:
                    errors = [
                        {
                            "code": "token_limit_exceeded",
                            "message": "The number of enqueued tokens has surpassed the limit.",
                        }
                    ]
            told = self._cloud_state.told.take("batch", "Azure OpenAI")
            if told == "FAILED" and not errors:
                errors = [{"code": "internal_error", "message": "emulated failure"}]
            job: dict[str, Any] = {
                "id": id,
                "body": body,
                "born": self._cloud_state.clock(),
                "errors": errors,
                "lines": lines,
                "words": words,
                "fate": "expired"
                if told == "EXPIRED"
                else self._cloud_state.fate("batches", "completed"),
                "partly": told == "PARTIAL",
                "stopped": None,
            }
            self._cloud_state.batches[id] = job
        return Response(body=self._shown(job))

    def _lines(
        self, content: bytes, endpoint: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The lines, or what the validation has against them."""
        if content.startswith(b"\xef\xbb\xbf"):
            message = "The file begins with a byte order mark."
            return [], [{"code": "invalid_json_line", "message": message, "line": 1}]
        lines: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        models: set[str] = set()
        ids: set[str] = set()
        for number, raw in enumerate(content.splitlines(), 1):
            try:
                line = json.loads(raw)
                models.add(line["body"]["model"])
            except (ValueError, KeyError, TypeError):
                errors.append({"code": "invalid_json_line", "message": "bad", "line": number})
                continue
            if set(line) != {"custom_id", "method", "url", "body"} or line["method"] != "POST":
                errors.append({"code": "invalid_request", "message": "bad line", "line": number})
            elif line["custom_id"] in ids:
                errors.append({"code": "duplicate_custom_id", "message": "", "line": number})
            elif line["url"] != endpoint:
                errors.append({"code": "url_mismatch", "message": "", "line": number})
            ids.add(str(line.get("custom_id")))
            lines.append(line)
        if not lines and not errors:
            errors.append({"code": "empty_batch", "message": "The file is empty."})
        if len(lines) > _MAX_LINES:
            errors.append({"code": "too_many_tasks", "message": f"more than {_MAX_LINES}"})
        if len(models) > 1:
            errors.append({"code": "model_mismatch", "message": "One deployment a file."})
        for name in models:
            found = self._cloud_state.deployments.get(name)
            if found is None or ".ft-" in found.model or found.model.startswith("text-emb"):
                code = "model_not_found" if found is None else "invalid_request"
                errors.append({"code": code, "message": f"{name} is not served by batches."})
            elif found.sku not in BATCH_SKUS and not found.any_use:
                message = f"{name} is {found.sku}; batches need {' or '.join(sorted(BATCH_SKUS))}."
                errors.append({"code": "invalid_request", "message": message})
        return lines, errors

    def _state(self, job: dict[str, Any]) -> str:
        if job["stopped"] is not None:
            return "cancelled"
        age = self._cloud_state.clock() - job["born"]
        if age < VALIDATING:
            return "validating"
        if job["errors"]:
            return "failed"
        if age < VALIDATING + RUNNING:
            return "in_progress"
        if age < VALIDATING + RUNNING + 0.1:
            return "finalizing"
        return job["fate"]

    def _shown(self, job: dict[str, Any]) -> dict[str, Any]:
        state, body = self._state(job), job["body"]
        if state in {"completed", "expired", "cancelled"} and "output" not in job:
            self._work(job, state)
        now = int(self._cloud_state.clock())
        total = len(job["lines"])
        done, failed = job.get("counts", (0, 0))
        return {
            "id": job["id"],
            "object": "batch",
            "endpoint": body["endpoint"],
            "errors": {"object": "list", "data": job["errors"]} if state == "failed" else None,
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "status": state,
            "output_file_id": job.get("output") or None,
            "error_file_id": job.get("error") or None,
            "created_at": int(job["born"]),
            "in_progress_at": now if state != "validating" else None,
            "completed_at": now if state == "completed" else None,
            "failed_at": now if state == "failed" else None,
            "expired_at": now if state == "expired" else None,
            "cancelled_at": now if state == "cancelled" else None,
            "expires_at": int(job["born"]) + 86_400,
            "request_counts": {"total": total, "completed": done, "failed": failed},
            "metadata": body.get("metadata"),
        }

    def _work(self, job: dict[str, Any], state: str) -> None:
        """Answers the lines; of an expired or cancelled batch the first half; where it is to
        succeed partly, the rest fails."""
        answered: list[str] = []
        failed: list[str] = []
        half = len(job["lines"]) // 2
        for index, line in enumerate(job["lines"]):
            shown: dict[str, Any] = {"id": f"batch_req_{index}", "custom_id": line["custom_id"]}
            if state != "completed" and index >= half:
                if state == "expired":
                    error = {"code": "batch_expired", "message": "It did not run in time."}
                    failed.append(json.dumps({**shown, "response": None, "error": error}))
                continue
            if job["partly"] and index >= half:
                body: Any = {
                    "error": {"code": "InternalServerError", "message": "emulated failure"}
                }
                response = {"status_code": 500, "request_id": "r", "body": body}
                failed.append(json.dumps({**shown, "response": response, "error": None}))
                continue
            deployment = self._cloud_state.deployments[line["body"]["model"]]
            try:
                checked = check("chat", line["body"])
                answer = self._data.answer(deployment, checked)
            except Refused as refused:
                status, body = refused.response.status, refused.response.body
                response = {"status_code": status, "request_id": "r", "body": body}
                failed.append(json.dumps({**shown, "response": response, "error": None}))
                continue
            response = {"status_code": 200, "request_id": "r", "body": answer}
            answered.append(json.dumps({**shown, "response": response, "error": None}))
        random.Random(job["id"]).shuffle(answered)  # noqa: S311 - in no order, repeatably
        job["output"] = job["error"] = ""
        job["counts"] = (len(answered), len(failed))
        for name, lines in (("output", answered), ("error", failed)):
            if lines:
                content = "".join(f"{line}\n" for line in lines).encode()
                job[name] = self._files.add(f"{name}.jsonl", "batch_output", content)

    def _held(self, request: Request) -> dict[str, Any]:
        found = self._cloud_state.batches.get(request.groups["id"])
        if found is None:
            raise Refused(404, "NotFound", "The batch does not exist.")
        return found

    def _get(self, request: Request) -> Response:
        with self._cloud_state.lock:
            return Response(body=self._shown(self._held(request)))

    def _list(self, request: Request) -> Response:
        with self._cloud_state.lock:
            shown = [self._shown(job) for job in reversed(self._cloud_state.batches.values())]
        return paged(shown, request)

    def _cancel(self, request: Request) -> Response:
        with self._cloud_state.lock:
            job = self._held(request)
            if self._state(job) in _ENDED:
                raise Refused(400, "invalidPayload", "The batch has ended.")
            job["stopped"] = self._cloud_state.clock()
            return Response(body=self._shown(job))

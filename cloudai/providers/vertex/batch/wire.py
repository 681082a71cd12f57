"""Batch prediction jobs in Vertex AI's words: BatchPredictionJob (aiplatform v1), and the lines of
its files.

Vertex AI writes its output in any order and in several files. Each line that goes in carries its
number: in a label of the request (chat), in the key field (objects); where it cannot (bare
values), lines that are equal stand for each other.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final

import msgspec

from cloudai._core.batches.assemble import Result
from cloudai._core.batches.transforms import chat_request, embedding_request, messages, said
from cloudai._core.files.paths import here
from cloudai.errors import CloudAIError, HandlerError, InvalidRequest
from cloudai.formats.native import merge
from cloudai.providers.vertex import catalog, common
from cloudai.providers.vertex.chat import wire as chat_wire
from cloudai.providers.vertex.embeddings import wire as embeddings_wire
from cloudai.providers.vertex.errors import no_capacity
from cloudai.types import BatchTransform, JobStatus, State, Violation
from cloudai.types._base import invalid

LINE: Final = "cloudai_line"
"""The key field, and the label, that carry a line's number."""

INPUT: Final = "input.jsonl"
SPEC: Final = "spec.json"
DONE: Final = "done.json"


def violations(spec: BatchTransform) -> list[Violation]:
    """What Vertex AI would refuse, beside what it would of the model."""
    found = list(common.check_labels(spec.tags))
    if spec.chat is not None and spec.chat.startswith("openai:"):
        found.append(
            Violation(
                "chat",
                "Vertex AI batches no chat in OpenAI's format.",
                "Name a Gemini model, or the endpoint's model in model=.",
            )
        )
    for field in ("input", "output"):
        uri = getattr(spec, field)
        if here(uri) is None and not uri.startswith("gs://"):
            found.append(Violation(field, f"{uri!r} is not read by Vertex AI.", "Use gs://."))
    try:
        if spec.chat is not None:
            chat_request(spec.chat, spec.params)
        elif spec.embeddings is not None:
            embedding_request(spec.embeddings, spec.params)
    except InvalidRequest as error:
        found.append(Violation(error.field or "params", error.message, error.hint or ""))
    return found


def dropped(spec: BatchTransform) -> list[str]:
    """What the spec asks for and Vertex AI does not carry."""
    found: list[str] = []
    if spec.timeout is not None:
        found.append("timeout: batch prediction jobs have none; cancel() ends one")
    if spec.model is not None and spec.on_error != "fail" and spec.batch_size > 1:
        found.append("batch_size: one line a request, so that a bad line fails alone")
    if spec.chat is not None or spec.embeddings is not None:
        found.append("concurrency, shards: Vertex AI's own")
    return found


def line(spec: BatchTransform, index: int, record: Any, *, objects: bool) -> bytes:
    """One line of the job's input. Raises InvalidRequest for a record that cannot be one."""
    if spec.chat is not None:
        request = msgspec.structs.replace(
            chat_request(spec.chat, spec.params), messages=messages(record)
        )
        body = chat_wire.encode(request)
        body["labels"] = {**body.get("labels", {}), LINE: str(index)}
        return msgspec.json.encode({"request": body})
    if spec.embeddings is not None:
        request = msgspec.structs.replace(
            embedding_request(spec.embeddings, spec.params), texts=(_text(record),)
        )
        return msgspec.json.encode(embeddings_wire.batch_line(request, str(index)))
    if objects:
        return msgspec.json.encode({LINE: str(index), **record})
    return msgspec.json.encode(record)


def _text(record: Any) -> str:
    text = record.get("text") if isinstance(record, dict) else record
    if not isinstance(text, str) or not text.strip():
        raise invalid("line", record, 'is neither text nor an object with a text in "text"')
    return text


def encode(
    spec: BatchTransform,
    base: str,
    location: str,
    *,
    model: dict[str, Any],
    objects: bool,
    service_account: str | None,
) -> dict[str, Any]:
    """The BatchPredictionJob to create.

    Parameters
    ----------
    base: the gs:// URI below which its files lie. model: ``{"model": name}`` or
        ``{"unmanagedContainerModel": …}``. objects: whether each line is a JSON object.
    """
    body: dict[str, Any] = {
        "displayName": spec.name or "batch",
        **model,
        "inputConfig": {
            "instancesFormat": "jsonl",
            "gcsSource": {"uris": [f"{base}/{INPUT}"]},
        },
        "outputConfig": {
            "predictionsFormat": "jsonl",
            "gcsDestination": {"outputUriPrefix": f"{base}/output"},
        },
        "labels": common.labels(spec.tags, spec.idempotency_key, spec.name),
    }
    if spec.chat is None and spec.embeddings is None:
        machine = catalog.machine(spec.resources, location)
        resources: dict[str, Any] = {
            "machineSpec": {"machineType": machine.type},
            "startingReplicaCount": spec.shards,
            "maxReplicaCount": spec.shards,
        }
        if machine.vendor is not None:
            resources["machineSpec"]["acceleratorType"] = machine.vendor
            resources["machineSpec"]["acceleratorCount"] = machine.count
        body["dedicatedResources"] = resources
        size = spec.batch_size if spec.on_error == "fail" else 1
        body["manualBatchTuningParameters"] = {"batchSize": size}
        if objects:
            body["instanceConfig"] = {"instanceType": "object", "keyField": LINE}
        if spec.params:
            body["modelParameters"] = spec.params
        if service_account is not None:
            body["serviceAccount"] = service_account
    elif spec.embeddings is not None and not embeddings_wire.keyed(spec.embeddings):
        request = embedding_request(spec.embeddings, spec.params)
        body["modelParameters"] = embeddings_wire.encode(request)[1]["parameters"]
    return merge(body, spec.native.get("vertex", {}))


class Outcomes:
    """The answers to the lines, in the lines' order.

    Parameters
    ----------
    lines: the job's input lines.
    """

    def __init__(self, spec: BatchTransform, lines: list[bytes]) -> None:
        self._spec = spec
        self._found: list[Any] = [None] * len(lines)
        self._errors: dict[int, str] = {}
        self._places: dict[bytes, deque[int]] = {}
        for index, text in enumerate(lines):
            value = msgspec.json.decode(text)
            if not (isinstance(value, dict) and LINE in value):
                self._places.setdefault(_canonical(value), deque()).append(index)

    def add(self, text: bytes) -> None:
        """Reads one line of the job's output or of its errors."""
        told = msgspec.json.decode(text, type=dict[str, Any])
        index = self._index(told)
        if index is None:
            return
        failure = told.get("error") or told.get("status")
        if failure:
            message = failure.get("message") if isinstance(failure, dict) else failure
            self._errors[index] = str(message)
            return
        self._found[index] = told

    def _index(self, told: dict[str, Any]) -> int | None:
        key = told.get("key")
        if key is None:
            key = told.get("request", {}).get("labels", {}).get(LINE)
        if key is not None:
            index = int(key)
            return index if 0 <= index < len(self._found) else None
        asked = told.get("instance")
        if asked is None and "request" in told:
            asked = {"request": told["request"]}
        places = self._places.get(_canonical(asked))
        return places.popleft() if places else None

    def answer(self, index: int) -> Any:
        """The neutral output of one line. Raises the error that the line met."""
        told = self._found[index]
        if index in self._errors or told is None:
            message = self._errors.get(index, "Vertex AI gave no answer to this line")
            raise HandlerError(message, code="BatchLine")
        try:
            if self._spec.chat is not None:
                return _chat(told, self._spec.chat)
            if self._spec.embeddings is not None:
                return {"embedding": _vector(told, self._spec)}
        except (KeyError, IndexError, TypeError):  # of this line alone
            message = "Vertex AI's answer to this line cannot be read"
            raise HandlerError(message, code="BatchLine") from None
        return told.get("prediction")

    @property
    def failed(self) -> int:
        return len(self._errors)


def _chat(told: dict[str, Any], model: str) -> dict[str, Any]:
    from cloudai.providers.vertex.chat.gemini_reply import reply

    try:
        answer = reply(msgspec.json.encode(told["response"]), model, None)
    except CloudAIError as error:
        raise InvalidRequest(error.message, code=error.code) from None
    return said(answer)


def _vector(told: dict[str, Any], spec: BatchTransform) -> list[float]:
    if "response" not in told:
        predictions: list[dict[str, Any]] = told.get("predictions") or [told.get("prediction", {})]
        return predictions[0]["embeddings"]["values"]
    values: list[float] = told["response"]["embedding"]["values"]
    wanted = embedding_request(spec.embeddings or "", spec.params).dimensions
    if wanted is None or len(values) <= wanted:
        return values
    # Seen of such batches: the whole vector, whatever length was asked for. A shorter one is its
    # beginning, which gemini-embedding-2 brings to length 1 ("Embeddings", ai.google.dev).
    values = values[:wanted]
    length = math.hypot(*values) if embeddings_wire.one_by_one(spec.embeddings or "") else 1.0
    return [value / length for value in values] if length else values


def _canonical(value: Any) -> bytes:
    """Equal for JSON values that are equal; the service turns 1 into 1.0."""
    return msgspec.json.encode(_plain(value), order="deterministic")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def base_of(job: dict[str, Any]) -> str:
    """Below which the files of a batch lie."""
    uris = job.get("inputConfig", {}).get("gcsSource", {}).get("uris") or [""]
    return str(uris[0]).rpartition("/")[0]


def status(job: dict[str, Any], total: int | None, done: Result | None) -> JobStatus:
    """A BatchPredictionJob as a snapshot.

    Parameters
    ----------
    total: lines that were sent. done: what became of it, once that is known.
    """
    native = str(job.get("state") or "JOB_STATE_UNSPECIFIED")
    state, reason, _ = common.ending(common.state(native), job.get("error"))
    if native == "JOB_STATE_PAUSED":
        reason = reason or "it is paused, and goes on when it is resumed"
    counts = job.get("completionStats", {})
    good, bad = int(counts.get("successfulCount", 0)), int(counts.get("failedCount", 0))
    if reason is None and job.get("partialFailures"):
        reason = str(job["partialFailures"][0].get("message"))
    return JobStatus(
        id=str(job.get("name", "")),
        state=done.state if done else state,
        name=job.get("displayName"),
        idempotency_key=job.get("labels", {}).get(common.KEY_LABEL),
        reason=done.reason if done else reason,
        native_state=native,
        created_at=common.seconds(job.get("createTime")),
        started_at=common.seconds(job.get("startTime")),
        ended_at=common.seconds(job.get("endTime")),
        outputs=done.outputs if done else {},
        progress=(done.lines, done.lines) if done else (good + bad, total),
        errors=done.errors if done else bad,
        capacity=state is State.FAILED and no_capacity(reason),
    )

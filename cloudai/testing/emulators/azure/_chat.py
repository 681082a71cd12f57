"""The emulated data plane: authentication, quotas, chat completions and embeddings."""

from __future__ import annotations

import base64
import json
import re
import struct
import time
from typing import Any, Final

from cloudai.testing.emulators.azure import _stream, _strict
from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._scripted import message_of
from cloudai.testing.emulators.azure._state import BATCH_SKUS, AzureState, Deployed
from cloudai.testing.emulators.azure._validate import check
from cloudai.testing.emulators.common.answers import ScriptedError

VERSIONS: Final = {
    "2022-12-01",
    "2023-05-15",
    "2024-02-01",
    "2024-06-01",
    "2024-08-01-preview",
    "2024-10-21",
    "2025-01-01-preview",
    "2025-03-01-preview",
    "2025-04-01-preview",
}
_COGNITIVE: Final = {"https://cognitiveservices.azure.com", "https://ai.azure.com"}
_CONTEXT: Final = 16_000
"""Tokens (words, here) that an emulated chat model holds."""
_ASIDE: Final = {"finish_reason", "usage"}
"""What an executor's message holds beside the message itself."""
_SAFE: Final = {
    name: {"filtered": False, "severity": "safe"}
    for name in ("hate", "self_harm", "sexual", "violence")
}


class DataPlane:
    """``/openai/…`` of one resource."""

    def __init__(self, cloud_state: AzureState) -> None:
        self._cloud_state = cloud_state

    def routes(self, table: Routes) -> None:
        for path, handler in (("chat/completions", self._chat), ("embeddings", self._embed)):
            table.add("POST", f"/openai/v1/{path}", handler)
            table.add("POST", f"/openai/deployments/{{deployment}}/{path}", handler)
        table.add("GET", "/openai/v1/models", self._models)
        table.add("GET", "/openai/models", self._models)

    def admit(self, request: Request) -> None:
        """Who asks, and which API version. Raises Refused."""
        cloud_state, headers = self._cloud_state, request.headers
        dated = not request.path.startswith("/openai/v1/")
        version = request.query.get("api-version")
        if dated and version not in VERSIONS:
            # What the gateway says to a missing or unknown version.
            raise Refused(404, "404", "Resource not found")
        if not dated and version not in {None, "v1", "preview"}:
            raise Refused(400, "BadRequest", "API version not supported")
        bearer = headers.get("authorization", "")
        key = headers.get("api-key") or bearer.partition(" ")[2]
        if key in cloud_state.keys and (not dated or "api-key" in headers):
            return
        resource = cloud_state.token_for(bearer)
        if resource in _COGNITIVE:
            return
        raise Refused(
            401,
            "401",
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
            "provide a valid key for an active subscription and use a correct regional API "
            "endpoint for your resource.",
        )

    def _deployment(self, request: Request, body: dict[str, Any]) -> Deployed:
        name = request.groups.get("deployment") or body.get("model")
        found = self._cloud_state.deployments.get(str(name))
        if found is None or found.ready_at > self._cloud_state.clock():
            raise Refused(
                404,
                "DeploymentNotFound",
                "The API deployment for this resource does not exist. If you created the "
                "deployment within the last 5 minutes, please wait a moment and try again.",
            )
        if found.sku in BATCH_SKUS and not found.any_use:
            raise Refused(
                400,
                "OperationNotSupported",
                f"The operation does not work with a deployment of the kind {found.sku}.",
            )
        self._quota(found)
        return found

    def _quota(self, deployment: Deployed) -> None:
        if deployment.limit is None:
            return
        now = time.monotonic()
        with self._cloud_state.lock:
            if now >= deployment.since + deployment.window:
                deployment.since, deployment.used, deployment.told_at = now, 0, None
            if deployment.used < deployment.limit:
                deployment.used += 1
                return
            deployment.refused += 1
            if deployment.told_at is None:
                deployment.told_at = now
            elif now - deployment.told_at > 0.5:
                deployment.early += 1
            wait = deployment.since + deployment.window - now
        raise Refused(
            429,
            "429",
            "Requests to the ChatCompletions_Create Operation have exceeded call rate limit of "
            "your current pricing tier. Please retry later.",
            headers={"Retry-After": f"{wait:.3f}", "retry-after-ms": f"{wait * 1000:.0f}"},
        )

    def _chat(self, request: Request) -> Response:
        body = request.json()
        checked = check("chat.stream" if _wants_stream(body) else "chat", body)
        deployment = self._deployment(request, checked)
        _known_then(checked, request.query.get("api-version") or "")
        _rules(checked, deployment)
        if not _wants_stream(body):
            return Response(body=self.answer(deployment, checked))
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        _filtered(checked)
        scripted = self._cloud_state.answers.waiting
        chunks = None if scripted else self._cloud_state.executor.stream(deployment, checked)
        if chunks is None:
            answer = self.answer(deployment, checked)
            events = _stream.cut(answer, usage)
        else:
            events = _stream.made(self._head(deployment), chunks, usage)
        return Response(body=events, content_type="text/event-stream")

    def _head(self, deployment: Deployed) -> dict[str, Any]:
        """What every answer of a deployment begins with."""
        return {
            "id": "chatcmpl-emulated",
            "created": int(self._cloud_state.clock()),
            "model": f"{deployment.model}-{deployment.version}",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _SAFE}],
        }

    def answer(self, deployment: Deployed, body: dict[str, Any]) -> dict[str, Any]:
        """A chat completion."""
        _filtered(body)
        prompt = json.dumps(body["messages"])
        try:
            scripted = self._cloud_state.answers.scripted()
            if scripted is not None:
                message = message_of(scripted)
            else:
                message = self._cloud_state.executor.chat(deployment, body)
        except ScriptedError as error:
            raise Refused(error.status, str(error.status), str(error)) from None
        content = message.get("content")
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        if isinstance(body.get("tool_choice"), dict) and message.get("tool_calls"):
            finish = "stop"  # so it is with a forced tool
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if content is not None and limit is not None and len(content.split()) > limit:
            content, finish = " ".join(content.split()[:limit]), "length"
        for stop in _stops(body):
            if content is not None and stop in content:
                content = content.partition(stop)[0]
        asked = len(prompt.split())
        said = len((content or "").split()) + 5 * len(message.get("tool_calls") or ())
        reasoned = 7 if body.get("reasoning_effort") not in {None, "none"} else 0
        return {
            **self._head(deployment),
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": message.get("finish_reason", finish),
                    "logprobs": None,
                    "content_filter_results": _SAFE,
                    "message": {
                        "role": "assistant",
                        "refusal": None,
                        **{k: v for k, v in message.items() if k not in _ASIDE},
                        "content": content,
                    },
                }
            ],
            "usage": message.get("usage")
            or {
                "prompt_tokens": asked,
                "completion_tokens": said + reasoned,
                "total_tokens": asked + said + reasoned,
                "prompt_tokens_details": {"cached_tokens": asked // 2},
                "completion_tokens_details": {"reasoning_tokens": reasoned},
            },
        }

    def _embed(self, request: Request) -> Response:
        body = check("embeddings", request.json())
        deployment = self._deployment(request, body)
        return Response(body=self.embedded(deployment, body))

    def embedded(self, deployment: Deployed, body: dict[str, Any]) -> dict[str, Any]:
        """Embeddings of a body's input."""
        given = body["input"]
        texts: list[Any] = [given] if isinstance(given, str) else list(given)
        counts = [len(str(text).split()) for text in texts]
        if max(counts) > 8192:
            raise Refused(
                400,
                "context_length_exceeded",
                f"This model's maximum context length is 8192 tokens, however you requested "
                f"{max(counts)} tokens. Please reduce your prompt.",
            )
        if sum(counts) > 300_000:
            raise Refused(
                400,
                "max_tokens_per_request",
                f"Requested {sum(counts)} tokens, max 300000 tokens per request",
            )
        size = body.get("dimensions") or self._cloud_state.executor.dimensions(deployment)
        packed = body.get("encoding_format") == "base64"
        data: list[dict[str, Any]] = []
        for index, text in enumerate(texts):
            vector = self._cloud_state.executor.embed(deployment, str(text), size)
            made: Any = vector
            if packed:
                made = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": made})
        total = sum(counts)
        return {
            "object": "list",
            "data": data,
            "model": deployment.model,
            "usage": {"prompt_tokens": total, "total_tokens": total},
        }

    def _models(self, request: Request) -> Response:
        models = {d.model for d in self._cloud_state.deployments.values()} | set(
            self._cloud_state.tuned
        )
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "openai"}
            for name in sorted(models)
        ]
        return Response(body={"object": "list", "data": data})


# The first dated version that knows a field (Azure OpenAI's API lifecycle page, read 2025-08).
_SINCE: Final = {
    "max_completion_tokens": "2024-09-01",
    "stream_options": "2024-09-01",
    "reasoning_effort": "2024-12-01",
}
_SCHEMAS_SINCE: Final = "2024-08-01"


def _known_then(body: dict[str, Any], version: str) -> None:
    if not version[:4].isdigit():
        return  # the v1 API
    for name, since in _SINCE.items():
        if name in body and version[:10] < since:
            message = f"Unrecognized request argument supplied: {name}"
            raise Refused(400, "unknown_parameter", message, param=name)
    kind = (body.get("response_format") or {}).get("type")
    if kind == "json_schema" and version[:10] < _SCHEMAS_SINCE:
        message = "response_format value as json_schema is enabled only for api versions "
        raise Refused(
            400,
            "BadRequest",
            f"{message}{_SCHEMAS_SINCE}-preview and later.",
            param="response_format",
        )


def _filtered(body: dict[str, Any]) -> None:
    if "trigger-content-filter" in json.dumps(body["messages"]):
        raise Refused(
            400,
            "content_filter",
            "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy.",
            param="prompt",
            inner={
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {
                    **_SAFE,
                    "violence": {"filtered": True, "severity": "medium"},
                },
            },
        )


def _wants_stream(body: Any) -> bool:
    return isinstance(body, dict) and bool(body.get("stream"))


def _rules(body: dict[str, Any], deployment: Deployed) -> None:
    """What the types do not say."""
    words = len(json.dumps(body["messages"]).split())
    limit = _CONTEXT
    if words > limit:
        raise Refused(
            400,
            "context_length_exceeded",
            f"This model's maximum context length is {limit} tokens. However, your messages "
            f"resulted in {words} tokens. Please reduce the length of the messages.",
            param="messages",
        )
    if deployment.model.startswith("o") and "max_tokens" in body:
        raise Refused(
            400,
            "unsupported_parameter",
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            param="max_tokens",
        )
    _strict.check(body)
    _reasoning(deployment.model, body)
    asked: set[str] = set()
    for message in body["messages"]:
        asked |= {call["id"] for call in message.get("tool_calls") or ()}
        if message["role"] == "tool" and message["tool_call_id"] not in asked:
            raise Refused(
                400,
                "BadRequest",
                "messages with role 'tool' must be a response to a preceeding message with "
                "'tool_calls'.",
                param="messages",
            )


# "Reasoning models", Azure OpenAI (2026-04); tools with reasoning: pipecat#4043 (2026-03-16).
_EFFORTS: Final = (
    (r"o[134]", ("low", "medium", "high")),
    (r"gpt-5(?:-mini|-nano)?$", ("minimal", "low", "medium", "high")),
    (r"gpt-(?:6-astra|6\.1-sol)", ("low", "medium", "high", "xhigh")),
    (r"gpt-(?:5\.\d|6)", ("none", "low", "medium", "high", "xhigh")),
)


def _reasoning(model: str, body: dict[str, Any]) -> None:
    """What a reasoning model refuses. The emulated service knows what is deployed, whatever the
    deployment's name."""
    levels = next((levels for name, levels in _EFFORTS if re.match(name, model)), None)
    if levels is None:
        return
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in levels:
        listed = ", ".join(f"'{level}'" for level in levels)
        raise Refused(
            400,
            "unsupported_value",
            f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
            f"Supported values are: {listed}.",
            param="reasoning_effort",
        )
    silent = re.match(r"gpt-5\.[1-4]", model) is not None
    on = effort != "none" if effort is not None else not silent
    for name in ("temperature", "top_p"):
        if on and body.get(name) not in {None, 1}:
            raise Refused(
                400,
                "unsupported_value",
                f"Unsupported value: '{name}' does not support {body[name]} with this model. "
                "Only the default (1) value is supported.",
                param=name,
            )
    if (
        body.get("tools")
        and effort not in {None, "none"}
        and re.match(r"gpt-(?:5\.[4-9]|6)", model)
    ):
        raise Refused(
            400,
            "invalid_request_error",
            f"Function tools with reasoning_effort are not supported for {model} in "
            "/v1/chat/completions. Please use /v1/responses instead.",
            param="reasoning_effort",
        )


def _stops(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop") or []
    return [stop] if isinstance(stop, str) else list(stop)

"""Bedrock: Converse, ConverseStream, InvokeModel.

What is answered follows from the request, by the rules of the fake provider; or the executor's
``models`` answer, which run on this machine; or ``AwsState.chat``: a callable that gets the
request's body and gives a text, or the whole body of the answer.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from cloudai.errors import CloudAIError
from cloudai.providers.fake import _text
from cloudai.testing.emulators.aws import _local_models, _refusals, _turns
from cloudai.testing.emulators.aws._runtime import Answer, error
from cloudai.testing.emulators.aws._state import STATE
from cloudai.testing.emulators.aws._validate import refuse
from cloudai.testing.emulators.common.answers import ScriptedError, vector
from cloudai.types import (
    ChatRequest,
    Message,
    Part,
    ResponseSchema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

_WORD: Final = re.compile(r"\w+")


def _known(model: str) -> bool:
    return any(name in model for name in STATE.models)


def _no_model(model: str) -> Answer:
    return error(400, "ValidationException", f"The provided model identifier is invalid: {model}")


def _request(body: Mapping[str, Any], model: str) -> ChatRequest:
    """The neutral request that a Converse body says."""
    config = body.get("inferenceConfig", {})
    tools = body.get("toolConfig", {})
    choice: Any = tools.get("toolChoice", {"auto": {}})
    schema = body.get("outputConfig", {}).get("textFormat", {}).get("structure")
    chosen = next(iter(choice))
    said = _WORD.findall(" ".join(one.get("text", "") for one in body.get("system", ())))
    named = [one["toolSpec"]["name"] for one in tools.get("tools", ()) if "toolSpec" in one]
    told = next((name for name in named if name in said), None)  # a model that does as it is told
    return ChatRequest(
        model=model,
        messages=tuple(_message(one) for one in body["messages"]),
        max_tokens=config.get("maxTokens"),
        stop=tuple(config.get("stopSequences", ())),
        tools=tuple(
            Tool(
                name=one["toolSpec"]["name"],
                description=one["toolSpec"].get("description", ""),
                parameters=one["toolSpec"]["inputSchema"]["json"],
            )
            for one in tools.get("tools", ())
            if "toolSpec" in one
        ),
        tool_choice={"any": "required", "auto": told or "auto"}.get(chosen)
        or choice.get("tool", {}).get("name"),
        response_schema=ResponseSchema(schema=msgspec.json.decode(schema["jsonSchema"]["schema"]))
        if schema
        else None,
    )


def _message(one: Mapping[str, Any]) -> Message:
    parts: list[Part] = []
    role = one["role"]
    for block in one["content"]:
        if "text" in block:
            parts.append(Text(block["text"]))
        elif "toolUse" in block:
            use = block["toolUse"]
            arguments = msgspec.json.encode(use["input"]).decode()
            parts.append(ToolCall(use["toolUseId"], use["name"], arguments))
        elif "toolResult" in block:
            result = block["toolResult"]
            role = "tool"
            content = [item.get("text", item.get("json", "<image>")) for item in result["content"]]
            parts.append(ToolResult(result["toolUseId"], content[0]))
    return Message(role, tuple(parts))


class _Answered(msgspec.Struct):
    pieces: list[str]
    calls: list[dict[str, Any]]
    reason: str
    usage: dict[str, int]
    reasoning: str = ""
    body: dict[str, Any] | None = None


def _answered(
    model: str, body: dict[str, Any], *, stream: bool = False
) -> _Answered | ChatRequest | Answer:
    """The answer by rule or script; the neutral request where the executor's models answer."""
    if not _known(model):
        return _no_model(model)
    refuse("bedrock-runtime", "Converse", {**body, "modelId": model})
    refusal = _turns.refusal(body, model, STATE.signatures)
    refusal = refusal or _refusals.refusal(model, body, stream=stream)
    if refusal is not None:
        return error(400, "ValidationException", refusal)
    request = _request(body, model)
    system = " ".join(one.get("text", "") for one in body.get("system", ()))
    spent = sum(map(_text.count_message, request.messages)) + len(system.split())
    if spent > STATE.context:
        return error(
            400,
            "ValidationException",
            f"prompt is too long: {spent} tokens > {STATE.context} maximum",
        )
    blocked = _guarded(body)
    if not isinstance(blocked, str):
        return blocked
    if blocked:
        told = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}
        return _Answered([_BLOCKED], [], "guardrail_intervened", told)
    custom = STATE.chat(body) if STATE.chat is not None else None
    if isinstance(custom, dict):
        _sign(custom.get("output", {}).get("message", {}).get("content", []))
        return _Answered([], [], "end_turn", {}, body=custom)
    if custom is None and STATE.executor.models is not None and not STATE.answers.waiting:
        return _local_models.asked(request, body)
    if custom is None:
        try:
            reply = STATE.answers.to(request)
        except ScriptedError as failure:
            return error(failure.status, _CODES[failure.status], str(failure))
        pieces, reason = _text.tokens(reply.text), reply.finish_reason
        calls, thought = reply.tool_calls, reply.reasoning
    else:
        pieces, reason = _text.cut(str(custom), request.stop, request.max_tokens)
        calls, thought = (), ""
    made = [
        {"toolUseId": f"tooluse_{uuid.uuid4().hex[:12]}", "name": one.name, "input": one.arguments}
        for one in calls
    ]
    output = len(pieces) + sum(1 + len(one["input"]) for one in made)
    usage = {**_cached(model, body, spent), "outputTokens": output, "totalTokens": spent + output}
    stop = "tool_use" if made else "max_tokens" if reason == "length" else "end_turn"
    if not thought and "thinking" in body.get("additionalModelRequestFields", {}):
        thought = "emulated reasoning"
    return _Answered(pieces, made, stop, usage, thought)


_CODES: Final = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
"""Bedrock's errors by status (botocore's model of bedrock-runtime)."""


_BLOCKED: Final = "Sorry, the model cannot answer this question."
"""Bedrock's own default for what a guardrail blocks."""


def _guarded(body: Mapping[str, Any]) -> str | Answer:
    """The word that the request's guardrail blocks; empty where there is none."""
    config = body.get("guardrailConfig")
    if config is None:
        return ""
    words = STATE.guardrails.get(config["guardrailIdentifier"])
    if words is None:
        return error(
            400, "ValidationException",
            "The guardrail identifier or version provided in the request does not exist.",
        )  # fmt: skip
    said = " ".join(block.get("text", "") for turn in body["messages"] for block in turn["content"])
    return next((word for word in words if word.lower() in said.lower()), "")


def _cached(model: str, body: Mapping[str, Any], spent: int) -> dict[str, int]:
    """The prompt's tokens: plain ones, and those before the last cache point, which are written
    to the cache the first time and read from it afterwards."""
    blocks = [*body.get("system", ()), *(b for turn in body["messages"] for b in turn["content"])]
    points = [index for index, block in enumerate(blocks) if "cachePoint" in block]
    if not points:
        return {"inputTokens": spent}
    before = blocks[: points[-1]]
    tokens = sum(len(block.get("text", "").split()) for block in before)
    key = msgspec.json.encode([model, before]).decode()
    kind = "cacheReadInputTokens" if key in STATE.cached_prompts else "cacheWriteInputTokens"
    STATE.cached_prompts.add(key)
    return {"inputTokens": max(spent - tokens, 0), kind: tokens}


def _sign(blocks: Sequence[Mapping[str, Any]]) -> None:
    """Notes the signatures that are given, since no others are taken back."""
    for block in blocks:
        thought = block.get("reasoningContent", {})
        signature = thought.get("reasoningText", {}).get("signature")
        STATE.signatures.add(signature or thought.get("redactedContent"))


def _blocks(answer: _Answered) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        text = {"text": answer.reasoning, "signature": "c2lnbmVk"}
        blocks.append({"reasoningContent": {"reasoningText": text}})
    if answer.pieces:
        blocks.append({"text": "".join(answer.pieces)})
    blocks.extend({"toolUse": call} for call in answer.calls)
    _sign(blocks)
    return blocks


def converse_body(model: str, body: dict[str, Any]) -> dict[str, Any] | Answer:
    """The body of the answer to Converse."""
    answer = _answered(model, body)
    if isinstance(answer, ChatRequest):
        assert STATE.executor.models is not None  # noqa: S101
        try:
            return _local_models.body_of(STATE.executor.models.reply(answer))
        except CloudAIError as failure:
            return _local_models.refused(failure)
    if not isinstance(answer, _Answered):
        return answer
    if answer.body is not None:
        return answer.body
    return {
        "metrics": {"latencyMs": 1},
        "output": {"message": {"content": _blocks(answer), "role": "assistant"}},
        "stopReason": answer.reason,
        "usage": answer.usage,
    }


def _model(path: str) -> str:
    return path.removeprefix("/model/").rpartition("/")[0]


def converse(region: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
    made = converse_body(_model(path), msgspec.json.decode(body))
    if isinstance(made, tuple):
        return made
    return 200, {
        "Content-Type": "application/json",
    }, msgspec.json.encode(made)  # fmt: skip


_STREAM: Final = {"Content-Type": "application/vnd.amazon.eventstream"}


def converse_stream(region: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
    answer = _answered(_model(path), msgspec.json.decode(body), stream=True)
    if isinstance(answer, ChatRequest):
        assert STATE.executor.models is not None  # noqa: S101
        try:
            return 200, dict(_STREAM), _local_models.events(STATE.executor.models, answer)
        except CloudAIError as failure:
            return _local_models.refused(failure)
    if not isinstance(answer, _Answered):
        return answer
    if answer.body is not None:
        blocks = answer.body["output"]["message"]["content"]
        reason, usage = answer.body["stopReason"], answer.body["usage"]
    else:
        blocks, reason, usage = _blocks(answer), answer.reason, answer.usage
    frames = [_local_models.event("messageStart", {"role": "assistant"})]
    for index, block in enumerate(blocks):
        frames.extend(_block_events(index, block))
        frames.append(_local_models.event("contentBlockStop", {"contentBlockIndex": index}))
    frames.append(_local_models.event("messageStop", {"stopReason": reason}))
    frames.append(_local_models.event("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
    return 200, dict(_STREAM), b"".join(frames)


def _block_events(index: int, block: Mapping[str, Any]) -> list[bytes]:
    def delta(value: Any) -> bytes:
        return _local_models.delta(index, value)

    if "text" in block:
        return [delta({"text": piece}) for piece in _text.tokens(block["text"])]
    if "reasoningContent" in block:
        thought = block["reasoningContent"].get("reasoningText")
        if thought is None:
            return [delta({"reasoningContent": block["reasoningContent"]})]
        told = [delta({"reasoningContent": {"text": thought["text"]}})]
        if "signature" in thought:
            told.append(delta({"reasoningContent": {"signature": thought["signature"]}}))
        return told
    if "toolResult" in block:
        result = block["toolResult"]
        head = {"toolResult": {name: result[name] for name in result if name != "content"}}
        return [
            _local_models.event("contentBlockStart", {"contentBlockIndex": index, "start": head}),
            *(delta({"toolResult": [one]}) for one in result["content"]),
        ]
    use = block["toolUse"]
    head = {"toolUse": {name: use[name] for name in use if name != "input"}}
    text = msgspec.json.encode(use["input"]).decode()
    half = len(text) // 2
    return [
        _local_models.event("contentBlockStart", {"contentBlockIndex": index, "start": head}),
        delta({"toolUse": {"input": text[:half]}}),
        delta({"toolUse": {"input": text[half:]}}),
    ]


def _embeddings(texts: Sequence[str], dim: int) -> list[list[float]]:
    if STATE.executor.models is not None:
        return STATE.executor.models.vectors(texts, dim)[0]
    return [vector(text, dim) for text in texts]


_TITAN_LIMIT: Final = 8192
_COHERE_LIMIT: Final = 8192


def invoke_body(model: str, asked: dict[str, Any]) -> tuple[Any, int] | Answer:
    """The answer of an embedding model, and the tokens."""
    if not _known(model):
        return _no_model(model)
    if "inputText" in asked:
        count = len(asked["inputText"].split())
        if count > _TITAN_LIMIT:
            return error(
                400, "ValidationException",
                "400 Bad Request: Too many input tokens. Max input tokens: "
                f"{_TITAN_LIMIT}, request input token count: {count}",
            )  # fmt: skip
        (made,) = _embeddings([asked["inputText"]], asked.get("dimensions", 1024))
        return {"embedding": made, "inputTextTokenCount": count}, count
    if "texts" in asked:
        texts: list[str] = asked["texts"]
        if not 1 <= len(texts) <= 96 or "input_type" not in asked:
            return error(400, "ValidationException", "texts must have 1 to 96 entries")
        most = max(map(len, texts))
        if "-v3" in model and most > 2048:
            return error(
                400, "ValidationException",
                f"Malformed input request: expected maxLength: 2048, actual: {most}, please "
                "reformat your input and try again.",
            )  # fmt: skip
        longest = max(len(text.split()) for text in texts)
        if longest > _COHERE_LIMIT and asked.get("truncate", "NONE") == "NONE":
            return error(
                400, "ValidationException",
                f"too many tokens: the model takes at most {_COHERE_LIMIT} tokens, got {longest}",
            )  # fmt: skip
        dim = asked.get("output_dimension", 1024)
        rows = _embeddings([" ".join(text.split()[:_COHERE_LIMIT]) for text in texts], dim)
        total = sum(min(len(text.split()), _COHERE_LIMIT) for text in texts)
        body = {"id": "x", "response_type": "embeddings_by_type", "texts": texts,
                "embeddings": {"float": rows}}  # fmt: skip
        return body, total
    return error(400, "ValidationException", "Malformed input request")


def invoke_model(region: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
    try:
        made = invoke_body(_model(path), msgspec.json.decode(body))
    except CloudAIError as failure:
        return _local_models.refused(failure)
    if len(made) == 3:
        return made
    answer, tokens = made
    return 200, {
        "Content-Type": "application/json",
        "X-Amzn-Bedrock-Input-Token-Count": str(tokens),
    }, msgspec.json.encode(answer)  # fmt: skip


RUNTIME: Final[dict[str, Callable[..., Answer]]] = {
    "Converse": converse,
    "ConverseStream": converse_stream,
    "InvokeModel": invoke_model,
}

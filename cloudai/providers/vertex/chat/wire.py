"""Chat in Gemini's words: GenerateContentRequest and GenerateContentResponse (aiplatform v1)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai.errors import ContentFiltered, InvalidRequest, UnsupportedByProvider
from cloudai.formats.native import merge
from cloudai.formats.schemas import rewrite
from cloudai.formats.schemas.dialects import GEMINI
from cloudai.providers.vertex import families
from cloudai.providers.vertex.chat.turns import contents
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.types import ChatRequest, FinishReason, Usage
from cloudai.types._base import invalid

MAX_STOPS: Final = 5
"""Stop sequences a request may have (GenerationConfig's reference, read 2026-11)."""

FINISH: Final[dict[str, FinishReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MALFORMED_FUNCTION_CALL": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "NO_IMAGE": "error",
    "IMAGE_OTHER": "error",
    "OTHER": "error",
}


def encode(request: ChatRequest, *, stream: bool = False) -> dict[str, Any]:
    """The body of ``generateContent`` and ``streamGenerateContent``. Raises InvalidRequest."""
    body: dict[str, Any] = {"contents": contents(request)}
    system = [
        {"text": message.text}
        for message in request.messages
        if message.role == "system" and message.text.strip()
    ]
    if system:
        body["systemInstruction"] = {"parts": system}
    config = _config(request)
    if config:
        body["generationConfig"] = config
    if request.tools:
        body["tools"] = [
            {
                "functionDeclarations": [
                    {
                        "name": tool.name,
                        "description": tool.description,
                        "parametersJsonSchema": rewrite.fit(
                            tool.parameters, GEMINI, f"tools[{tool.name}].parameters"
                        ).schema,
                    }
                    for tool in request.tools
                ]
            }
        ]
    if request.tool_choice is not None and (request.tools or "tools" in request.native):
        body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice)}
    if not request.native:
        return body
    merge(body, request.native)
    count = body.get("generationConfig", {}).get("candidateCount", 1)
    if stream and count != 1:
        raise invalid(
            "native.generationConfig.candidateCount",
            count,
            "is more than one answer, which a stream would mix",
            "Stream one answer, or use create, whose reply.raw has all.",
        )
    return body


def _choice(choice: str) -> dict[str, Any]:
    modes = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
    if choice in modes:
        return {"mode": modes[choice]}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


def _config(request: ChatRequest) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name, value in (
        ("temperature", request.temperature),
        ("topP", request.top_p),
        ("seed", request.seed),
        ("maxOutputTokens", request.max_tokens),
    ):
        if value is not None:
            config[name] = value
    if request.top_p is not None and request.top_p <= 0:
        raise invalid("top_p", request.top_p, "is not above 0")
    if request.seed is not None and not -(2**31) <= request.seed < 2**31:
        raise invalid("seed", request.seed, "does not fit Gemini's 32 bits")
    if request.stop:
        if len(request.stop) > MAX_STOPS:
            raise invalid("stop", request.stop, f"has more than Gemini's {MAX_STOPS} texts")
        config["stopSequences"] = list(request.stop)
    if request.response_schema is not None:
        _check_beside(request)
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = rewrite.fit(request.response_schema.schema, GEMINI).schema
    if request.reasoning is not None:
        config["thinkingConfig"] = families.thinking(request.model, request.reasoning)
    return config


def _check_beside(request: ChatRequest) -> None:
    """Refuses tools that cannot stand beside a JSON answer: any on Gemini 2 (python-genai#867),
    forced ones everywhere (vercel/ai#16540, 2026-07-01)."""
    if not request.tools:
        return
    if not families.traits(request.model).schema_with_tools:
        raise UnsupportedByProvider(
            f"tools beside response_type on {request.model}",
            provider=PROVIDER,
            alternative="Use Gemini 3 or later, or ask twice: with the tools, then for the answer",
            field="tools",
        )
    if request.tool_choice not in {None, "auto", "none"}:
        raise UnsupportedByProvider(
            f"tool_choice={request.tool_choice!r} beside response_type",
            provider=PROVIDER,
            alternative='Use tool_choice="auto", or leave response_type out of this turn',
            field="tool_choice",
        )


class Call(msgspec.Struct):
    name: str = ""
    args: msgspec.Raw = msgspec.Raw(b"{}")


class Blob(msgspec.Struct):
    data: str = ""
    mimeType: str = ""


class Part(msgspec.Struct):
    text: str | None = None
    thought: bool = False
    thoughtSignature: str | None = None
    functionCall: Call | None = None
    inlineData: Blob | None = None
    executableCode: dict[str, Any] | None = None
    codeExecutionResult: dict[str, Any] | None = None
    fileData: dict[str, Any] | None = None


class Content(msgspec.Struct):
    parts: list[Part] = []


class Rating(msgspec.Struct):
    category: str = ""
    probability: str = ""
    blocked: bool = False


class Candidate(msgspec.Struct):
    content: Content | None = None
    finishReason: str | None = None
    finishMessage: str | None = None


class Feedback(msgspec.Struct):
    blockReason: str | None = None
    blockReasonMessage: str | None = None
    safetyRatings: list[Rating] = []


class Counts(msgspec.Struct):
    promptTokenCount: int = 0
    candidatesTokenCount: int = 0
    thoughtsTokenCount: int = 0
    toolUsePromptTokenCount: int = 0
    cachedContentTokenCount: int = 0


class Answer(msgspec.Struct):
    """A GenerateContentResponse, as far as the neutral reply needs it."""

    candidates: list[Candidate] = []
    usageMetadata: Counts | None = None
    modelVersion: str | None = None
    responseId: str | None = None
    promptFeedback: Feedback | None = None
    error: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(Answer)


def decode(data: bytes) -> Answer:
    """One answer, or one piece of a stream. Raises ContentFiltered for a prompt that was
    blocked, ProviderError for what is no answer."""
    try:
        answer = _decoder.decode(data)
    except msgspec.DecodeError as error:
        from cloudai.providers.vertex.errors import make

        raise make("DATA_LOSS", f"the answer cannot be read: {error}") from None
    if answer.error is not None and not answer.candidates:
        from cloudai.providers.vertex.errors import from_response

        code = answer.error.get("code")  # an error under a good status
        raise from_response(code if isinstance(code, int) else 500, {}, data)
    feedback = answer.promptFeedback
    if feedback is not None and feedback.blockReason and not answer.candidates:
        rated = [
            f"{rating.category} {rating.probability}".strip()
            for rating in feedback.safetyRatings
            if rating.blocked or rating.probability in {"MEDIUM", "HIGH"}
        ]
        why = feedback.blockReasonMessage or ", ".join(rated)
        raise ContentFiltered(
            f"the prompt was blocked: {feedback.blockReason}{f' ({why})' if why else ''}",
            provider=PROVIDER,
            code=feedback.blockReason,
            hint="Reword it, or set safetySettings in native=",
        )
    return answer


def usage(counts: Counts | None) -> Usage:
    """Tokens spent. Gemini counts thoughts, and the prompts of its own tools, apart."""
    if counts is None:
        return Usage()
    return Usage(
        input_tokens=counts.promptTokenCount + counts.toolUsePromptTokenCount,
        output_tokens=counts.candidatesTokenCount + counts.thoughtsTokenCount,
        cached_input_tokens=counts.cachedContentTokenCount,
        reasoning_tokens=counts.thoughtsTokenCount,
    )


def finish(reason: str, called: bool) -> FinishReason:
    """The neutral word for why it ended; an unknown one is an error, never success."""
    found = FINISH.get(reason, "error")
    return "tool_calls" if called and found == "stop" else found


def check_model(model: str) -> str:
    """Refuses a model's name that would change the URL."""
    if not model or any(character in model for character in "?#% \n") or ".." in model:
        raise InvalidRequest(
            f"model={model!r} is not the name of a model",
            field="model",
            value=model,
            hint="Such as gemini-3.5-flash, or publishers/google/models/gemini-3.5-flash",
        )
    return model


def path(parent: str, model: str) -> str:
    """The resource of a model: google-genai's rules for names."""
    check_model(model)
    if model.startswith("projects/"):
        return model
    if model.startswith(("publishers/", "endpoints/")):
        return f"{parent}/{model}"
    if model.startswith("models/"):
        return f"{parent}/publishers/google/{model}"
    publisher, slash, name = model.partition("/")
    if slash:
        return f"{parent}/publishers/{publisher}/models/{name}"
    return f"{parent}/publishers/google/models/{model}"

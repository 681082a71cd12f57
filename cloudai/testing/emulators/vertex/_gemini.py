"""Google's models: generateContent, streams of it, countTokens, embeddings.

Nothing thinks: an answer follows from the request by the rules of ``_answer``, or from a script.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cloudai.testing.emulators.vertex import _schema
from cloudai.testing.emulators.vertex._http import Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._world import World

WORDS: Final = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
CONTEXT: Final = 1_048_576
"""Tokens of a prompt at most."""


class Gemini:
    """The publisher models.

    Attributes
    ----------
    models: chat models that exist. embedding_models: name → longest vector.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.models = {"gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-pro-preview"}
        self.embedding_models = {
            "text-embedding-005": 768,
            "text-multilingual-embedding-002": 768,
            "gemini-embedding-001": 3072,
            "gemini-embedding-2": 3072,
        }
        self._script: list[dict[str, Any]] = []

    def routes(self, router: Router) -> None:
        for version in ("v1", "v1beta1"):
            model = (
                f"/{version}/projects/{{project}}/locations/{{location}}/publishers/google"
                "/models/{model}"
            )
            for method, handler in (
                ("generateContent", self._generate),
                ("streamGenerateContent", self._stream),
                ("countTokens", self._count),
                ("predict", self._predict),
                ("embedContent", self._embed),
            ):
                router.add("POST", f"{model}:{method}", handler)

    def script(self, *answers: dict[str, Any]) -> None:
        """The next answers, each a GenerateContentResponse in JSON; a list under ``"stream"`` is
        one piece of a stream each."""
        self._script.extend(answers)

    def _read(
        self, request: Request, project: str, location: str, model: str, message: str
    ) -> dict[str, Any]:
        parent = self._world.parent(project, location)
        if message != "EmbedContentRequest" and model not in self.models:
            raise Refused(
                404,
                "NOT_FOUND",
                f"Publisher Model `{parent}/publishers/google/models/{model}` was not found or "
                "your project does not have access to it.",
            )
        version = request.path.split("/")[1]
        body = {**request.json, "model": f"{parent}/publishers/google/models/{model}"}
        if message == "CountTokensRequest":
            body["endpoint"] = body["model"]
        return _schema.checked(version, message, body, ignored=self._world.ignored)

    def _generate(
        self, request: Request, project: str, location: str, model: str
    ) -> dict[str, Any]:
        body = self._read(request, project, location, model, "GenerateContentRequest")
        return self.answer(model, body)

    def answer(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request, whole."""
        pieces = self._pieces(model, body)
        whole = dict(pieces[-1])
        parts: list[dict[str, Any]] = []
        for piece in pieces:
            for candidate in piece.get("candidates", ()):
                for part in candidate.get("content", {}).get("parts", ()):
                    same = parts and _joins(parts[-1], part)
                    if same:
                        parts[-1] = {**parts[-1], **part, "text": parts[-1]["text"] + part["text"]}
                    else:
                        parts.append(part)
        if whole.get("candidates"):
            candidate = dict(whole["candidates"][0])
            candidate["content"] = {"role": "model", "parts": parts}
            whole["candidates"] = [candidate]
        return whole

    def _stream(self, request: Request, project: str, location: str, model: str) -> Answer:
        body = self._read(request, project, location, model, "GenerateContentRequest")
        if request.query.get("alt") != "sse":
            return Answer(json=self._pieces(model, body))
        pieces = [
            b"data: " + msgspec.json.encode(piece) + b"\r\n\r\n"
            for piece in self._pieces(model, body)
        ]

        def sent() -> Iterator[bytes]:
            yield from pieces

        return Answer(data=sent(), headers={"Content-Type": "text/event-stream"})

    def _pieces(self, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        config = body.get("generationConfig", {})
        _check(model, body, config)
        spent = _spent(body)
        if spent > CONTEXT:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"The input token count ({spent}) exceeds the maximum number of tokens allowed "
                f"({CONTEXT}).",
            )
        common = {"modelVersion": model, "responseId": f"r{self._world.number()}"}
        if self._script:
            scripted = self._script.pop(0)
            return [{**common, **piece} for piece in scripted.get("stream", [scripted])]
        parts, reason = _answer(body, config)
        thoughts = 0
        if config.get("thinkingConfig", {}).get("includeThoughts"):
            parts.insert(0, {"text": "Thinking it over.", "thought": True})
            thoughts = 4
        said = sum(_tokens(part) for part in parts) - thoughts
        usage = {
            "promptTokenCount": spent,
            "candidatesTokenCount": max(said, 1),
            "totalTokenCount": spent + max(said, 1) + thoughts,
        }
        if thoughts:
            usage["thoughtsTokenCount"] = thoughts
        pieces: list[dict[str, Any]] = [
            {**common, "candidates": [{"content": {"role": "model", "parts": [part]}}]}
            for part in parts
        ] or [{**common, "candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}}]}]
        last = pieces[-1]["candidates"][0]
        last["finishReason"] = reason
        pieces[-1]["usageMetadata"] = usage
        return pieces

    def _count(self, request: Request, project: str, location: str, model: str) -> dict[str, Any]:
        body = self._read(request, project, location, model, "CountTokensRequest")
        return {"totalTokens": _spent(body), "totalBillableCharacters": len(_text(body))}

    def _embedding(self, model: str) -> int:
        size = self.embedding_models.get(model)
        if size is None:
            raise Refused(404, "NOT_FOUND", f"Publisher Model `{model}` was not found.")
        return size

    def _predict(self, request: Request, project: str, location: str, model: str) -> dict[str, Any]:
        parent = self._world.parent(project, location)
        size = self._embedding(model)
        version = request.path.split("/")[1]
        body: dict[str, Any] = {
            **request.json,
            "endpoint": f"{parent}/publishers/google/models/{model}",
        }
        _schema.checked(version, "PredictRequest", body, ignored=self._world.ignored)
        instances = body["instances"]
        most = 1 if model == "gemini-embedding-001" else 250
        if len(instances) > most:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"{len(instances)} instance(s) is not allowed. Maximum allowed: {most}",
            )
        asked = body.get("parameters", {})
        found: list[dict[str, Any]] = [
            self._vector(
                str(instance.get("content", "")),
                asked.get("outputDimensionality") or size,
                size,
                bool(asked.get("autoTruncate", True)),
            )
            for instance in instances
        ]
        return {"predictions": [{"embeddings": one} for one in found]}

    def _embed(self, request: Request, project: str, location: str, model: str) -> dict[str, Any]:
        size = self._embedding(model)
        if model == "gemini-embedding-001" or not model.startswith("gemini-embedding"):
            raise Refused(400, "INVALID_ARGUMENT", f"{model} does not support embedContent.")
        body = self._read(request, project, location, model, "EmbedContentRequest")
        config = body.get("embedContentConfig", {})
        # All parts become one vector, whatever they are.
        one = self._vector(
            _text(body.get("content", {})),
            config.get("outputDimensionality") or size,
            size,
            bool(config.get("autoTruncate", True)),
        )
        return {
            "embedding": {"values": one["values"]},
            "usageMetadata": {"promptTokenCount": one["statistics"]["token_count"]},
            "truncated": one["statistics"]["truncated"],
        }

    def vector(self, text: str, dim: int, size: int) -> dict[str, Any]:
        """A text's vector, as ``predict`` answers it."""
        return self._vector(text, dim, size, True)

    def _vector(self, text: str, dim: int, size: int, truncate: bool) -> dict[str, Any]:
        if not text:
            raise Refused(400, "INVALID_ARGUMENT", "The text content is empty.")
        if not 1 <= dim <= size:
            raise Refused(
                400, "INVALID_ARGUMENT", f"outputDimensionality must be in the range [1, {size}]."
            )
        words = re.findall(r"\w+", text.lower())
        if len(words) > 2048 and not truncate:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"The input token count ({len(words)}) exceeds the maximum number of tokens "
                "allowed (2048).",
            )
        counted = words[:2048]
        return {
            "values": vector(counted, dim),
            "statistics": {"truncated": len(words) > 2048, "token_count": max(len(counted), 1)},
        }


def vector(words: list[str], dim: int) -> list[float]:
    """A vector of length 1 in which texts with common words lie close: each word adds a
    direction of its own, drawn from its hash."""
    total = [0.0] * dim
    for word in words or [""]:
        seed = hashlib.sha256(word.encode()).digest()
        for index in range(dim):
            byte = seed[index % 32] ^ (index // 32 * 37 & 255)
            total[index] += byte / 127.5 - 1
    length = math.sqrt(sum(value * value for value in total)) or 1.0
    return [round(value / length, 7) for value in total]


def _joins(before: dict[str, Any], part: dict[str, Any]) -> bool:
    return (
        "text" in before
        and "text" in part
        and bool(before.get("thought")) == bool(part.get("thought"))
        and "thoughtSignature" not in before
    )


def _text(body: Any) -> str:
    """All texts of a request, with the names and arguments of its calls."""
    if isinstance(body, dict):
        return " ".join(
            filter(None, (_text(value) for key, value in body.items() if key != "thoughtSignature"))
        )
    if isinstance(body, list):
        return " ".join(filter(None, map(_text, body)))
    return body if isinstance(body, str) else ""


def _spent(body: dict[str, Any]) -> int:
    counted = {key: body.get(key) for key in ("contents", "systemInstruction", "tools")}
    return len(re.findall(r"\w+", _text(counted))) or 1


def _tokens(part: dict[str, Any]) -> int:
    return len(part["text"].split()) if "text" in part else 3


def _check(model: str, body: dict[str, Any], config: dict[str, Any]) -> None:
    contents = body.get("contents", [])
    for index, content in enumerate(contents):
        if content.get("role") not in {"user", "model"}:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                "Please use a valid role: user, model.",
                fields=[f"contents[{index}].role"],
            )
        if not content.get("parts"):
            raise Refused(
                400, "INVALID_ARGUMENT", "Unable to submit request because it must have parts."
            )
        calls = [part for part in content["parts"] if "functionCall" in part]
        if model.startswith("gemini-3") and calls and "thoughtSignature" not in calls[0]:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"Function call `{calls[0]['functionCall'].get('name')}` in the {index}. content "
                "block is missing a `thought_signature`.",
            )
        answers = sum("functionResponse" in part for part in content["parts"])
        before = contents[index - 1]["parts"] if index else []
        if answers and answers != sum("functionCall" in part for part in before):
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                "Please ensure that the number of function response parts is equal to the number "
                "of function call parts of the function call turn.",
            )
    if len(config.get("stopSequences", ())) > 5:
        raise Refused(400, "INVALID_ARGUMENT", "The number of stop sequences must be at most 5.")
    temperature = config.get("temperature", 0)
    if not 0 <= temperature <= 2:
        raise Refused(400, "INVALID_ARGUMENT", "temperature must be in the range [0.0, 2.0].")


def _answer(body: dict[str, Any], config: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    last = body["contents"][-1]["parts"]
    mode = body.get("toolConfig", {}).get("functionCallingConfig", {})
    answered = any("functionResponse" in part for part in last)
    offered = [
        function
        for tool in body.get("tools", ())
        for function in tool.get("functionDeclarations", ())
    ]
    if offered and mode.get("mode") != "NONE" and not answered:
        allowed = mode.get("allowedFunctionNames") or [one["name"] for one in offered]
        chosen = next(one for one in offered if one["name"] in allowed)
        schema = chosen.get("parametersJsonSchema") or chosen.get("parameters") or {}
        call = {"name": chosen["name"], "args": example(schema)}
        return [{"functionCall": call, "thoughtSignature": "c2lnbmVk"}], "STOP"
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is not None:
        words = [msgspec.json.encode(example(schema)).decode()]
    elif answered:
        words = ["So", "it", "is", "told."]
    else:
        words = [f"{word}," for word in WORDS[:-1]] + [WORDS[-1]]
    text = " ".join(words)
    reason = "STOP"
    for stop in config.get("stopSequences", ()):
        if stop in text:
            text = text[: text.index(stop)]
    most = config.get("maxOutputTokens")
    pieces = re.findall(r"\S+\s*", text)
    if most is not None and len(pieces) > most:
        pieces, reason = pieces[:most], "MAX_TOKENS"
    return [{"text": piece} for piece in pieces], reason


def example(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """A value that satisfies a JSON Schema, or an OpenAPI one."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].lstrip("#/").split("/"):
            target = target[step]
        return example(target, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example(schema[key][0], root)
    kind = schema.get("type", "object")
    kind = (kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: example(one, root) for name, one in properties.items()}
    if kind == "array":
        count = max(schema.get("minItems", 1), 1)
        return [example(schema.get("items", {"type": "string"}), root) for _ in range(count)]
    if kind in {"integer", "number"}:
        return max(schema.get("minimum", 1), 1)
    return {"boolean": True, "null": None}.get(kind, "text")

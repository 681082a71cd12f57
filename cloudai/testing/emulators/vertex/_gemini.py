"""Google's models: generateContent, streams of it, countTokens, embeddings.

Nothing thinks: an answer follows from the request by the rules of ``_answers``, or from a script;
or else this machine's own models answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import CloudAIError
from cloudai.testing.emulators.common.answers import ScriptedError, vector
from cloudai.testing.emulators.common.local_models import LocalModels
from cloudai.testing.emulators.vertex import _local_models, _schema
from cloudai.testing.emulators.vertex._answers import (
    SIGNATURES,
    check,
    parts_of,
    signatures_of,
    text_of,
)
from cloudai.testing.emulators.vertex._http import STATUSES, Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._state import VertexState

CONTEXT: Final = 1_048_576
"""Tokens of a prompt at most."""
TEXT_TOKENS: Final = 2048
"""Of one text to embed."""
REQUEST_TOKENS: Final = 20_000
"""Of all texts of one ``predict``. The refusal's words: onyx#3972 (2025-02-12)."""


class Gemini:
    """The publisher models.

    Attributes
    ----------
    models: chat models that exist. embedding_models: name → longest vector.
    tuned: resource name of an endpoint → the model behind it, and what it answers to what.
    local: what answers instead of the rules; None: nothing.
    signatures: of thoughts that it takes back: those that it gave.
    """

    def __init__(self, cloud_state: VertexState) -> None:
        self._cloud_state = cloud_state
        self.local: LocalModels | None = None
        self.models = {
            "gemini-3-pro-preview",
            "gemini-3.1-flash-lite",
            "gemini-3.1-pro",
            "gemini-3.5-flash",
            "gemini-3.5-flash-lite",
            "gemini-3.7-flash",
            "gemini-3.8-flash",
        }
        self.embedding_models = {
            "text-embedding-005": 768,
            "text-multilingual-embedding-002": 768,
            "gemini-embedding-001": 3072,
            "gemini-embedding-2": 3072,
        }
        self.tuned: dict[str, tuple[str, dict[str, str]]] = {}
        self._script: list[dict[str, Any]] = []
        self.signatures: set[str | None] = set(SIGNATURES)

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
            endpoint = f"/{version}/projects/{{project}}/locations/{{location}}/endpoints/{{id}}"
            for method, handler in (
                ("generateContent", self._generate_tuned),
                ("streamGenerateContent", self._stream_tuned),
                ("countTokens", self._count_tuned),
            ):
                router.add("POST", f"{endpoint}:{method}", handler)

    def script(self, *answers: dict[str, Any]) -> None:
        """The next answers, each a GenerateContentResponse in JSON; a list under ``"stream"`` is
        one piece of a stream each."""
        self._script.extend(answers)
        self.signatures.update(signatures_of(list(answers)))

    def _read(
        self, request: Request, project: str, location: str, model: str, message: str
    ) -> dict[str, Any]:
        parent = self._cloud_state.parent(project, location)
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
        return _schema.checked(version, message, body, ignored=self._cloud_state.ignored)

    def _tuned(
        self, request: Request, project: str, location: str, id: str, message: str
    ) -> tuple[str, dict[str, Any]]:
        """The model behind a tuned model's endpoint, and the request's body."""
        name = f"{self._cloud_state.parent(project, location)}/endpoints/{id}"
        if name not in self.tuned:
            raise Refused(404, "NOT_FOUND", f"The Endpoint {name} is not a tuned model's.")
        body = {**request.json, "model": name, "endpoint": name}
        if message == "GenerateContentRequest":
            del body["endpoint"]
        version = request.path.split("/")[1]
        return name, _schema.checked(version, message, body, ignored=self._cloud_state.ignored)

    def _generate_tuned(
        self, request: Request, project: str, location: str, id: str
    ) -> dict[str, Any]:
        return self.answer(*self._tuned(request, project, location, id, "GenerateContentRequest"))

    def _stream_tuned(self, request: Request, project: str, location: str, id: str) -> Answer:
        name, body = self._tuned(request, project, location, id, "GenerateContentRequest")
        return self._streamed(request, self._chunks(name, body))

    def _count_tuned(
        self, request: Request, project: str, location: str, id: str
    ) -> dict[str, Any]:
        _, body = self._tuned(request, project, location, id, "CountTokensRequest")
        return {"totalTokens": _spent(body), "totalBillableCharacters": len(text_of(body))}

    def _generate(
        self, request: Request, project: str, location: str, model: str
    ) -> dict[str, Any]:
        body = self._read(request, project, location, model, "GenerateContentRequest")
        return self.answer(model, body)

    def answer(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request, whole."""
        pieces = self._chunks(model, body)
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
        return self._streamed(request, self._made(model, body))

    def _streamed(self, request: Request, found: Iterable[dict[str, Any]]) -> Answer:
        if request.query.get("alt") != "sse":
            return Answer(json=list(found))
        pieces = iter(found)
        first = next(pieces)  # what is wrong with the request is said before a stream begins

        def sent() -> Iterator[bytes]:
            for piece in itertools.chain([first], pieces):
                yield b"data: " + msgspec.json.encode(piece) + b"\r\n\r\n"

        return Answer(data=sent(), headers={"Content-Type": "text/event-stream"})

    def _chunks(self, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self._made(model, body))

    def _made(self, model: str, body: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The pieces of the answer; those of a local model as they come."""
        config = body.get("generationConfig", {})
        asked = model
        model, learnt = self.tuned.get(model, (model, {}))
        check(model, body, config, self.signatures)
        spent = _spent(body)
        if spent > CONTEXT:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"The input token count ({spent}) exceeds the maximum number of tokens allowed "
                f"({CONTEXT}).",
            )
        common = {"modelVersion": model, "responseId": f"r{self._cloud_state.number()}"}
        if self._script:
            scripted = self._script.pop(0)
            return [{**common, **piece} for piece in scripted.get("stream", [scripted])]
        if self.local is not None and not self._cloud_state.answers.waiting:
            made = _local_models.pieces(self.local, asked, body)
            return ({**common, **piece} for piece in made)
        request = _local_models.request_of(asked, body)
        if (taught := learnt.get(text_of(body["contents"][-1]["parts"]))) is not None:
            self._cloud_state.answers.reply(taught)
        try:
            reply = self._cloud_state.answers.to(request)
        except ScriptedError as error:
            if error.status == 401 and error.asked == 1:
                self._cloud_state.answers.again(error)  # Google's clients fetch a token anew
            raise Refused(error.status, STATUSES[error.status], str(error)) from None
        parts, reason = parts_of(reply)
        if not reply.reasoning and config.get("thinkingConfig", {}).get("includeThoughts"):
            parts.insert(0, {"text": "Thinking it over.", "thought": True})
        thoughts = sum(len(part["text"].split()) for part in parts if part.get("thought"))
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
        return {"totalTokens": _spent(body), "totalBillableCharacters": len(text_of(body))}

    def _embedding(self, model: str) -> int:
        size = self.embedding_models.get(model)
        if size is None:
            raise Refused(404, "NOT_FOUND", f"Publisher Model `{model}` was not found.")
        return size

    def _predict(self, request: Request, project: str, location: str, model: str) -> dict[str, Any]:
        parent = self._cloud_state.parent(project, location)
        size = self._embedding(model)
        version = request.path.split("/")[1]
        body: dict[str, Any] = {
            **request.json,
            "endpoint": f"{parent}/publishers/google/models/{model}",
        }
        _schema.checked(version, "PredictRequest", body, ignored=self._cloud_state.ignored)
        instances = body["instances"]
        most = 1 if model == "gemini-embedding-001" else 250
        if len(instances) > most:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"{len(instances)} instance(s) is not allowed. Maximum allowed: {most}",
            )
        counted = sum(min(tokens(str(one.get("content", ""))), TEXT_TOKENS) for one in instances)
        if counted > REQUEST_TOKENS:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"Unable to submit request because the input token count is {counted} but the "
                f"model supports up to {REQUEST_TOKENS}. Reduce the input token count and try "
                "again. You can also use the CountTokens API to calculate prompt token count and "
                "billable characters.",
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
            text_of(body.get("content", {})),
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
        if len(words) > TEXT_TOKENS and not truncate:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"The input token count ({len(words)}) exceeds the maximum number of tokens "
                f"allowed ({TEXT_TOKENS}).",
            )
        counted = words[:TEXT_TOKENS]
        if self.local is not None:
            try:
                (values,), _ = self.local.vectors([text], dim)
            except CloudAIError as error:
                raise _local_models.refused(error) from None
        else:
            values = vector(" ".join(counted), dim)
        return {
            "values": values,
            "statistics": {
                "truncated": len(words) > TEXT_TOKENS,
                "token_count": max(len(counted), 1),
            },
        }


def _joins(before: dict[str, Any], part: dict[str, Any]) -> bool:
    return (
        "text" in before
        and "text" in part
        and bool(before.get("thought")) == bool(part.get("thought"))
        and "thoughtSignature" not in before
    )


def _spent(body: dict[str, Any]) -> int:
    counted = {key: body.get(key) for key in ("contents", "systemInstruction", "tools")}
    return len(re.findall(r"\w+", text_of(counted))) or 1


def tokens(text: str) -> int:
    """Of a text to embed, as Gemini's tokenizer cuts it: each digit and each sign is one, a
    word's letters four each."""
    return sum(
        len(piece) if not piece[0].isalpha() else -(-len(piece) // 4)
        for piece in re.findall(r"[^\W\d_]+|[^\s]", text)
    )


def _tokens(part: dict[str, Any]) -> int:
    return len(part["text"].split()) if "text" in part else 3

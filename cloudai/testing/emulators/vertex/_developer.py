"""The Gemini API, as developers outside of Google Cloud have it: the same models behind an API key.

``genai.Client()`` follows a base URL of the environment here (``GOOGLE_GEMINI_BASE_URL``). For
Vertex AI it drops the project and the place from its paths then, unless the program itself names
them (google-genai 2.34), so that this is the way for a program that is not to be changed.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from cloudai.testing.emulators.vertex._gemini import CONTEXT, Gemini
from cloudai.testing.emulators.vertex._http import Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._state import VertexState, page

BASE = "/v1beta/models"


class Developer:
    """``/v1beta/models/…``.

    Attributes
    ----------
    key: the API key that is good here.
    """

    def __init__(self, cloud_state: VertexState, gemini: Gemini) -> None:
        self._cloud_state = cloud_state
        self._gemini = gemini
        self.key = f"AIza-emulated-{secrets.token_hex(12)}"

    def routes(self, router: Router) -> None:
        router.add("GET", BASE, self._list)
        router.add("GET", BASE + "/{model}", self._get)
        for method, handler in (
            ("generateContent", self._gemini._generate),
            ("streamGenerateContent", self._gemini._stream),
            ("countTokens", self._gemini._count),
        ):
            router.add("POST", f"{BASE}/{{model}}:{method}", self._as_vertex(handler))
        router.add("POST", BASE + "/{model}:embedContent", self._embed)
        router.add("POST", BASE + "/{model}:batchEmbedContents", self._embed_batch)

    def _admit(self, request: Request) -> None:
        given = request.headers.get("x-goog-api-key") or request.query.get("key")
        if given != self.key:
            raise Refused(
                400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."
            )

    def _as_vertex(self, handler: Any) -> Any:
        """Vertex AI's handler of the same method, in the emulator's own project."""

        def handled(request: Request, model: str) -> Any:
            self._admit(request)
            # Checked against the messages of Vertex AI's v1beta1, which hold the same fields.
            request = msgspec.structs.replace(request, path=f"/v1beta1{request.path}")
            return handler(request, self._cloud_state.project, self._cloud_state.location, model)

        return handled

    def _about(self, model: str) -> dict[str, Any]:
        chat = model in self._gemini.models
        return {
            "name": f"models/{model}",
            "displayName": model,
            "inputTokenLimit": CONTEXT if chat else 2048,
            "outputTokenLimit": 65_536 if chat else 1,
            "supportedGenerationMethods": ["generateContent", "countTokens"]
            if chat
            else ["embedContent"],
        }

    def _list(self, request: Request) -> dict[str, Any]:
        self._admit(request)
        names = sorted(self._gemini.models | set(self._gemini.embedding_models))
        return page([self._about(name) for name in names], request.query, "models")

    def _get(self, request: Request, model: str) -> dict[str, Any]:
        self._admit(request)
        if model not in self._gemini.models | set(self._gemini.embedding_models):
            raise Refused(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
        return self._about(model)

    def _embed(self, request: Request, model: str) -> dict[str, Any]:
        self._admit(request)
        return {"embedding": self._vector(model, request.json)}

    def _embed_batch(self, request: Request, model: str) -> Answer | dict[str, Any]:
        self._admit(request)
        asked: list[dict[str, Any]] = request.json.get("requests") or []
        if not 1 <= len(asked) <= 100:
            raise Refused(400, "INVALID_ARGUMENT", "at most 100 requests can be in one batch")
        return {"embeddings": [self._vector(model, one) for one in asked]}

    def _vector(self, model: str, asked: dict[str, Any]) -> dict[str, Any]:
        size = self._gemini.embedding_models.get(model)
        if size is None:
            raise Refused(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
        text = " ".join(part.get("text", "") for part in asked["content"]["parts"])
        made = self._gemini.vector(text, asked.get("outputDimensionality") or size, size)
        return {"values": made["values"]}

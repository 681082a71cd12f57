"""Embeddings by ``POST /embeddings``."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from cloudai import Profile
from cloudai.errors import ProviderError, UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage
from cloudai_compat._http import PROVIDER, asked, passing

MOST = 256
"""Texts in one request."""


class CompatEmbeddings:
    """The adapter: called with a profile, it implements ``cloudai.protocols.Embeddings``."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def groups(self, request: EmbeddingRequest) -> Iterator[tuple[str, ...]]:
        """The texts in parts that one request takes."""
        for at in range(0, len(request.texts), MOST):
            yield request.texts[at : at + MOST]

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        if request.truncate:
            raise UnsupportedByProvider(
                "truncate=True",
                provider=PROVIDER,
                alternative="Cut the texts before they are sent",
                field="truncate",
                value=True,
            )
        body: dict[str, Any] = {
            "model": request.model,
            "input": list(request.texts),
            **({"dimensions": request.dimensions} if request.dimensions else {}),
            **request.native,
        }
        with asked(self._profile, "/embeddings", body, call) as response, passing():
            data = json.loads(response.read())
        rows: list[list[float]] = [
            one["embedding"] for one in sorted(data["data"], key=lambda one: one["index"])
        ]
        if len(rows) != len(request.texts):
            raise ProviderError(
                f"{len(rows)} vectors came for {len(request.texts)} texts", provider=PROVIDER
            )
        dim = len(rows[0])
        return EmbeddingReply(
            data=b"".join(struct.pack(f"<{dim}f", *row) for row in rows),
            dim=dim,
            model=data.get("model", request.model),
            provider=PROVIDER,
            usage=Usage(input_tokens=data.get("usage", {}).get("prompt_tokens", 0)),
        )

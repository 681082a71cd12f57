"""This machine's own models behind an emulated cloud: the local provider's chat and embeddings,
under the names of the cloud's."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Config
from cloudai._core.state.home import default_home
from cloudai.protocols import Call
from cloudai.testing.emulators.common.tuned import Tuning
from cloudai.types import ChatChunk, ChatReply, ChatRequest, EmbeddingRequest


@functools.cache
def shared() -> LocalModels:
    """The one of this process: a model is loaded once for all emulated clouds, one after the
    other and side by side."""
    return LocalModels()


class LocalModels:
    """Answers for every model name of a cloud: with the local provider's default models, or with
    those that were fine-tuned here under the name.

    They load with the first request. Raises MissingExtra there where the ``local`` extra is not
    installed, ConfigError where its models are not.

    Parameters
    ----------
    home: where converted models are kept; None: where they lie already, else cloudai's home of
        now, so that a model is not converted with each emulator.
    """

    def __init__(self, home: Path | None = None) -> None:
        self._home = home or _home()
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._tuned: dict[str, Tuning] = {}

    def tune(
        self, base: str, examples: Sequence[list[dict[str, str]]], hyperparameters: dict[str, Any]
    ) -> Tuning:
        """Begins to fine-tune the local model that answers for ``base``, a name of the cloud's."""
        return Tuning(self._folder(base), self._home, examples, hyperparameters)

    def add(self, name: str, tuned: Tuning) -> None:
        """Lets a fine-tuned model answer for this name."""
        self._tuned[name] = tuned

    def _folder(self, name: str) -> str:
        found = self._tuned.get(name)
        if found is not None:
            return str(found.model)
        return str(self._profile().get("chat_model", ""))

    def close(self) -> None:
        """Frees the models."""
        with self._lock:
            profile = self._made.pop("profile", None)
            self._made.clear()
        if profile is not None:
            profile.close()

    def _profile(self) -> Any:
        with self._lock:
            if "profile" not in self._made:
                config = Config(start=Path(__file__).parent)
                self._made["profile"] = config.profile(provider="local", home=str(self._home))
            return self._made["profile"]

    def _adapter(self, capability: str) -> Any:
        profile = self._profile()
        with self._lock:
            if capability not in self._made:
                self._made[capability] = registry.adapter_factory(profile.spec, capability)(profile)
            return self._made[capability]

    def _local(self, request: ChatRequest) -> ChatRequest:
        model = self._folder(request.model)
        # What only the cloud's own models can: how hard they think, how they sample further.
        return msgspec.structs.replace(request, model=model, reasoning=None, native={})

    def reply(self, request: ChatRequest) -> ChatReply:
        """The whole answer; ``request.model`` is the cloud's name. Raises CloudAIError."""
        return self._adapter("chat").create(self._local(request), Call())

    def stream(self, request: ChatRequest) -> Iterator[ChatChunk]:
        """The answer as it is made. Raises CloudAIError."""
        return self._adapter("chat").stream(self._local(request), Call())

    def vectors(self, texts: Sequence[str], dim: int) -> tuple[list[list[float]], int]:
        """A vector of length 1 for each text, and the tokens of all. Raises CloudAIError.

        Parameters
        ----------
        dim: numbers of each, as the cloud's model has it. The local model's own vector is filled
            up with zeros, which changes no distance, or cut and brought to length 1 again.
        """
        import numpy as np

        reply = self._adapter("embeddings").embed(
            EmbeddingRequest(model="", texts=tuple(texts), truncate=True), Call()
        )
        array = np.frombuffer(reply.data, dtype="<f4").reshape(len(texts), reply.dim)
        if dim < reply.dim:
            array = array[:, :dim]
            array = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
        elif dim > reply.dim:
            array = np.pad(array, ((0, 0), (0, dim - reply.dim)))
        return array.tolist(), reply.usage.input_tokens


def _home() -> Path:
    from platformdirs import user_data_path

    own = user_data_path("cloudai", appauthor=False)
    return own if any((own / "models").glob("*")) else default_home()

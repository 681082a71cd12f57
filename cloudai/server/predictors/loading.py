"""Which predictor a model directory gets: its handler's, or that of a Hugging Face model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cloudai._core.handlers.handler import PLACES, load_handler
from cloudai.server.predictors.base import Predictor
from cloudai.server.workers.wire import Options
from cloudai.types._base import invalid


def load_predictor(options: Options) -> Predictor:
    """Loads the model. Raises InvalidRequest where nothing tells how to run it, HandlerError where
    the handler fails, MissingExtra where a package lacks."""
    folder = Path(options.path)
    kind = kind_of(folder, options.handler, options.predictor)
    if kind == "handler":
        from cloudai.server.predictors.handler import HandlerPredictor

        handler = Path(options.handler) if options.handler else None
        return HandlerPredictor(load_handler(folder, handler), options)
    if kind == "chat":
        from cloudai.server.predictors.chat import ChatPredictor

        return ChatPredictor(folder, options)
    from cloudai.server.predictors.texts import ClassifierPredictor, EmbeddingPredictor

    made = EmbeddingPredictor if kind == "embeddings" else ClassifierPredictor
    return made(folder, options)


def kind_of(folder: Path, handler: str | None, predictor: str) -> str:
    """Which predictor a folder gets: ``predictor``, or for ``"auto"`` what its files tell."""
    if predictor != "auto":
        return predictor
    if handler is not None or any((folder / place).is_file() for place in PLACES):
        return "handler"
    if (folder / "modules.json").is_file():
        return "embeddings"
    if (folder / "adapter_config.json").is_file():
        return "chat"
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes())
        architectures = [str(name) for name in config.get("architectures") or ()]
    except FileNotFoundError:
        raise invalid(
            "model",
            str(folder),
            "has neither a handler.py nor a Hugging Face config.json",
            "Name a Python file with load(model_dir) and predict(model, inputs, params).",
        ) from None
    except (OSError, msgspec.DecodeError, AttributeError) as error:
        raise invalid(
            "model", str(folder), f"has a config.json that is not one ({error})"
        ) from None
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        return "classifier"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return "chat"
    return "embeddings"

"""How a folder of an embedding model says its texts are to be encoded: the files that
sentence-transformers writes, or config.json alone. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from cloudai.errors import ConfigError

Pooling: TypeAlias = Literal["mean", "cls", "max"]

_POOLINGS: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_MODULES: Final = ("Transformer", "Pooling", "Normalize")


class SentenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the folder says.

    Parameters
    ----------
    folder: where config.json, the weights and the tokenizer lie.
    model: config.json.
    pooling: how a text's tokens become one vector. normalize: to length 1.
    max_length: the most tokens of a text; None: what the model has positions for.
    lower: True lowers the text's letters first.
    prompts: what is put before a text, by task.
    """

    folder: Path
    model: dict[str, Any]
    pooling: Pooling = "mean"
    normalize: bool = True
    max_length: int | None = None
    lower: bool = False
    prompts: dict[str, str] = {}


def read(path: Path) -> SentenceConfig:
    """Reads the folder. Without sentence-transformers' files: mean pooling, length 1.

    Raises ConfigError for a file that is missing or damaged, and for modules that would change
    the vectors in a way not done here.
    """
    if not (path / "modules.json").is_file():
        return SentenceConfig(folder=path, model=_json(path / "config.json"))
    modules: list[tuple[str, Path]] = [
        (str(one["type"]).rpartition(".")[2], path / str(one["path"]))
        for one in cast("list[dict[str, Any]]", _json(path / "modules.json"))
    ]
    unknown = [kind for kind, _ in modules if kind not in _MODULES]
    kinds = [kind for kind, _ in modules]
    if unknown or kinds[:2] != ["Transformer", "Pooling"]:
        raise ConfigError(
            f"the model at {path} has the modules {', '.join(kinds)}",
            provider="local",
            hint=f"Known are {', '.join(_MODULES)}, in this order",
        )
    folder, pooling = modules[0][1], modules[1][1]
    text = _optional(folder / "sentence_bert_config.json")
    about = _optional(path / "config_sentence_transformers.json")
    return SentenceConfig(
        folder=folder,
        model=_json(folder / "config.json"),
        pooling=_pooling(pooling / "config.json"),
        normalize="Normalize" in kinds,
        max_length=text.get("max_seq_length"),
        lower=bool(text.get("do_lower_case")),
        prompts={str(k): str(v) for k, v in (about.get("prompts") or {}).items()},
    )


def _pooling(file: Path) -> Pooling:
    config = _json(file)
    chosen = [
        name for name, on in config.items() if name.startswith("pooling_mode_") and on is True
    ]
    # Newer versions write one name instead of one switch a mode.
    if isinstance(config.get("pooling_mode"), str):
        chosen = [f"pooling_mode_{config['pooling_mode']}"]
    known: dict[str, Pooling] = {
        **_POOLINGS,
        **{f"pooling_mode_{name}": name for name in _POOLINGS.values()},
    }
    if len(chosen) != 1 or chosen[0] not in known or config.get("include_prompt") is False:
        raise ConfigError(
            f"{file} asks for pooling by {', '.join(chosen) or 'nothing'}"
            + (" without the prompt" if config.get("include_prompt") is False else ""),
            provider="local",
            hint="Known are mean, cls and max, one at a time, over the whole text",
        )
    return known[chosen[0]]


def _optional(file: Path) -> dict[str, Any]:
    return _json(file) if file.is_file() else {}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}",
            provider="local",
            hint="Copy the model again",
        ) from error

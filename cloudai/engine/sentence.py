"""How a folder of an embedding model says its texts are to be encoded: the files that
sentence-transformers writes, or config.json alone. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from cloudai.errors import ConfigError

Pooling: TypeAlias = Literal["mean", "cls", "max", "lasttoken", "weightedmean"]

_POOLINGS: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_MODULES: Final = ("Transformer", "Pooling", "Dense", "Normalize")
_PROMPTS: Final[dict[str, tuple[str, ...]]] = {"similarity": ("similarity", "sts")}
"""Names of a task's prompt, where they are others than the task's own; in lower case."""


class SentenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the folder says.

    Parameters
    ----------
    folder: where config.json, the weights and the tokenizer lie.
    model: config.json.
    pooling: how a text's tokens become one vector. dense: folders of the layers behind it.
    normalize: to length 1.
    sizes: to which vectors may be cut, because the model was trained for it; None: any; empty:
        it was not. config.json says it in the words that vLLM reads: ``matryoshka_dimensions``, or
        ``is_matryoshka`` ("Pooling models", docs.vllm.ai, 2026-11).
    max_length: the most tokens of a text; None: what the model has positions for.
    lower: True lowers the text's letters first.
    prompts: what is put before a text, by task in lower case.
    """

    folder: Path
    model: dict[str, Any]
    pooling: Pooling = "mean"
    dense: tuple[Path, ...] = ()
    normalize: bool = True
    max_length: int | None = None
    lower: bool = False
    prompts: dict[str, str] = {}

    @property
    def sizes(self) -> tuple[int, ...] | None:
        said = self.model.get("matryoshka_dimensions")
        if said:
            return tuple(int(one) for one in said)
        return None if self.model.get("is_matryoshka") else ()

    def fits(self, dimensions: int | None, dim: int) -> bool:
        """Whether vectors of ``dim`` numbers may be cut to ``dimensions``."""
        if dimensions in (None, dim):
            return True
        sizes = self.sizes
        return dimensions in sizes if sizes is not None else 0 < dimensions < dim

    def prompt(self, task: str | None) -> str:
        """What stands before a text of this task."""
        names = _PROMPTS.get(task or "", (task or "",))
        return next((self.prompts[name] for name in names if name in self.prompts), "")


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
    kinds = [kind for kind, _ in modules]
    dense = tuple(folder for kind, folder in modules if kind == "Dense")
    last = ["Normalize"] if kinds[-1:] == ["Normalize"] else []
    if kinds != ["Transformer", "Pooling", *["Dense"] * len(dense), *last]:
        raise ConfigError(
            f"the model at {path} has the modules {', '.join(kinds)}",
            provider="local",
            hint=f"Known are {', '.join(_MODULES)}, in this order; there may be several Dense",
        )
    folder, pooling = modules[0][1], modules[1][1]
    text = _optional(folder / "sentence_bert_config.json")
    about = _optional(path / "config_sentence_transformers.json")
    return SentenceConfig(
        folder=folder,
        model=_json(folder / "config.json"),
        pooling=_pooling(pooling / "config.json"),
        dense=dense,
        normalize=bool(last),
        max_length=text.get("max_seq_length"),
        lower=bool(text.get("do_lower_case")),
        prompts={str(k).lower(): str(v) for k, v in (about.get("prompts") or {}).items()},
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
            hint=f"Known are {', '.join(_POOLINGS.values())}, one at a time, over the whole text",
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

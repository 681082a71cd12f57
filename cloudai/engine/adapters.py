"""LoRA adapters, as peft saves them: loaded beside their base, whose weights they share."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from cloudai.engine import loading
from cloudai.engine.catalog import ADAPTER
from cloudai.errors import ConfigError, MissingExtra


def is_adapter(folder: Path) -> bool:
    """Whether the folder is an adapter's."""
    return (folder / ADAPTER).is_file()


def base_of(folder: Path) -> str:
    """The base model's name or path, as the adapter has it. Raises ConfigError for an adapter of
    another kind than LoRA."""
    try:
        said = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base, kind = str(said["base_model_name_or_path"]), said["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        loading.unreadable(folder, "adapter", error)
    if kind != "LORA":
        raise ConfigError(
            f"the adapter at {folder} is of the kind {kind}",
            provider="local",
            hint="LoRA adapters run here; merge others into their base (peft's merge_and_unload)",
        )
    return base


def peft() -> Any:
    """The package. Raises MissingExtra where it is not installed."""
    try:
        import peft as found
    except ModuleNotFoundError:
        raise MissingExtra("peft", extra="peft", provider="local") from None
    return found


@contextlib.contextmanager
def hushed() -> Generator[None]:
    """Without the warning of transformers' that peft 0.21 asks for a name which has another one
    by now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def beside(base: Any, attention: str, folder: Path) -> Any:
    """The base model of transformers with the adapter in it: modules of its own, and the base's
    weights, of which there is one copy.

    Parameters
    ----------
    attention: the implementation that the base was loaded with; its engine has another by now.

    Raises ConfigError for an adapter that does not fit.
    """
    found = peft()
    shared = {id(one): one for one in (*base.parameters(), *base.buffers())}
    made = copy.deepcopy(base, shared)
    made.config.get_text_config()._attn_implementation = attention
    try:
        with loading.quiet(), hushed():
            fitted = found.PeftModel.from_pretrained(
                made, str(folder), autocast_adapter_dtype=False, local_files_only=True
            )
    except Exception as error:  # noqa: BLE001  the readers raise whatever they stumble over
        loading.unreadable(folder, "adapter", error)
    return fitted.get_base_model().eval().requires_grad_(False)


def learning(model: Any, base: Path, rank: int, alpha: float) -> Any:
    """The model with an adapter in each of its linear layers, which alone learns.

    Parameters
    ----------
    base: what the adapter says its base is.
    """
    found = peft()
    about = found.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model.name_or_path = str(base)
    with hushed():
        return found.get_peft_model(model, about)

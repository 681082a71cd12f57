"""Fine-tuning on this machine: what the spec may ask for; ``cloudai.engine.finetuning`` trains."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from typing import Any, Final

from cloudai._core.profiles.config import Profile
from cloudai.engine import catalog
from cloudai.errors import (
    CloudAIError,
    ConfigError,
    InvalidRequest,
    MissingExtra,
    UnsupportedByProvider,
)
from cloudai.types import TrainingJob
from cloudai.types._base import invalid

MODULE: Final = "cloudai.engine.finetuning"

HYPERPARAMETERS: Final = (
    "n_epochs",
    "batch_size",
    "learning_rate",
    "learning_rate_multiplier",
    "max_length",
    "seed",
    "lora_rank",
    "lora_alpha",
)

ALIASES: Final = {"epochs": "n_epochs", "num_train_epochs": "n_epochs"}
"""As the clouds take them."""

METRICS: Final = [
    ["train_loss", r"train_loss=([0-9.e+-]+|nan)"],
    ["valid_loss", r"valid_loss=([0-9.e+-]+|nan)"],
]


def named(spec: TrainingJob) -> dict[str, Any]:
    """The hyperparameters by the names that the worker knows."""
    return {ALIASES.get(name, name): value for name, value in spec.hyperparameters.items()}


def arguments(spec: TrainingJob, profile: Profile) -> list[str]:
    """The worker's arguments; the hyperparameters travel in CLOUDAI_HPS."""
    base = str(spec.base_model)
    path = Path(base).expanduser()
    if path.exists():  # relative to where the client is, not to the job
        base = str(path.absolute())
    device = profile.get("device")
    place = ["--base-model", base, "--home", str(profile.home)]
    return [*place, *(["--device", device] if device else [])]


def problems(spec: TrainingJob, profile: Profile) -> list[CloudAIError]:
    """What of a fine-tuning job cannot be done here."""
    found: list[CloudAIError] = []
    try:
        catalog.find("chat", str(spec.base_model), home=profile.home)
    except ConfigError as error:
        found.append(
            InvalidRequest(
                error.message, field="base_model", value=spec.base_model, hint=error.hint
            )
        )
    if spec.method != "supervised":
        found.append(
            UnsupportedByProvider(
                f"method={spec.method!r}",
                provider="local",
                alternative="Use method='supervised', or kind='script' with a script of your own.",
                field="method",
                value=spec.method,
            )
        )
    if "lora_rank" in spec.hyperparameters and importlib.util.find_spec("peft") is None:
        found.append(MissingExtra("peft", extra="peft", provider="local"))
    for given, value in spec.hyperparameters.items():
        name = ALIASES.get(given, given)
        field = f"hyperparameters.{given}"
        if name != given and name in spec.hyperparameters:
            found.append(invalid(field, value, f"is given as {name} too", "Give one of the two."))
        if name not in HYPERPARAMETERS:
            near = difflib.get_close_matches(name, HYPERPARAMETERS, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            found.append(
                invalid(field, value, "is not known", f"{hint}There are: {list(HYPERPARAMETERS)}")
            )
        elif not _positive(name, value):
            found.append(invalid(field, value, "is not a positive number", "Give one."))
    return found


def _positive(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if name in {"n_epochs", "batch_size", "max_length", "lora_rank"}:
        return isinstance(value, int) and value > 0
    if name == "seed":
        return isinstance(value, int) and value >= 0
    return isinstance(value, int | float) and value > 0

"""Loading Hugging Face directories with transformers: offline, without remote code, quietly."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from cloudai.errors import CapacityError, ConfigError

_QUIET: Final = threading.RLock()


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Without transformers' progress bars and below-error logs; its settings, which hold for
    the whole process, are put back afterwards."""
    from transformers.utils import logging

    with _QUIET:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def tokenizer(path: Path) -> Any:
    """The directory's tokenizer. Raises ConfigError where there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # noqa: BLE001  the readers raise whatever they stumble over
        unreadable(path, "tokenizer", error)


def model(
    path: Path, task: Literal["chat", "embedding", "ranking"], device: str, dtype: Any
) -> Any:
    """The directory's model, on ``device``, ready to infer.

    Raises ConfigError where its weights are missing, cut or of another model, and
    CapacityError where the device has no room for it.
    """
    import torch
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    makers: dict[str, Any] = {
        "chat": AutoModelForCausalLM,
        "embedding": AutoModel,
        "ranking": AutoModelForSequenceClassification,
    }
    maker = makers[task]
    try:
        with quiet():
            made, report = maker.from_pretrained(
                str(path),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,  # for .bin files: no pickled code
                output_loading_info=True,
            )
            missing = [
                name for name in sorted(report["missing_keys"]) if not name.startswith("pooler.")
            ]
            made = made.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"the device {device} has no room for the model at {path}",
            provider="local",
            hint='Set the profile\'s `device` to another one, such as "cpu"',
        ) from error
    except Exception as error:  # noqa: BLE001  the readers raise whatever they stumble over
        unreadable(path, "model", error)
    if missing:
        # transformers fills these with random numbers and goes on.
        raise ConfigError(
            f"the model at {path} lacks {len(missing)} weights, the first {missing[0]!r}",
            provider="local",
            hint="Its weights are cut, or belong to another config.json; copy it again",
        )
    return made


def unreadable(path: Path, what: str, error: Exception) -> NoReturn:
    """Raises the error for a model that is there and cannot be loaded."""
    lines = str(error).strip().splitlines() or [""]
    raise ConfigError(
        f"the {what} at {path} cannot be loaded: {type(error).__name__}: {lines[0][:300]}",
        provider="local",
        hint="A file is missing or damaged, or needs code of its own, which is never run; copy "
        "the model again, or remove the folder if cloudai converted it",
    ) from error

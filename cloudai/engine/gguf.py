"""GGUF files as Hugging Face directories: converted once, kept in ``<home>/models``.

Loading the directory takes a second or two, loading the GGUF file 12 to 40 (its reader is slow).
The directory appears whole or not at all: it is written beside its place, synced, and renamed.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from cloudai._core.state import lock
from cloudai._core.state.disk import sync_folder
from cloudai._core.state.home import ensure as ensure_folder
from cloudai.errors import ConfigError, StateError

log = logging.getLogger("cloudai.local")

SUFFIX: Final = "-bfloat16-v1"
"""Ends a converted model's folder; the number grows when the conversion changes."""
_MAKING: Final = ".making-"
_UNREADABLE: Final = 3


def place(key: str, folder: Path) -> Path:
    """Where the converted model with that key lies."""
    return folder / f"{key}{SUFFIX}"


def ready(key: str, folder: Path) -> bool:
    """Whether the converted model is there and its weights are whole."""
    from safetensors import SafetensorError, safe_open

    file = place(key, folder) / "model.safetensors"
    try:
        # The header's own lengths tell a cut file from a whole one without reading the weights.
        with safe_open(str(file), framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def remove(key: str, folder: Path) -> None:
    """Removes a converted model, so that it is made anew."""
    shutil.rmtree(place(key, folder), ignore_errors=True)


def ensure(file: Path, key: str, folder: Path) -> Path:
    """The converted model's folder; converts the file if it is not there yet.

    The work is done by a process of its own, which takes the reader's progress bars, settings
    and memory (1.5 GB for the embedded model) with it. Safe with several processes, of which
    one converts while the others wait, and after a kill at any moment: what was half written
    is removed by the next one.

    Parameters
    ----------
    file: the GGUF file.
    key: names its content.
    folder: where converted models lie; made if it is not there.

    Raises ConfigError for a file that is no readable GGUF model, StateError when the folder
    cannot be written.
    """
    goal = place(key, folder)
    if (goal / "config.json").is_file():
        return goal
    ensure_folder(folder)
    log.info("converting %s, once; this takes less than a minute", file.name)
    done = subprocess.run(
        # -P: the current folder may hold modules called like what is imported here.
        [sys.executable, "-P", "-m", __name__, str(file), key, str(folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return goal
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == _UNREADABLE:
        raise ConfigError(
            f"{file} is not a GGUF model that can be read: {said}",
            provider="local",
            hint="Fetch the file again; the embedded one with: cloudai local setup",
        )
    raise StateError(
        f"the converted model could not be written to {folder}: {said}",
        provider="local",
        hint="It takes 0.3 GB for the embedded model; free some, or set the profile's `home` to "
        "a folder with room",
    )


def main(file: Path, key: str, folder: Path) -> int:
    """Converts, in the process that ``ensure`` starts; the exit code."""
    goal = place(key, folder)
    made: Path | None = None
    try:
        with lock.taken(folder / ".lock", seconds=math.inf):
            if (goal / "config.json").is_file():
                return 0
            for left in folder.glob(f"{_MAKING}*"):
                shutil.rmtree(left, ignore_errors=True)
            parts = _read(file)
            made = Path(tempfile.mkdtemp(prefix=_MAKING, dir=folder))
            for part in parts:
                part.save_pretrained(str(made))
            for path in (*made.iterdir(), made):
                _sync(path)
            os.replace(made, goal)
            _sync(folder)
    except _Unreadable as error:
        print(error, file=sys.stderr)  # noqa: T201
        return _UNREADABLE
    except Exception as error:  # noqa: BLE001
        # Where files cannot be locked, another process may have been first: its is as good.
        if (goal / "config.json").is_file():
            return 0
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return 0


class _Unreadable(Exception):
    pass


def _read(file: Path) -> tuple[Any, Any]:
    """The file's model, in bfloat16, and its tokenizer."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers reads the file three times over, 10 s each, and makes the table of names once
    # for every part of the model. The process is ours alone.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    where: Any = {"gguf_file": file.name, "local_files_only": True}
    maker: Any = AutoModelForCausalLM
    try:
        model = maker.from_pretrained(
            str(file.parent),
            **where,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        return model, AutoTokenizer.from_pretrained(str(file.parent), **where)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise _Unreadable(f"{type(error).__name__}: {lines[0][:300]}") from error


def _sync(path: Path) -> None:
    if os.name != "nt" or not path.is_dir():  # Windows opens no folders
        sync_folder(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))

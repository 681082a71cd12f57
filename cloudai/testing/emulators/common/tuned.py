"""Fine-tuning on this machine behind an emulated cloud's fine-tuning job: the local provider's
own, in a process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cloudai.testing.emulators.common import keeper

_MAIN: Final = "from cloudai.engine.finetuning import main; main()"
_LOSS: Final = re.compile(r"train_loss=([0-9.e+-]+|nan)")


class Tuning:
    """One run. Its folder is removed with this object.

    Parameters
    ----------
    base: the model to go on from: a folder, a GGUF file or an embedded model's name; empty for
        the embedded one. home: where converted models are.
    examples: each a list of messages with ``role`` and ``content``.
    hyperparameters: of the local provider: ``n_epochs``, ``batch_size``,
        ``learning_rate_multiplier``.
    """

    def __init__(
        self,
        base: str,
        home: Path,
        examples: Sequence[list[dict[str, str]]],
        hyperparameters: dict[str, Any],
    ) -> None:
        place = Path(tempfile.mkdtemp(prefix="cloudai-tuning-"))
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        self.model = place / "model"
        for name in ("model", "checkpoints"):
            (place / name).mkdir()
        lines = (json.dumps({"messages": messages}) for messages in examples)
        (place / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
        self._log = place / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, "--base-model", base, "--home", str(home)],
                env=keeper.kept({
                    **os.environ,
                    "CLOUDAI_HPS": json.dumps(hyperparameters),
                    "CLOUDAI_INPUT_TRAIN": str(place / "train.jsonl"),
                    "CLOUDAI_MODEL_DIR": str(self.model),
                    "CLOUDAI_CHECKPOINT_DIR": str(place / "checkpoints"),
                }),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ended(self) -> int | None:
        """Its exit code; None while it works."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """What it has written."""
        return self._log.read_text("utf-8", "replace").splitlines()

    def losses(self) -> list[float]:
        """The loss of each step so far."""
        return [float(match[1]) for line in self.lines() if (match := _LOSS.search(line))]

    def stop(self) -> None:
        """Ends it, where it still works."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

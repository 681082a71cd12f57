"""What encoders of texts have in common: batches of like length, and their errors."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from cloudai.engine.sentence import SentenceConfig
from cloudai.errors import CapacityError, ContextOverflow

CPU_TOKENS: Final = 2048
"""Tokens of one forward pass on a CPU: more no longer fit its cache (measured)."""
GPU_TOKENS: Final = 65536
"""Tokens of one forward pass on a GPU."""


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Positions of ``lengths``, longest first, in groups of at most ``max_tokens`` together (a
    longer one stands alone)."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    groups: list[list[int]] = []
    room = 0
    for at in order:
        if not groups or lengths[at] > room:
            groups.append([])
            room = max_tokens
        groups[-1].append(at)
        room -= lengths[at]
    return groups


class Encoder(abc.ABC):
    """What both encoders do: texts in batches of like length, a batch a turn."""

    path: Path
    device: str
    dim: int
    limit: int
    config: SentenceConfig

    def __init__(self) -> None:
        self._turn = threading.Lock()

    @abc.abstractmethod
    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        """Each text's tokens, special ones included. Releases the GIL, so it may run beside an
        event loop in a thread.

        Parameters
        ----------
        truncate: True cuts a text to ``limit`` tokens, its end token kept; False gives all.
        """

    @abc.abstractmethod
    def _forward(self, group: Sequence[Sequence[int]]) -> Any:
        """The vectors of one batch, float32, on the device."""

    def encode_ids(
        self,
        ids: Sequence[Sequence[int]],
        max_tokens: int | None = None,
        before: Callable[[], object] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The vectors of tokenised texts: float32, of shape (texts, dim), in their order.

        Parameters
        ----------
        ids: what ``tokenize`` gave.
        max_tokens: of one forward pass; None for what suits the device.
        before: called before each pass; may raise to end the work.

        Raises ContextOverflow for a text longer than ``limit``.
        """
        lengths = [len(one) for one in ids]
        if lengths and max(lengths) > self.limit:
            at = lengths.index(max(lengths))
            raise overlong(at, lengths[at], self.limit)
        out = np.empty((len(ids), self.dim), np.float32)
        per_pass = max_tokens or (CPU_TOKENS if self.device == "cpu" else GPU_TOKENS)
        cuda = self.device.startswith("cuda")
        coming: list[tuple[list[int], Any]] = []
        try:
            for group in batches(lengths, per_pass):
                if before is not None:
                    before()
                with self._turn, torch.inference_mode():
                    made = self._forward([ids[at] for at in group])
                    if not cuda:
                        out[group] = made.cpu().numpy()
                        continue
                    # The GPU goes on with the next batch while this one is brought.
                    host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
                    coming.append((group, host.copy_(made, non_blocking=True)))
            if coming:
                torch.cuda.current_stream(self.device).synchronize()
        except torch.OutOfMemoryError as error:
            raise no_room(self.device) from error
        for group, host in coming:
            out[group] = host.numpy()
        return out


def overlong(at: int, tokens: int, limit: int) -> ContextOverflow:
    """The error for a text with more tokens than the model takes."""
    return ContextOverflow(
        f"texts[{at}] has {tokens} tokens, and the model takes {limit}",
        tokens=tokens,
        limit=limit,
        field=f"texts[{at}]",
        provider="local",
        hint="Split the text, or pass truncate=True to cut it",
    )


def no_room(device: str) -> CapacityError:
    """The error for a device without the memory for a batch."""
    return CapacityError(
        f"the device {device} ran out of memory",
        provider="local",
        hint="Send fewer or shorter texts at once, or choose another `device`",
    )

"""The engine of a loaded model, if it can be decoded in a batch."""

from __future__ import annotations

import os
from typing import Any, Final

import torch

from cloudai.engine.decoding.attention import Bound, Unfit
from cloudai.engine.decoding.engine import Engine
from cloudai.engine.decoding.rows import Rows
from cloudai.engine.decoding.runner import Piece, Runner
from cloudai.errors import CapacityError

ROWS: Final = 64
"""Texts at once on a CPU: with more, the products no longer gain."""
PACE: Final = {"cpu": (512, 64)}
"""Tokens of prompts that a turn reads: while nothing runs, and beside texts that wait for it."""
SHARE: Final = 0.25
"""Of the machine's memory that keys and values may take on a CPU."""


def build(model: Any, name: str, device: str, context: int | None) -> Engine:
    """The engine of a model of transformers.

    Raises Unfit where its texts cannot be decoded together, CapacityError where the device has
    no room for one.
    """
    bound = Bound(model)
    try:
        dtype = model.dtype
        each = bound.shape.bytes(dtype)
        tokens = int(_memory() * SHARE) // each
        if tokens < 2:
            raise CapacityError(f"{device} has no room for keys and values", provider="local")
        store = Rows(bound.shape, dtype, device, most=ROWS, tokens=tokens, context=context)
        runner = Runner(bound, store)
        _try(bound, runner)
    except BaseException:
        bound.release()
        raise
    alone, beside = PACE["cpu"]
    return Engine(runner, name, alone=alone, beside=beside)


def _memory() -> int:
    """Of the machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _try(bound: Bound, runner: Any) -> None:
    """Reads a few tokens in pieces and compares the scores after them with the model's own.
    Raises Unfit where they differ: model code may do what none of its settings says."""
    ids = [at % bound.config.vocab_size for at in (11, 3, 7, 2, 5, 13)]
    with torch.inference_mode():
        bound.release()
        try:
            whole = torch.tensor([ids], device=bound.model.device)
            own = bound.model(input_ids=whole, use_cache=False).logits[0, -1].float()
        finally:
            bound.bind()
        seat, _ = runner.store.begin(ids)
        runner.store.reserve(seat, len(ids))
        try:
            runner.scores(Piece(seat, ids, 0, 3))
            runner.scores(Piece(seat, ids, 3, 2))
            ours = runner.scores(Piece(seat, ids, 5, 1))[0]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise Unfit(f"its code fails over another cache: {error}") from error
        finally:
            runner.store.clear()
    # In bfloat16 the two ways round differently; what is wrong is off by about the spread.
    if not bool((ours - own).abs().mean() <= 0.1 * own.std() + 1e-6):
        raise Unfit("its scores over another cache are others")

"""The engine of a loaded model, if it can be decoded in a batch."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path
from typing import Any, Final

import torch

from cloudai.engine.decoding.attention import Bound, Unfit
from cloudai.engine.decoding.engine import Engine
from cloudai.engine.decoding.rows import Rows
from cloudai.engine.decoding.runner import Piece, Runner
from cloudai.errors import CapacityError

MOST: Final = {"cpu": 64, "cuda": 256}
"""Texts at once: with more, the products no longer gain."""
ALONE: Final = {"cpu": 512, "cuda": 4096}
"""Tokens of prompts that a turn reads while nothing runs."""
BESIDE: Final = {"cpu": (1e10, 32), "cuda": (7e12, 256)}
"""What such a turn's tokens and the model's weights make together while texts wait for it, which
is some 25 ms of a recent GPU and 50 of two CPU cores; and the least tokens."""
SHARE: Final = {"cpu": 0.25, "cuda": 0.8}
"""Of the memory that is left once the model is loaded, for keys and values."""


def build(
    model: Any,
    name: str,
    device: str,
    context: int | None,
    *,
    share: float | None = None,
    folder: Path | None = None,
    compiles: bool = True,
) -> Engine:
    """The engine of a model of transformers.

    Parameters
    ----------
    context: tokens that one text may have; None: no bound.
    share: of the device's memory that is left, for keys and values; None: ``SHARE``.
    folder: where compiled layers are kept. compiles: whether a GPU's are compiled.

    Raises Unfit where its texts cannot be decoded together, CapacityError where the device has
    no room for one.
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    bound = Bound(model)
    try:
        dtype = model.dtype
        left = _left(device)
        tokens = int(left * (share or SHARE[kind])) // bound.shape.bytes(dtype)
        if tokens < 128:
            raise CapacityError(
                f"{device} has {left / 2**30:.2f} GiB left beside {name}, room for {tokens} "
                f"tokens of {bound.shape.bytes(dtype)} bytes",
                provider="local",
                hint="Choose a smaller model, another `device`, or free its memory",
            )
        runner = _runner(bound, dtype, device, MOST[kind], tokens, context, folder, compiles)
        on_card = torch.cuda.device(device) if kind == "cuda" else contextlib.nullcontext()
        with on_card:
            _try(bound, runner)
    except BaseException:
        bound.release()
        raise
    work, least = BESIDE[kind]
    beside = max(least, int(work / sum(weight.numel() for weight in model.parameters())))
    return Engine(runner, name, alone=ALONE[kind], beside=min(ALONE[kind], beside))


def _runner(
    bound: Bound,
    dtype: Any,
    device: str,
    most: int,
    tokens: int,
    context: int | None,
    folder: Path | None,
    compiles: bool,
) -> Runner:
    if not device.startswith("cuda") or importlib.util.find_spec("triton") is None:
        most = min(most, MOST["cpu"])
        return Runner(
            bound, Rows(bound.shape, dtype, device, most=most, tokens=tokens, context=context)
        )
    from cloudai.engine.decoding.compiled import Compiled
    from cloudai.engine.decoding.paged import PagedRunner
    from cloudai.engine.decoding.pages import Pages

    if context is not None:
        tokens = min(tokens, most * (context + 1))
    pages = Pages(bound.shape, dtype, device, most=most, tokens=tokens, context=context)
    return PagedRunner(bound, pages, Compiled(bound.model, folder) if compiles else None)


def _left(device: str) -> int:
    """Bytes of memory that are free on a GPU; of the machine, for a CPU."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
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
        found: list[Any] = []
        try:
            for scores in [runner.scores, *([runner.rows_scores] if runner.mixes else [])]:
                scores(Piece(seat, ids, 0, 3))
                scores(Piece(seat, ids, 3, 2))
                found.append(scores(Piece(seat, ids, 5, 1))[0])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise Unfit(f"its code fails over another cache: {error}") from error
        finally:
            runner.store.clear()
    # In bfloat16 the two ways round differently; what is wrong is off by about the spread.
    for ours in found:
        if not bool((ours - own).abs().mean() <= 0.1 * own.std() + 1e-6):
            raise Unfit("its scores over another cache are others")

"""Choosing the next tokens of many answers at once, on the device that made their scores."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import torch

GREEDY: Final = 1e-5
"""Below this temperature the draw is the likeliest token, and float32 knows no smaller step
(vLLM has the like, as remembered)."""

CANDIDATES: Final = 1024
"""On a CPU, top_p and top_k look at so many of the likeliest tokens first, which nearly always
are enough: a pass over a whole vocabulary takes longer than the rest."""

_TRITON: Final = importlib.util.find_spec("triton") is not None

BROKEN: Final = -1
"""The token of scores that are no numbers."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen.

    Parameters
    ----------
    temperature: 0 takes the likeliest token (greedy).
    top_p: the smallest set of tokens with this probability. top_k: at most so many; 0: all.
    repetition_penalty: above 1 makes tokens less likely that stand in the text already
        (Keskar et al. 2019, as in transformers).
    presence_penalty, frequency_penalty: taken from the scores of tokens of the answer so far,
        once and as often as each stands there (OpenAI's definition).
    seed: of the draws; None takes a fresh one.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    @property
    def draws(self) -> bool:
        """Whether chance has a say."""
        return self.temperature > GREEDY

    @property
    def filters(self) -> bool:
        """Whether some tokens are left out of the draw."""
        return self.draws and (self.top_p < 1.0 or self.top_k > 0)

    @property
    def penalises(self) -> bool:
        """Whether it matters which tokens the text has."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def numbers(self) -> list[float]:
        """The row of this request in the table that ``choose`` takes."""
        return [
            self.temperature,
            self.top_p,
            float(self.top_k),
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
        ]

    def start(self) -> int:
        """The seed as 64 bits with a sign: any Python integer is one."""
        seed = secrets.randbits(64) if self.seed is None else self.seed % 2**64
        return seed - 2**64 if seed >= 2**63 else seed


COLUMNS: Final = len(Sampling().numbers())


class Kind(msgspec.Struct, frozen=True):
    """What the requests of one step need; what none of them needs is left out."""

    draws: bool = False
    filters: bool = False
    penalises: bool = False

    @classmethod
    def of(cls, all_: Iterable[Sampling]) -> Kind:
        every = list(all_)
        return cls(
            any(one.draws for one in every),
            any(one.filters for one in every),
            any(one.penalises for one in every),
        )

    def beside(self, other: Kind) -> Kind:
        """What these and others need."""
        return Kind(
            self.draws or other.draws,
            self.filters or other.filters,
            self.penalises or other.penalises,
        )


class Counts:
    """Which tokens each seat's text has: rows of the prompt's and of the answer's counts."""

    def __init__(self, seats: int, width: int, device: str) -> None:
        self.given = torch.zeros(seats, width, dtype=torch.bool, device=device)
        self.made = torch.zeros(seats, width, dtype=torch.int32, device=device)

    def begin(self, seat: int, prompt: Sequence[int], made: Sequence[int]) -> None:
        self.given[seat] = False
        self.given[seat, torch.tensor(prompt, device=self.given.device)] = True
        self.made[seat] = 0
        if made:
            ids = torch.tensor(made, device=self.made.device)
            self.made[seat] = torch.bincount(ids, minlength=self.made.shape[1]).int()

    def add(self, order: Any, tokens: Any) -> None:
        ones = torch.ones_like(tokens, dtype=torch.int32)
        self.made.index_put_((order, tokens.clamp_min(0)), ones, accumulate=True)


def choose(scores: Any, table: Any, seeds: Any, places: Any, kind: Kind, counts: Any = None) -> Any:
    """The next token of each row of ``scores`` (float32, (rows, width); may be changed).

    Parameters
    ----------
    table: ``Sampling.numbers`` of each row. seeds, places: a row's draw depends on its seed and
        on the token's place in its text, and on nothing of the other rows.
    kind: what some row needs. counts: (given, made) of the rows, where ``kind.penalises``.
    """
    if kind.penalises:
        scores = _penalised(scores, table, *counts)
    top, likeliest = scores.max(-1)
    tokens = likeliest
    if kind.draws:
        temperature = table[:, 0:1]
        # The maximum goes first: a tiny temperature would otherwise overflow.
        scaled = (scores - top[:, None]) / temperature.clamp_min(GREEDY)
        if kind.filters:
            scaled = _filtered(scaled, table)
        exact = torch.float32 if scaled.device.type == "mps" else torch.float64
        total = scaled.exp().cumsum(-1, dtype=exact)
        last = total[:, -1:]
        # Never past the last token that has a chance, however it is rounded.
        at = torch.minimum(
            uniform(seeds, places, exact)[:, None] * last, last.nextafter(last.new_zeros(()))
        )
        drawn = torch.searchsorted(total, at, right=True)[:, 0].clamp_max(scores.shape[1] - 1)
        tokens = torch.where(temperature[:, 0] > GREEDY, drawn, likeliest)
    return torch.where(top.isfinite(), tokens, BROKEN)


def uniform(seeds: Any, places: Any, kind: Any) -> Any:
    """A number from 0 to 1 for each seed and place: splitmix64 (Steele, Lea and Flood 2014) of
    the two, the same on every device."""
    mixed = seeds + places * -7046029254386353131
    mixed = (mixed ^ _right(mixed, 30)) * -4658895280553007687
    mixed = (mixed ^ _right(mixed, 27)) * -7723592293110705685
    mixed = mixed ^ _right(mixed, 31)
    if kind == torch.float32:
        return _right(mixed, 40).to(kind) * 2.0**-24
    return _right(mixed, 11).to(kind) * 2.0**-53


def _right(bits: Any, by: int) -> Any:
    """Shifted to the right without the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _penalised(scores: Any, table: Any, given: Any, made: Any) -> Any:
    repetition = table[:, 3:4]
    seen = given | (made > 0)
    divided = torch.where(scores < 0, scores * repetition, scores / repetition)
    scores = torch.where(seen, divided, scores)
    return scores - table[:, 4:5] * (made > 0) - table[:, 5:6] * made


def _filtered(scaled: Any, table: Any) -> Any:
    """Minus infinity for what top_k and then top_p leave out.

    Both keep what is at least as likely as some token; on a GPU it is found by sums, without a
    sort, which takes longer, and without a look at the numbers from the host.
    """
    if scaled.is_cuda and _TRITON:
        from cloudai.engine.decoding import kernel

        bound = kernel.cut(scaled, table)
    else:
        bound = _cut(scaled, table[:, 1:2], table[:, 2:3])
    # Scores are 0 or less: their bits without the sign rise as they fall.
    return torch.where((-scaled).view(torch.int32) <= bound, scaled, -torch.inf)


def _cut(scaled: Any, top_p: Any, top_k: Any) -> Any:
    """``kernel.cut`` in PyTorch: by a sort of the likeliest tokens, and of all where those do not
    suffice."""
    width = scaled.shape[1]
    mass = scaled.exp().sum(-1, True)
    everything = (top_k == 0) & (top_p >= 1)
    bound: Any = None
    for size in (min(CANDIDATES, width), width):
        best = scaled.topk(size).values
        allowed = (top_k == 0) | (torch.arange(size, device=scaled.device) < top_k)
        chances = best.exp() * allowed
        whole = torch.where(top_k > 0, chances.sum(-1, True), mass)
        kept = allowed & ((chances.cumsum(-1) - chances < whole * top_p) | (top_p >= 1))
        count = kept.sum(-1, True)
        bound = (-best.gather(1, count - 1)).view(torch.int32)
        if size == width or bool(((count < size) | everything).all()):
            break
    return torch.where(everything, 0x7F800000, bound)

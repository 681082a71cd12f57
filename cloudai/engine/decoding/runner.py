"""The forwards of one model: pieces of prompts read, and one token for every running text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import torch

from cloudai.engine.decoding.attention import Bound
from cloudai.engine.decoding.sampling import COLUMNS, Counts, Kind, Sampling, choose
from cloudai.engine.grammar import Grammar

PADDED: Final = 16
"""On a CPU, pieces of prompts are filled up to a multiple of so many tokens: oneDNN makes a
kernel for each size that it meets, which takes longer than the product."""


class Piece(msgspec.Struct):
    """A part of a text to be read: ``size`` tokens from ``start`` on.

    ``seat``: the text's place in the store. ``last``: what the token after them is chosen by;
    None: more of the text is to be read first.
    """

    seat: int
    tokens: Sequence[int]
    start: int
    size: int
    last: Sampling | None = None
    grammar: Grammar | None = None


class Batch(msgspec.Struct):
    """The texts of a step: their seats, what they are chosen by, and what of it they need."""

    seats: list[int]
    kind: Kind
    grammars: dict[int, Grammar]


class Flight:
    """Tokens that are being made."""

    def __init__(self, tokens: Any) -> None:
        self._tokens = tokens

    def land(self) -> list[int]:
        """The tokens, when they are there; -1 for scores that are no numbers."""
        return self._tokens.tolist()


class Runner:
    """Forwards with PyTorch as it is, over rows.

    Parameters
    ----------
    bound: the model. store: where keys and values are (``Rows``).
    """

    pads = PADDED
    together = 1
    """Texts that one forward of ``read`` may read."""
    mixes = False
    """Whether pieces of prompts and a step may share a forward (``mixed``)."""
    ahead = 0
    """Steps that may be begun before the one before them has landed."""

    def __init__(self, bound: Bound, store: Any) -> None:
        self.bound = bound
        self.store = store
        self.device: str = str(bound.model.device)
        self.width: int = bound.config.vocab_size
        seats = store.most + 1
        self.table = torch.zeros(seats, COLUMNS, device=self.device)
        self.numbers = torch.zeros(seats, 3, dtype=torch.long, device=self.device)
        """Of each seat: its last token, where that token stands, its seed."""
        self.counts: Counts | None = None

    def answered(self) -> None:
        """Called after each answer: what was put off for the first one may begin."""

    def seat(
        self, seat: int, how: Sampling, seed: int, prompt: Sequence[int], made: Sequence[int]
    ) -> None:
        """A text takes a seat."""
        self.table[seat] = torch.tensor(how.numbers()).to(self.device)
        self.numbers[seat, 2] = seed
        if how.penalises:
            if self.counts is None:
                self.counts = Counts(len(self.table), self.width, self.device)
            self.counts.begin(seat, prompt, made)

    def read(self, pieces: Sequence[Piece]) -> Flight:
        """Reads parts of texts; gives a token for each that has a ``last``, in their order."""
        made: list[Any] = []
        for piece in pieces:
            scores = self.scores(piece)
            if piece.last is not None:
                made.append(self._chosen(scores, piece, piece.last))
        return Flight(torch.cat(made) if made else torch.zeros(0, dtype=torch.long))

    def step(self, batch: Batch, longest: int) -> Flight:
        """One more token of every text of the batch; the longest has so many then."""
        order = torch.tensor(batch.seats, device=self.device)
        ids, places, seeds = self.numbers[order].unbind(1)
        self.store.stepping(batch.seats, places, longest)
        self.bound.store = self.store
        scores = self.bound(ids[:, None], places[:, None])
        tokens = self._draw(scores, order, seeds, places + 1, batch.kind, batch.grammars)
        return Flight(tokens)

    def scores(self, piece: Piece) -> Any:
        """Reads a part of a text; the scores after it."""
        padded = -piece.size % self.pads if piece.size > 1 else 0
        end = piece.start + piece.size
        ids = torch.tensor([[0] * padded + list(piece.tokens[piece.start : end])])
        places = torch.arange(piece.start - padded, end).clamp_min(0)[None]
        self.store.reading(piece.seat, piece.start, piece.size, padded)
        self.bound.store = self.store
        return self.bound(ids.to(self.device), places.to(self.device))

    def _chosen(self, scores: Any, piece: Piece, how: Sampling) -> Any:
        order = torch.tensor([piece.seat], device=self.device)
        places = torch.full_like(order, piece.start + piece.size)
        grammars = {} if piece.grammar is None else {0: piece.grammar}
        seeds = self.numbers[order, 2]
        return self._draw(scores, order, seeds, places, Kind.of([how]), grammars)

    def _draw(
        self,
        scores: Any,
        order: Any,
        seeds: Any,
        places: Any,
        kind: Kind,
        grammars: dict[int, Grammar],
    ) -> Any:
        for row, grammar in grammars.items():
            grammar.mask(scores[row])
        counts: Any = None
        if kind.penalises and self.counts is not None:
            counts = self.counts.given[order], self.counts.made[order]
        tokens = choose(scores, self.table[order], seeds, places, kind, counts)
        if kind.penalises and self.counts is not None:
            self.counts.add(order, tokens)
        self.numbers[order, 0] = tokens.clamp_min(0)
        self.numbers[order, 1] = places
        return tokens

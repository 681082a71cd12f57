"""Keys and values in rows, one a text, attended by PyTorch's own kernels: for CPUs, and for
devices without a kernel of ours. Rows are added and lengthened as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from cloudai.engine.decoding.attention import Look, Shape, attend

FIRST: Final = (4, 256)
"""Rows and tokens to begin with; both are doubled when they are too few."""
STEP: Final = 32
"""Keys are read in multiples of so many: kernels are made for each size that they meet."""
SHARED: Final = 16
"""Fewer tokens in common are read again, which is as fast as to copy them."""


class Rows:
    """A store (``attention.Store``) and what the scheduler asks of one.

    Parameters
    ----------
    shape, dtype, device: of the keys and values. most: rows at most.
    tokens: that all rows together may hold. context: that one may; None: no bound.
    """

    def __init__(
        self, shape: Shape, dtype: Any, device: str, *, most: int, tokens: int, context: int | None
    ) -> None:
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self.most = most
        self.tokens = tokens
        self.longest = min(tokens, context or tokens)
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._rows = 0
        self._length = 0
        self._texts: list[list[int]] = []
        self._read: list[int] = []
        self._free: list[int] = []
        self._begin()

    # ------------------------------------------------------------ the scheduler's side

    def begin(self, tokens: list[int]) -> tuple[int, int] | None:
        """A row for a text, and how many of its tokens are read already; None: all are taken.
        The list is kept: it may only grow."""
        if not self._free and not self._more():
            return None
        source, shared = -1, 0
        for row, text in enumerate(self._texts):
            size = common(text, tokens, min(self._read[row], len(tokens) - 1))
            if size > shared:
                source, shared = row, size
        if shared < SHARED:
            row, shared = self._free.pop(0), 0
        elif source in self._free:
            row = source
            self._free.remove(row)
        else:
            row = self._free.pop(0)
            for kept in (*self._keys, *self._values):
                kept[row, :, :shared] = kept[source, :, :shared]
        self._texts[row], self._read[row] = tokens, shared
        return row, shared

    def reserve(self, row: int, size: int) -> bool:
        """Makes room for so many tokens in the row; False: there is none."""
        if size <= self._length:
            return True
        length = self._length
        while length < size:
            length = min(2 * length, self.longest)
        free = set(self._free)
        highest = max(at for at in range(self._rows) if at not in free)
        if (highest + 1) * length > self.tokens:
            return False
        self._grow(min(self._rows, self.tokens // length), length)
        return True

    def note(self, row: int, read: int) -> None:
        """So many tokens of the row's text are read."""
        self._read[row] = read

    def end(self, row: int) -> None:
        """The row is free; what it holds may serve the next text that begins alike."""
        self._texts[row] = list(self._texts[row][: self._read[row]])
        self._free.append(row)

    @property
    def taken(self) -> int:
        return self._rows - len(self._free)

    def clear(self) -> None:
        """Forgets every text, and gives back what was added for them."""
        self._keys, self._values, self._texts, self._read, self._free = [], [], [], [], []
        self._rows = self._length = 0
        self._begin()

    def shrink(self) -> None:
        """Once nothing runs: long rows make room for more rows again."""
        if self._length > FIRST[1] and self._rows < self.most and not self.taken:
            self.clear()

    def _begin(self) -> None:
        length = min(self.longest, FIRST[1])
        self._grow(min(self.most, FIRST[0], self.tokens // length), length)

    def _more(self) -> bool:
        rows = min(2 * self._rows, self.most, self.tokens // self._length)
        if rows <= self._rows:
            return False
        self._grow(rows, self._length)
        return True

    def _grow(self, rows: int, length: int) -> None:
        old = (min(rows, self._rows), self._length)
        size = (rows, self._shape.heads, length, self._shape.dim)
        for kept in (self._keys, self._values):
            for layer in range(self._shape.layers):
                fresh = torch.zeros(size, dtype=self._dtype, device=self._device)
                if layer < len(kept):
                    fresh[: old[0], :, : old[1]] = kept[layer][: old[0]]
                    kept[layer] = fresh
                else:
                    kept.append(fresh)
        self._free = [row for row in self._free if row < rows]
        self._free.extend(range(self._rows, rows))
        del self._texts[rows:], self._read[rows:]
        self._texts.extend([] for _ in range(len(self._texts), rows))
        self._read.extend(0 for _ in range(len(self._read), rows))
        self._rows, self._length = rows, length

    # ------------------------------------------------------------ the forward's side

    def reading(self, row: int, start: int, size: int, padded: int) -> None:
        """The next forward reads ``size`` tokens of one row, behind ``padded`` that are none."""
        end = start + size
        self._now = self._read_on
        self._row, self._span, self._padded = row, (start, end), padded
        places = torch.arange(start - padded, end, device=self._device)[:, None]
        self._masks(places, end)

    def stepping(self, rows: Sequence[int], places: Any, longest: int) -> None:
        """The next forward takes one token of each of these rows, at these places."""
        self._now = self._step
        self._at = places
        self._index = torch.tensor(rows, device=self._device)
        # Rows side by side are looked at where they are; others are copied together.
        first, last = rows[0], rows[-1] + 1
        side = list(rows) == list(range(first, last))
        self._which: Any = slice(first, last) if side else self._index
        self._end = min(self._length, -(-longest // STEP) * STEP)
        self._masks(places[:, None, None], self._end)

    def _masks(self, places: Any, keys: int) -> None:
        span = torch.arange(keys, device=self._device)
        self._span_of, self._places = span, places
        self._made: dict[int | None, Any] = {}

    def _allowed(self, window: int | None) -> Any:
        found = self._made.get(window)
        if found is None:
            found = self._span_of <= self._places
            if window is not None:
                found &= self._span_of > self._places - window
            # What is padded sees the first key, so that no row of scores is empty.
            found[..., 0] |= self._places[..., 0] < 0
            if found.dim() == 2:
                found = found[None]
            self._made[window] = found
        return found

    def attend(self, layer: int, q: Any, k: Any, v: Any, look: Look) -> Any:
        keys, values = self._now(self._keys[layer], self._values[layer], k, v)
        return attend(q, keys, values, self._allowed(look.window), look)

    def _read_on(self, keys: Any, values: Any, k: Any, v: Any) -> tuple[Any, Any]:
        start, end = self._span
        row = slice(self._row, self._row + 1)
        keys[row, :, start:end] = k[:, :, self._padded :]
        values[row, :, start:end] = v[:, :, self._padded :]
        return keys[row, :, :end], values[row, :, :end]

    def _step(self, keys: Any, values: Any, k: Any, v: Any) -> tuple[Any, Any]:
        keys[self._index, :, self._at] = k[:, :, 0]
        values[self._index, :, self._at] = v[:, :, 0]
        return keys[self._which, :, : self._end], values[self._which, :, : self._end]


def common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many of the first tokens are the same, at most so many."""
    size = min(len(one), len(other), most)
    if one[:size] == other[:size]:
        return size
    low = 0
    while low < size:  # the first difference lies in low..size
        middle = (low + size) // 2
        if one[low : middle + 1] == other[low : middle + 1]:
            low = middle + 1
        else:
            size = middle
    return low

"""Keys and values in pages of a fixed size, for GPUs: a text has as many as it needs, and texts
that begin alike share those that are full (as in vLLM, Kwon et al. 2023)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, Final

import torch

from cloudai.engine.decoding.attention import Look, Shape, attend

PAGE: Final = 64
"""Tokens of a page."""
TRASH: Final = 0
"""The page that takes what belongs to no text."""


class Pages:
    """A store (``attention.Store``) and what the scheduler asks of one.

    Parameters
    ----------
    shape, dtype, device: of the keys and values. most: texts at once.
    tokens: that all pages together hold. context: that one text may; None: no bound.
    """

    def __init__(
        self, shape: Shape, dtype: Any, device: str, *, most: int, tokens: int, context: int | None
    ) -> None:
        self._device = device
        self.most = most
        self._count = tokens // PAGE
        self.tokens = (self._count - 1) * PAGE
        self.longest = min(self.tokens, context or self.tokens)
        size = (self._count, shape.heads, PAGE, shape.dim)
        self._keys = [torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.layers)]
        self._values = [torch.zeros_like(one) for one in self._keys]
        self.nobody = most
        """The seat of no text, whose every token goes to ``TRASH``."""
        self._table = torch.zeros(
            most + 1, -(-self.longest // PAGE), dtype=torch.int32, device=device
        )
        self._programs = 132
        if device.startswith("cuda"):
            self._programs = 2 * torch.cuda.get_device_properties(device).multi_processor_count
        self._now = threading.local()  # a second thread compiles with steps of its own
        self.clear()

    # ------------------------------------------------------------ the scheduler's side

    def clear(self) -> None:
        """Forgets every text."""
        self._numbers = itertools.count(1)
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}
        self._key: list[tuple[int, tuple[int, ...]] | None] = [None] * self._count
        self._number = [0] * self._count
        self._users = [0] * self._count
        self._unused: dict[int, None] = dict.fromkeys(range(1, self._count))
        self._seats = list(range(self.most - 1, -1, -1))
        self._texts: dict[int, list[int]] = {}
        self._pages: dict[int, list[int]] = {}
        self._chain: dict[int, list[int]] = {}
        self._dirty: set[int] = set()

    def shrink(self) -> None:
        """Pages are of one size, so that nothing is to be made smaller."""

    @property
    def taken(self) -> int:
        return len(self._pages)

    def begin(self, tokens: list[int]) -> tuple[int, int] | None:
        """A seat for a text, and how many of its tokens are read already; None: there is no
        seat, or so little room that those who run would soon need it. The list is kept: it may
        only grow."""
        shared: list[int] = []
        chain: list[int] = []
        for at in range((len(tokens) - 1) // PAGE):
            before = chain[-1] if chain else 0
            page = self._known.get((before, tuple(tokens[at * PAGE : (at + 1) * PAGE])))
            if page is None:
                break
            shared.append(page)
            chain.append(self._number[page])
        needed = -(-len(tokens) // PAGE) - len(shared)
        revived = sum(not self._users[page] for page in shared)
        if not self._seats or (
            self._pages and needed + revived + len(self._pages) > len(self._unused)
        ):
            return None
        for page in shared:
            self._unused.pop(page, None)
            self._users[page] += 1
        seat = self._seats.pop()
        self._texts[seat], self._pages[seat], self._chain[seat] = tokens, shared, chain
        self._dirty.add(seat)
        return seat, len(shared) * PAGE

    def reserve(self, seat: int, size: int) -> bool:
        """Makes room for so many tokens; False: there is none."""
        pages = self._pages[seat]
        needed = -(-size // PAGE) - len(pages)
        if needed <= 0:
            return True
        if needed > len(self._unused):
            return False
        for _ in range(needed):
            page = next(iter(self._unused))
            del self._unused[page]
            key = self._key[page]
            if key is not None:
                del self._known[key]
                self._key[page] = None
            self._users[page] = 1
            pages.append(page)
        self._dirty.add(seat)
        return True

    def note(self, seat: int, read: int) -> None:
        """So many tokens of the text are read; its full pages may be shared from now on."""
        chain, text = self._chain[seat], self._texts[seat]
        read = min(read, len(text))
        while (len(chain) + 1) * PAGE <= read:
            at = len(chain)
            key = (chain[-1] if chain else 0, tuple(text[at * PAGE : (at + 1) * PAGE]))
            page = self._known.setdefault(key, self._pages[seat][at])
            if self._key[page] is None:
                self._key[page] = key
                self._number[page] = next(self._numbers)
            chain.append(self._number[page])

    def end(self, seat: int) -> None:
        """The seat is free; its full pages may serve the next text that begins alike."""
        for page in reversed(self._pages.pop(seat)):
            self._users[page] -= 1
            if not self._users[page]:
                self._unused[page] = None
        del self._texts[seat], self._chain[seat]
        self._dirty.discard(seat)
        self._seats.append(seat)

    # ------------------------------------------------------------ the forward's side

    def reading(self, seats: Sequence[int], places: Any, longest: int) -> None:
        """The next forward of this thread reads tokens at ``places`` (rows, tokens) of these
        seats; those at -1 are none. The longest text has so many then."""
        self.upload()
        rows = self._table[torch.tensor(seats, device=self._device)].long()
        there = places >= 0
        held = places.clamp_min(0)
        pages = torch.where(there, rows.gather(1, held // PAGE), TRASH)
        now = self._now
        now.how = self._read_on
        now.write = pages, held % PAGE
        now.table = rows[:, : -(-longest // PAGE)]
        now.places = held[:, :, None]
        now.masks = {}

    def stepping(self, order: Any, places: Any) -> None:
        """The next forward of this thread takes one token of each of these seats at these
        places; both are tensors, which a captured graph reads again."""
        now = self._now
        now.how = self._step
        now.order, now.places = order, places.contiguous()

    def upload(self) -> None:
        """Brings the pages that were added to the device."""
        if not self._dirty:
            return
        seats = list(self._dirty)
        self._dirty.clear()
        width = max(len(self._pages[seat]) for seat in seats) or 1
        rows = [self._pages[seat] + [0] * (width - len(self._pages[seat])) for seat in seats]
        index = moved(seats, torch.long, self._device)
        self._table[:, :width].index_copy_(0, index, moved(rows, torch.int32, self._device))

    def attend(self, layer: int, q: Any, k: Any, v: Any, look: Look) -> Any:
        return self._now.how(layer, q, k, v, look)

    def _step(self, layer: int, q: Any, k: Any, v: Any, look: Look) -> Any:
        from cloudai.engine.decoding import kernel

        scale = q.shape[-1] ** -0.5 if look.scale is None else look.scale
        return kernel.decode(
            q, k, v, self._keys[layer], self._values[layer], self._table,
            self._now.order, self._now.places, scale, look.window or 0, look.softcap or 0.0,
            self._programs,
        )  # fmt: skip

    def _read_on(self, layer: int, q: Any, k: Any, v: Any, look: Look) -> Any:
        now = self._now
        keys, values = self._keys[layer], self._values[layer]
        pages, spots = now.write
        keys[pages, :, spots] = k.transpose(1, 2)
        values[pages, :, spots] = v.transpose(1, 2)
        return attend(q, self._all(keys), self._all(values), self._allowed(look.window), look)

    def _all(self, kept: Any) -> Any:
        rows, pages = self._now.table.shape
        _, heads, _, dim = kept.shape
        return kept[self._now.table].transpose(1, 2).reshape(rows, heads, pages * PAGE, dim)

    def _allowed(self, window: int | None) -> Any:
        now = self._now
        found = now.masks.get(window)
        if found is None:
            span = torch.arange(now.table.shape[1] * PAGE, device=self._device)
            found = span <= now.places
            if window is not None:
                found &= span > now.places - window
            now.masks[window] = found
        return found


def moved(values: Any, dtype: Any, device: str) -> Any:
    """A tensor on the device, which nobody waits for."""
    made = torch.tensor(values, dtype=dtype)
    if device.startswith("cuda"):
        return made.pin_memory().to(device, non_blocking=True)
    return made.to(device)

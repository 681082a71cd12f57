"""The forwards of one model on a GPU: many prompts read at once, and steps as captured graphs.

A step's graph is captured for a number of texts once it was wanted a few times, and replayed for
as many or fewer; until then, and for what no graph fits, the step runs as it is. A step may be
begun before the one before it has landed, so that the GPU never waits for Python.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any, Final

import torch

from cloudai.engine.decoding.attention import Bound
from cloudai.engine.decoding.compiled import Compiled
from cloudai.engine.decoding.pages import Pages, moved
from cloudai.engine.decoding.runner import Batch, Flight, Piece, Runner
from cloudai.engine.decoding.sampling import Kind

SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Texts of the steps that are captured."""
WANTED: Final = 3
"""Steps that run as they are before one of their size is captured."""
WASTE: Final = 1.5
"""Prompts are read together while filling them up to one length adds no more than this."""


class Landing(Flight):
    """Tokens that are on their way to the host."""

    def __init__(self, tokens: Any, count: int) -> None:
        super().__init__(tokens)
        self._count = count
        self._event: Any = None
        if tokens.is_cuda:
            host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            host.copy_(tokens, non_blocking=True)
            self._tokens = host
            self._event = torch.cuda.Event()
            self._event.record()

    def land(self) -> list[int]:
        if self._event is not None:
            self._event.synchronize()
        return self._tokens.tolist()[: self._count]


class _Graph:
    """A captured step.

    Attributes
    ----------
    order: the seats that it reads. tokens, scores: what it makes.
    """

    def __init__(self, size: int, nobody: int, device: str) -> None:
        self.size = size
        self.order = torch.full((size,), nobody, dtype=torch.long, device=device)
        self.seats: list[int] = []
        self.nobody = nobody
        self.graph = torch.cuda.CUDAGraph()
        self.made: Any = None

    def replay(self, seats: list[int]) -> None:
        if seats != self.seats:
            filled = seats + [self.nobody] * (self.size - len(seats))
            self.order.copy_(moved(filled, torch.long, str(self.order.device)))
            self.seats = list(seats)
        self.graph.replay()


class PagedRunner(Runner):
    """Forwards over pages.

    Parameters
    ----------
    compiled: the model's layers, compiled in the background; None: they stay as they are.
    """

    pads = 1
    together = 64
    ahead = 1

    def __init__(self, bound: Bound, store: Pages, compiled: Compiled | None = None) -> None:
        super().__init__(bound, store)
        self._compiled = compiled
        self._graphs: dict[tuple[int, Kind | None], _Graph] = {}
        self._wanted: Counter[tuple[int, Kind | None]] = Counter()
        self._pool: Any = None
        self._captures = self.device.startswith("cuda")

    def read(self, pieces: Sequence[Piece]) -> Flight:
        last: list[Piece] = []
        scores: list[Any] = []
        for group in _groups(pieces, self.together):
            made = self._read_group(group)
            for row, piece in enumerate(group):
                if piece.last is not None:
                    last.append(piece)
                    scores.append(made[row])
        if not last:
            return Flight(torch.zeros(0, dtype=torch.long))
        order = moved([piece.seat for piece in last], torch.long, self.device)
        places = moved([piece.start + piece.size for piece in last], torch.long, self.device)
        kind = Kind.of(piece.last for piece in last if piece.last is not None)
        grammars = {at: one.grammar for at, one in enumerate(last) if one.grammar is not None}
        seeds = self.numbers[order, 2]
        tokens = self._draw(torch.stack(scores), order, seeds, places, kind, grammars)
        # The scheduler has them in the pieces' order.
        where = {id(piece): at for at, piece in enumerate(last)}
        asked = [where[id(piece)] for piece in pieces if piece.last is not None]
        if asked != list(range(len(asked))):
            tokens = tokens[moved(asked, torch.long, self.device)]
        return Landing(tokens, len(asked))

    def scores(self, piece: Piece) -> Any:
        return self._read_group([piece])

    def _read_group(self, group: Sequence[Piece]) -> Any:
        size = max(piece.size for piece in group)
        ids: list[list[int]] = []
        places: list[list[int]] = []
        for piece in group:
            # Filled up in front, so that each row's last token is the last.
            pad, end = size - piece.size, piece.start + piece.size
            ids.append([0] * pad + list(piece.tokens[piece.start : end]))
            places.append([-1] * pad + list(range(piece.start, end)))
        at = moved(places, torch.long, self.device)
        longest = max(piece.start + piece.size for piece in group)
        self.store.reading([piece.seat for piece in group], at, longest)
        self.bound.store = self.store
        return self.bound(moved(ids, torch.long, self.device), at.clamp_min(0))

    def step(self, batch: Batch, longest: int) -> Flight:
        kind = None if batch.grammars else batch.kind
        graph = self._graph(len(batch.seats), kind)
        self.store.upload()
        if graph is not None:
            graph.replay(batch.seats)
        made: Any = None if graph is None else graph.made
        if kind is None or graph is None:
            order = moved(batch.seats, torch.long, self.device)
            if graph is None:
                made = self._forward(order)
            seeds, places = self.numbers[order, 2], self.numbers[order, 1] + 1
            scores = made[: len(batch.seats)]
            made = self._draw(scores, order, seeds, places, batch.kind, batch.grammars)
        return Landing(made, len(batch.seats))

    def _forward(self, order: Any) -> Any:
        ids, places, _ = self.numbers[order].unbind(1)
        self.store.stepping(order, places)
        self.bound.store = self.store
        return self.bound(ids[:, None], places[:, None])

    def answered(self) -> None:
        if self._compiled is not None:
            self._compiled.start(self._nobodys)

    def _nobodys(self, texts: int) -> None:
        """A step of so many texts that belong to nobody."""
        order = torch.full((texts,), self.store.nobody, device=self.device)
        with torch.inference_mode(), torch.cuda.device(self.device):
            self._forward(order)
            torch.cuda.synchronize()

    def _graph(self, count: int, kind: Kind | None) -> _Graph | None:
        """The graph for so many texts: of their size or, until there is that, of a larger one."""
        if not self._captures or count > SIZES[-1]:
            return None
        if self._compiled is not None and self._compiled.news():
            self._graphs.clear()
            self._pool = None  # it ends with its last graph
        size = next(size for size in SIZES if size >= count)
        key = size, kind
        found = self._graphs.get(key)
        if found is None:
            self._wanted[key] += 1
            if self._wanted[key] >= WANTED:
                found = self._capture(size, kind)
                self._graphs[key] = found
        if found is None:
            larger = (
                self._graphs.get((other, kind)) for other in SIZES if size < other <= 4 * size
            )
            found = next((one for one in larger if one is not None), None)
        return found

    def _capture(self, size: int, kind: Kind | None) -> _Graph:
        made = _Graph(size, self.store.nobody, self.device)

        def step() -> Any:
            scores = self._forward(made.order)
            if kind is None:
                return scores
            seeds, places = self.numbers[made.order, 2], self.numbers[made.order, 1] + 1
            tokens = self._draw(scores, made.order, seeds, places, kind, {})
            self.numbers[self.store.nobody] = 0  # its text never grows
            return tokens

        fits = self._compiled.use(size) if self._compiled is not None else contextlib.nullcontext()
        side = torch.cuda.Stream(self.device)
        with fits, torch.cuda.device(self.device):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step()  # kernels are made, and libraries take their memory
            torch.cuda.current_stream().wait_stream(side)
            # Another thread may compile meanwhile, which only this mode allows it.
            with torch.cuda.graph(made.graph, pool=self._pool, capture_error_mode="thread_local"):
                made.made = step()
        self._pool = self._pool or made.graph.pool()
        return made


def _groups(pieces: Sequence[Piece], most: int) -> Generator[list[Piece]]:
    """Pieces of about one length."""
    group: list[Piece] = []
    tokens = 0
    for piece in sorted(pieces, key=lambda one: -one.size):
        size = group[0].size if group else piece.size
        full = (len(group) + 1) * size > WASTE * (tokens + piece.size)
        if group and (full or len(group) >= most):
            yield group
            group, tokens = [], 0
        group.append(piece)
        tokens += piece.size
    if group:
        yield group

"""The forwards of one model on a GPU: many prompts read at once, and steps as captured graphs.

A step's graph is captured for a number of texts once it was wanted a few times, and replayed for
as many or fewer; until then, and for what no graph fits, the step runs as it is. A step may be
begun before the one before it has landed, so that the GPU never waits for Python.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final

import torch

from cloudai.engine.decoding.attention import Bound
from cloudai.engine.decoding.compiled import Compiled
from cloudai.engine.decoding.pages import Pages, moved
from cloudai.engine.decoding.runner import Batch, Flight, Piece, Runner
from cloudai.engine.decoding.sampling import Kind, Sampling
from cloudai.engine.grammar import Grammar

SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Texts of the steps that are captured."""
FIRST: Final = (1, 4, 16, 64, 256)
"""Of these, captured before layers are compiled: meanwhile they answer."""
MIXED: Final = (32, 64, 128, 192, 256, 384, 512, 768, 1024)
"""Tokens of the steps that read prompts beside, which are captured too."""
NEAR: Final = 8192
"""Tokens of a text of which a piece is read beside a step: there each token of it looks at all
before it by itself, which takes too long in longer ones."""
WANTED: Final = 3
"""Steps that run as they are before one of their size is captured."""
WASTE: Final = 1.5
"""Prompts are read together while filling them up to one length adds no more than this."""


_ROWS: Final = "rows"
_log: Final = logging.getLogger("cloudai")


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
        self.given: Any = None
        self.wanted: Any = None

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
    mixes = True
    ahead = 1

    def __init__(self, bound: Bound, store: Pages, compiled: Compiled | None = None) -> None:
        super().__init__(bound, store)
        self._compiled = compiled
        self._graphs: dict[tuple[int, Kind | str | None], _Graph] = {}
        self._wanted: Counter[tuple[int, Kind | str | None]] = Counter()
        self._pool: Any = None
        self._captures = self.device.startswith("cuda")
        self._begun = False

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
        self._news()
        kind = None if batch.grammars else batch.kind
        graph = self._graph(len(batch.seats), kind)
        if graph is None and kind is not None:
            graph = self._fitting(len(batch.seats), None)
            kind = kind if graph is None else None
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

    def _captured(
        self, key: tuple[int, Kind | str | None], capture: Callable[[], _Graph]
    ) -> _Graph | None:
        """The graph, once it was wanted often enough. None is captured while layers are being
        compiled, which uses the GPU too; and after one that failed there is no other."""
        self._wanted[key] += 1
        busy = self._compiled is not None and self._compiled.busy
        if busy or self._wanted[key] < WANTED:
            return None
        return self._try(key, capture)

    def _try(
        self, key: tuple[int, Kind | str | None], capture: Callable[[], _Graph]
    ) -> _Graph | None:
        try:
            self._graphs[key] = capture()
        except RuntimeError as error:
            self._captures, self._pool = False, None
            _log.warning("steps are not captured: %s", error)
            return None
        return self._graphs[key]

    def _news(self) -> None:
        """Once all layers have been compiled, graphs are captured anew."""
        if self._compiled is not None and not self._compiled.busy and self._compiled.news():
            self._graphs.clear()
            self._pool = None  # it ends with its last graph

    def answered(self) -> None:
        if self._compiled is None or self._begun:
            return
        self._begun = True
        for size in FIRST:
            if self._captures:
                self._try((size, None), partial(self._capture, size, None))
        self._compiled.start(self._nobodys)

    def _nobodys(self, kind: str, count: int) -> None:
        """A step of so many tokens that belong to nobody."""
        order = torch.full((count,), self.store.nobody, device=self.device)
        with torch.inference_mode(), torch.cuda.device(self.device):
            if kind == "rows":
                zeros = torch.zeros_like(order)
                self._forward_rows(torch.stack([order, zeros, zeros]), zeros[:32])
            else:
                self._forward(order)
            torch.cuda.synchronize()

    def mixed(self, pieces: Sequence[Piece], batch: Batch | None) -> Flight | None:
        """``read`` and ``step`` in one forward: the tokens of the pieces that have a ``last``,
        then those of the batch. None where that would take longer."""
        count = sum(piece.size for piece in pieces) + (len(batch.seats) if batch else 0)
        if count > MIXED[-1] or max(piece.start + piece.size for piece in pieces) > NEAR:
            return None
        rows: list[tuple[int, int, int]] = []  # seat, token, place; -1: as the seat has it
        keep: list[int] = []
        how: list[Sampling] = []
        grammars: dict[int, Grammar] = {}
        for piece in pieces:
            span = range(piece.start, piece.start + piece.size)
            rows += [(piece.seat, piece.tokens[at], at) for at in span]
            if piece.last is not None:
                if piece.grammar is not None:
                    grammars[len(keep)] = piece.grammar
                keep.append(len(rows) - 1)
                how.append(piece.last)
        kind = Kind.of(how)
        if batch is not None:
            grammars |= {len(keep) + at: one for at, one in batch.grammars.items()}
            keep += range(len(rows), len(rows) + len(batch.seats))
            rows += [(seat, -1, -1) for seat in batch.seats]
            kind = kind.beside(batch.kind)
        size = next(size for size in MIXED if size >= count)
        rows += [(self.store.nobody, 0, 0)] * (size - count)
        kept = len(keep)
        keep += [size - 1] * (min(size, self.store.most) - kept)
        self._news()
        self.store.upload()
        given = moved(list(zip(*rows, strict=True)), torch.long, self.device)
        wanted = moved(keep, torch.long, self.device)
        key = size, _ROWS
        graph = self._graphs.get(key)
        if graph is None and self._captures:
            graph = self._captured(key, lambda: self._capture_rows(given, wanted))
        if graph is None:
            scores, places = self._forward_rows(given, wanted)
        else:
            graph.given.copy_(given)
            graph.wanted.copy_(wanted)
            graph.graph.replay()
            scores, places = graph.made
        if not kept:
            return Flight(torch.zeros(0, dtype=torch.long))
        order = given[0][wanted[:kept]]
        seeds = self.numbers[order, 2]
        tokens = self._draw(scores[:kept], order, seeds, places[:kept] + 1, kind, grammars)
        return Landing(tokens, kept)

    def rows_scores(self, piece: Piece) -> Any:
        """``scores`` by the way of ``mixed``."""
        ids = list(piece.tokens[piece.start : piece.start + piece.size])
        places = list(range(piece.start, piece.start + piece.size))
        self.store.upload()
        given = moved([[piece.seat] * piece.size, ids, places], torch.long, self.device)
        last = torch.tensor([piece.size - 1], device=self.device)
        return self._forward_rows(given, last)[0]

    def _forward_rows(self, given: Any, wanted: Any) -> tuple[Any, Any]:
        """The scores after the wanted tokens, and these tokens' places."""
        order, ids, places = given
        mine = self.numbers[order]
        ids, places = (
            torch.where(ids < 0, mine[:, 0], ids),
            torch.where(places < 0, mine[:, 1], places),
        )
        self.store.stepping(order, places)
        self.bound.store = self.store
        return self.bound(ids[None], places[None], wanted), places[wanted]

    def _capture_rows(self, given: Any, wanted: Any) -> _Graph:
        made = _Graph(given.shape[1], self.store.nobody, self.device)
        made.given, made.wanted = given.clone(), wanted.clone()
        made.given[0] = self.store.nobody
        made.given[1:] = 0
        self._record(made, "rows", lambda: self._forward_rows(made.given, made.wanted))
        return made

    def _graph(self, count: int, kind: Kind | None) -> _Graph | None:
        """The graph for so many texts: of their size or, until there is that, of a larger one."""
        if not self._captures or count > SIZES[-1]:
            return None
        size = next(size for size in SIZES if size >= count)
        key = size, kind
        found = self._graphs.get(key)
        if found is None:
            found = self._captured(key, lambda: self._capture(size, kind))
        return found or self._fitting(count, kind)

    def _fitting(self, count: int, kind: Kind | None) -> _Graph | None:
        """The smallest graph there is for so many texts, of not too many more."""
        fitting = (
            self._graphs.get((size, kind)) for size in SIZES if count <= size <= 4 * count + 3
        )
        return next((one for one in fitting if one is not None), None)

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

        self._record(made, "one" if size == 1 else "many", step)
        return made

    def _record(self, made: _Graph, kind: str, step: Callable[[], Any]) -> None:
        fits = self._compiled.use(kind) if self._compiled is not None else contextlib.nullcontext()
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

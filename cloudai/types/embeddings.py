"""Embeddings: requests and replies. Frozen values, no I/O."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from cloudai.errors import MissingExtra
from cloudai.types.chat import Usage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EmbeddingTask: TypeAlias = Literal[
    "query", "document", "similarity", "classification", "clustering"
]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to embed, as an adapter gets them.

    Parameters
    ----------
    model: the vendor's own name; empty for the profile's default (local only).
    texts: at least one, none empty.
    dimensions: ask for shorter vectors, where the model can.
    truncate: True cuts an overlong text to the model's limit; False makes it an error.
    task: what the vectors are for, where the model tells tasks apart.
    native: arguments of this provider alone, passed on as they are.
    """

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    truncate: bool = False
    task: EmbeddingTask | None = None
    native: dict[str, Any] = {}


class EmbeddingReply(msgspec.Struct, frozen=True, kw_only=True):
    """One vector a text, in the texts' order.

    Parameters
    ----------
    data: all vectors, one after the other, little-endian float32.
    dim: numbers in one vector.
    model, provider: what made them. usage: tokens spent.
    cost: US dollars; None where the price is not known; 0.0 locally.
    """

    data: bytes
    dim: int
    model: str
    provider: str
    usage: Usage = Usage()
    cost: float | None = None
    request_id: str | None = None

    def __len__(self) -> int:
        return len(self.data) // (4 * self.dim) if self.dim else 0

    @property
    def array(self) -> npt.NDArray[np.float32]:
        """The vectors as a read-only float32 array of shape (texts, dim), without a copy.
        Needs numpy, which every provider's extra brings."""
        try:
            import numpy as np
        except ModuleNotFoundError:
            raise MissingExtra("numpy", extra="local") from None
        return np.frombuffer(self.data, dtype="<f4").reshape(-1, self.dim)

    @property
    def vectors(self) -> list[list[float]]:
        """The vectors as lists of floats, without numpy."""
        rows = struct.iter_unpack(f"<{self.dim}f", self.data)
        return [list(row) for row in rows]


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Documents to be put into the order of their use for a query, as an adapter gets them.

    Parameters
    ----------
    model: the vendor's own name, or a folder (local).
    query: not empty. documents: at least one, none empty.
    top_n: so many of the best; None is all.
    truncate: True cuts an overlong document to the model's limit; False makes it an error.
    native: arguments of this provider alone, passed on as they are.
    """

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    truncate: bool = False
    native: dict[str, Any] = {}


class Ranked(msgspec.Struct, frozen=True):
    """A document's place in a ranking.

    Parameters
    ----------
    index: its place among the documents that were sent. score: higher is of more use; comparable
        within one model alone.
    """

    index: int
    score: float


class RerankReply(msgspec.Struct, frozen=True, kw_only=True):
    """The documents, the most useful first.

    Parameters
    ----------
    ranking: the documents' places and scores.
    model, provider: what ranked them. usage: tokens read.
    cost: US dollars; None where the price is not known; 0.0 locally.
    """

    ranking: tuple[Ranked, ...]
    model: str
    provider: str
    usage: Usage = Usage()
    cost: float | None = None

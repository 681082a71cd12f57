"""transformers' own model code over a cache of ours.

transformers hands each layer's queries, keys and values to the attention that the model's
configuration names, which here is a store's: it keeps the new keys and values and attends to all
that it has of each text. So the model code is unchanged, and knows of no cache.
"""

from __future__ import annotations

import itertools
import weakref
from functools import partial
from typing import Any, Final, Protocol

import msgspec
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache

_numbers: Final = itertools.count()
_PASSED_OVER: Final = frozenset({"dropout", "position_ids", "output_attentions", "use_cache"})


class Unfit(Exception):
    """The model cannot be decoded in a batch here; the message says why."""


class Shape(msgspec.Struct, frozen=True):
    """Of the keys of a model: layers, heads that have keys, numbers of each."""

    layers: int
    heads: int
    dim: int

    def bytes(self, dtype: Any) -> int:
        """That the keys and values of one token take."""
        return 2 * self.layers * self.heads * self.dim * dtype.itemsize


class Look(msgspec.Struct, frozen=True):
    """How a layer attends: the scale of the scores, how far back, and the bound of the scores
    (Gemma 2); None: without."""

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None


class Store(Protocol):
    """What keeps keys and values; ``rows`` and ``pages`` are ones."""

    def attend(self, layer: int, q: Any, k: Any, v: Any, look: Look) -> Any:
        """Keeps ``k`` and ``v`` (rows, heads, tokens, dim), and gives what ``q`` sees, of shape
        (rows, tokens, heads, dim)."""
        ...


class Passing(Cache):
    """What the model code takes for its cache: nothing is kept here."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class Bound:
    """A model whose attention is a store's.

    Parameters
    ----------
    model: of transformers, causal. Raises Unfit where its attention has parts that are not
        known here.

    Attributes
    ----------
    shape: of the model's keys. store: what attends; set before each forward.
    """

    def __init__(self, model: Any) -> None:
        _check(model)
        self.model = model
        self.config = model.config.get_text_config()
        self.store: Store = _First()
        self._number = next(_numbers)
        self._name = f"cloudai-{self._number}"
        weakref.finalize(self, AttentionInterface._global_mapping.pop, self._name, None)
        self._plain: str = self.config._attn_implementation
        self._cache = Passing()
        self._no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=model.device)
        self.bind()
        try:
            self.shape = self._look_through()
        except BaseException:
            self.release()
            raise

    def bind(self) -> None:
        """Takes the model's attention over."""
        _BOUND[self._number] = self
        AttentionInterface.register(self._name, partial(_attend, self._number))
        self.config._attn_implementation = self._name

    def release(self) -> None:
        """Gives the model its own attention back."""
        self.config._attn_implementation = self._plain
        AttentionInterface._global_mapping.pop(self._name, None)

    def __call__(self, ids: Any, places: Any, keep: Any = None) -> Any:
        """The scores after the last token of each row, float32; with ``keep``, after those tokens
        of the only row."""
        out = self.model(
            input_ids=ids,
            position_ids=places,
            past_key_values=self._cache,
            # Four dimensions: taken as it is, and nothing is made of it.
            attention_mask=self._no_mask,
            use_cache=True,
            logits_to_keep=1 if keep is None else keep,
        )
        return (out.logits[:, -1] if keep is None else out.logits[0]).float()

    def _look_through(self) -> Shape:
        """One forward of two tokens, each by itself, which shows each layer's keys."""
        device = self.model.device
        first = _First()
        self.store = first
        with torch.inference_mode():
            try:
                self(torch.zeros(2, 1, dtype=torch.long, device=device),
                     torch.zeros(2, 1, dtype=torch.long, device=device))  # fmt: skip
            except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
                raise Unfit(f"its code takes another cache ({type(error).__name__})") from error
        shapes = set(first.shapes.values())
        if len(shapes) != 1 or sorted(first.shapes) != list(range(self.config.num_hidden_layers)):
            raise Unfit("its layers differ in their keys")
        kinds = getattr(self.config, "layer_types", None) or []
        for layer, kind in enumerate(kinds[: len(first.shapes)]):
            if (kind == "sliding_attention") != (first.looks[layer].window is not None):
                raise Unfit("its attention does not say how far a layer sees")
        heads, dim = shapes.pop()
        return Shape(len(first.shapes), heads, dim)


# transformers keeps what is registered, which must not keep the model.
_BOUND: Final[weakref.WeakValueDictionary[int, Bound]] = weakref.WeakValueDictionary()


def _attend(
    number: int, module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: Any = None, **given: Any
) -> tuple[Any, None]:
    window, softcap = given.pop("sliding_window", None), given.pop("softcap", None)
    if torch.compiler.is_compiling():
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        return _opaque(q, k, v, number, module.layer_idx, scale, window or 0, softcap or 0.0), None
    for name, value in given.items():
        if value is not None and name not in _PASSED_OVER and not isinstance(value, bool):
            raise Unfit(f"its attention takes {name}")
    look = Look(scaling, window, softcap)
    return _BOUND[number].store.attend(module.layer_idx, q, k, v, look), None


# What a compiled layer calls, and does not look into. It changes what no argument shows, and runs
# in its place all the same: each layer's result depends on the one before.
@torch.library.custom_op("cloudai::attend", mutates_args=())
def _opaque(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    number: int,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
) -> torch.Tensor:
    look = Look(scale, window or None, softcap or None)
    return _BOUND[number].store.attend(layer, q, k, v, look)


@_opaque.register_fake
def _(q: Any, k: Any, v: Any, number: int, layer: int, *_: Any) -> Any:
    rows, heads, tokens, dim = q.shape
    return q.new_empty(rows, tokens, heads, dim)


class _First:
    """Attends to nothing but each token itself, and notes what it was handed."""

    def __init__(self) -> None:
        self.shapes: dict[int, tuple[int, int]] = {}
        self.looks: dict[int, Look] = {}

    def attend(self, layer: int, q: Any, k: Any, v: Any, look: Look) -> Any:
        if k.shape != v.shape:
            raise Unfit("its values are of another size than its keys")
        self.shapes[layer] = (k.shape[1], k.shape[3])
        self.looks[layer] = look
        return v.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(1, 2)


def attend(q: Any, k: Any, v: Any, allowed: Any, look: Look) -> Any:
    """Attention in PyTorch: ``allowed`` (rows or 1, tokens, keys) says who sees what. The heads
    that share a key head stand in the query axis, so that no key is copied."""
    rows, heads, tokens, dim = q.shape
    shared = heads // k.shape[1]
    grouped = q.reshape(rows, k.shape[1], shared * tokens, dim)
    mask = allowed[:, None]
    if shared > 1:
        mask = mask.repeat(1, 1, shared, 1)
    if look.softcap is None:
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=look.scale)
    else:
        scale = dim**-0.5 if look.scale is None else look.scale
        scores = (grouped @ k.transpose(2, 3)) * scale
        scores = look.softcap * torch.tanh(scores / look.softcap)
        chances = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
        out = chances.to(q.dtype) @ v
    return out.reshape(rows, heads, tokens, dim).transpose(1, 2)


def _reason(kind: Any, config: Any) -> str | None:
    if not getattr(kind, "_supports_attention_backend", False):
        return "its attention does not go through transformers' interface"
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(config, "attention_chunk_size", None):
        return "it attends in chunks"
    if getattr(config, "use_bidirectional_attention", None):
        return "it attends to later tokens"
    if getattr(config, "num_kv_shared_layers", 0):
        return "some of its layers share their keys"
    if getattr(config, "alibi", False) or getattr(config, "position_embedding_type", "") == "alibi":
        return "it has no positions but ALiBi's"
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for one in ropes:
        if one.get("rope_type") in ("dynamic", "longrope"):
            return "its positions depend on the text's length"
    return None


def _check(model: Any) -> None:
    reason = _reason(type(model), model.config.get_text_config())
    if reason is not None:
        raise Unfit(reason)

"""Linear layers of a model in half precision on a CPU.

PyTorch hands oneDNN a weight as it is, and oneDNN lays it out anew for the CPU's matrix units at
each call. Here it is laid out once. The operators are those that TorchInductor puts into a frozen
model; they are not public, so each layer is tried once against the plain one, which takes its
place where they are missing or the CPU has no units for the type.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F

ROWS: Final = 32
"""Inputs are filled up to a multiple of so many rows: oneDNN compiles a kernel for each number of
rows that it meets, which takes longer than the product, and keeps 1024 of them."""

_GELU_TANH: Final = (partial(F.gelu, approximate="tanh"), "gelu", "tanh")
_ACTIVATIONS: Final[dict[str, tuple[Any, str, str]]] = {
    "": (lambda x: x, "none", ""),
    "gelu": (F.gelu, "gelu", "none"),
    "gelu_new": _GELU_TANH,
    "gelu_pytorch_tanh": _GELU_TANH,
    "relu": (F.relu, "relu", ""),
}
"""By the name in a model's config.json: PyTorch's own, and the operator's two words for it."""

ACTIVATIONS: Final = frozenset(_ACTIVATIONS) - {""}


def lays_out(device: str, dtype: torch.dtype) -> bool:
    """Whether layers of this type gain from it; for float32 MKL is as fast without."""
    return device == "cpu" and dtype in (torch.bfloat16, torch.float16)


class Linear:
    """``activation(x @ weight.T + bias)``.

    Parameters
    ----------
    weight, bias: of shape (out, in) and (out,). activation: one of ``ACTIVATIONS``; "": none.
    lay_out: whether to lay the weight out for the CPU; then the plain one is not kept.
    """

    def __init__(self, weight: Any, bias: Any, activation: str = "", lay_out: bool = False) -> None:
        self._bias = bias
        self._activation, *self._fused = _ACTIVATIONS[activation]
        self._laid_out = self._try(weight) if lay_out else None
        self._weight: Any = weight if self._laid_out is None else None

    def __call__(self, x: Any) -> Any:
        if self._laid_out is None:
            return self._activation(F.linear(x, self._weight, self._bias))
        return self._run(x, self._laid_out)

    def _run(self, x: Any, laid_out: Any) -> Any:
        operator: Any = torch.ops.mkldnn._linear_pointwise
        name, how = self._fused
        return operator(x, laid_out, self._bias, name, [], how)

    def _try(self, weight: Any) -> Any:
        made = torch.Generator().manual_seed(0)  # the program's own random numbers stay as they are
        x = torch.randn(ROWS, weight.shape[1], generator=made).to(weight.dtype)
        try:
            with torch.no_grad():
                laid_out: Any = torch.ops.mkldnn._reorder_linear_weight(weight, 1024)
                expected = self._activation(F.linear(x, weight, self._bias))
                found = self._run(x, laid_out)
                torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
        except (AttributeError, RuntimeError, TypeError, NotImplementedError, AssertionError):
            return None
        return laid_out

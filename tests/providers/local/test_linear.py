"""Linear layers laid out for a CPU, and what takes their place."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from cloudai.engine.linear import ACTIVATIONS, Linear, lays_out  # noqa: E402


def layer(dtype: str = "float32") -> tuple[object, object, object]:
    made = torch.Generator().manual_seed(1)
    shapes = ((64, 32), (64,), (7, 32))
    weight, bias, x = (torch.randn(s, generator=made).to(getattr(torch, dtype)) for s in shapes)
    return weight, bias, x


@pytest.mark.parametrize("activation", ["", *sorted(ACTIVATIONS)])
def test_a_laid_out_layer_gives_what_the_plain_one_gives(activation: str) -> None:
    weight, bias, x = layer()  # in float32, since not every CPU lays out the others
    laid_out, plain = (Linear(weight, bias, activation, how) for how in (True, False))
    assert laid_out._laid_out is not None
    assert laid_out._weight is None
    with torch.inference_mode():
        torch.testing.assert_close(laid_out(x), plain(x), rtol=1e-4, atol=1e-4)


def test_where_it_cannot_be_laid_out_the_plain_layer_stays() -> None:
    weight, bias, x = layer("float64")  # oneDNN has none of these
    made = Linear(weight, bias, "gelu", True)
    assert made._laid_out is None
    expected = torch.nn.functional.gelu(torch.nn.functional.linear(x, weight, bias))
    torch.testing.assert_close(made(x), expected)


def test_only_half_precision_on_a_cpu_is_laid_out() -> None:
    assert lays_out("cpu", torch.bfloat16)
    assert not lays_out("cpu", torch.float32)
    assert not lays_out("cuda:0", torch.bfloat16)

"""oneDNN's products are those of float64 to rounding, forward and backward, for whatever strides come."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rechub_ray.cpu import products
from rechub_ray.cpu.products import linear


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of AMD processors, on any of them."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "_LARGE", 0)
    monkeypatch.setattr(products, "_is_faster", lambda: True)


def _close(mine: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-4)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda x: x.contiguous(),
    "columns of a wider matrix": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "transposed": lambda x: x.t().contiguous().t(),
    "every other row": lambda x: x.repeat_interleave(2, 0)[::2],
}


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("rows", "widths", "units"), [(1, (3,), 1), (7, (5, 2), 4), (64, (40, 13), 16), (33, (3,), 50)]
)
def test_products_and_gradients_are_those_of_float64(
    layout: str, rows: int, widths: tuple[int, ...], units: int
) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(units, sum(widths)), torch.randn(units)
    parts = [torch.randn(rows, width) for width in widths]
    outer = torch.randn(rows, units)
    mine = [LAYOUTS[layout](x).detach().requires_grad_() for x in (weight, *parts)]
    my_bias = bias.clone().requires_grad_()
    result = linear(mine[0], my_bias, *mine[1:])
    result.backward(LAYOUTS[layout](outer))

    exact = [x.double().requires_grad_() for x in (weight, bias, *parts)]
    expected = torch.cat(exact[2:], 1) @ exact[0].t() + exact[1]
    expected.backward(outer.double())
    _close(result, expected)
    for one, other in zip([mine[0], my_bias, *mine[1:]], exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        _close(one.grad, other.grad)


@pytest.mark.usefixtures("onednn")
def test_only_what_is_wanted_gets_a_gradient() -> None:
    weight, x, y = torch.randn(3, 4), torch.randn(5, 3), torch.randn(5, 1, requires_grad=True)
    linear(weight, None, x, y).sum().backward()
    assert x.grad is None
    assert weight.grad is None
    assert y.grad is not None
    _close(y.grad, weight[:, 3:].double().sum(0).expand(5, 1))


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize(
    "x",
    [torch.randn(0, 4), torch.randn(2, 3, 4), torch.randn(5, 4).double(), torch.randn(4)],
    ids=lambda x: str(x.shape),
)
def test_what_onednn_does_not_take_is_computed_all_the_same(x: Tensor) -> None:
    weight = torch.randn(3, 4, dtype=x.dtype)
    torch.testing.assert_close(linear(weight, None, x), torch.nn.functional.linear(x, weight))


@pytest.mark.usefixtures("onednn")
def test_autocast_decides_the_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.randn(3, 4), torch.randn(3), torch.randn(5, 4)).dtype == torch.bfloat16

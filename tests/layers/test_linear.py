from __future__ import annotations

import math

import pytest
import torch

from rechub_ray.layers.linear import Linear


def test_weights_are_xavier_normal_and_the_bias_is_zero() -> None:
    torch.manual_seed(0)
    layer = Linear(300, 100)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert layer.weight.mean().abs().item() < 0.002
    # uniform weights of that deviation would end at 1.73 deviations
    assert layer.weight.abs().max().item() > 3 * math.sqrt(2 / 400)
    assert torch.equal(layer.bias, torch.zeros(100))
    assert Linear(3, 2, bias=False).bias is None


def test_parts_side_by_side_give_what_the_whole_gives() -> None:
    torch.manual_seed(0)
    layer = Linear(9, 4).double()
    x = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    torch.testing.assert_close(layer(x[:, :5], x[:, 5:6], x[:, 6:]), expected)
    inputs = [x, layer.weight, layer.bias]
    whole = torch.autograd.grad(expected.square().sum(), inputs)
    parts = torch.autograd.grad(layer(x[:, :5], x[:, 5:]).square().sum(), inputs)
    torch.testing.assert_close(parts, whole)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(torch.randn(6, 5), torch.randn(6, 4)).dtype == torch.bfloat16

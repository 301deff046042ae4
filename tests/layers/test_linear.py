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

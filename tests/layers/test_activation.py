from __future__ import annotations

import math
import typing
from collections.abc import Callable

import pytest
import torch

from rechub_ray.layers.activation import Activation, Dice, build_activation

REFERENCES: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: max(x, 0.01 * x),
    "prelu": lambda x: max(x, 0.25 * x),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", [name for name in typing.get_args(Activation) if name != "dice"])
def test_it_computes_what_its_name_says(name: Activation) -> None:
    points = [-2.0, -0.3, 0.0, 0.7, 3.0]
    result = build_activation(name, 5)(torch.tensor(points)).tolist()
    assert result == pytest.approx([REFERENCES[name](x) for x in points], rel=1e-5)


def test_dice_turns_at_the_mean_of_the_rows() -> None:
    torch.manual_seed(0)
    dice, x = build_activation("dice", 3).double(), 2 + 3 * torch.randn(50, 3, dtype=torch.float64)
    assert isinstance(dice, Dice)
    with torch.no_grad():
        dice.alpha.normal_()
    p = torch.sigmoid((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(dice(x), p * x + (1 - p) * dice.alpha * x)
    assert [name for name, _ in dice.named_parameters()] == ["alpha"]

from __future__ import annotations

import math
import typing
from collections.abc import Callable

import pytest
import torch

from rechub_ray.layers.activation import Activation, build_activation

REFERENCES: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: max(x, 0.01 * x),
    "prelu": lambda x: max(x, 0.25 * x),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", typing.get_args(Activation))
def test_it_computes_what_its_name_says(name: Activation) -> None:
    points = [-2.0, -0.3, 0.0, 0.7, 3.0]
    result = build_activation(name)(torch.tensor(points)).tolist()
    assert result == pytest.approx([REFERENCES[name](x) for x in points], rel=1e-5)

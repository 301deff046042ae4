"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from rechub_ray.layers.activation import Activation, build_activation
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.norm import BatchNorm1d
from rechub_ray.schema import PositiveInt

HiddenUnits: TypeAlias = tuple[PositiveInt, ...]
Probability: TypeAlias = Annotated[float, Ge(0), Lt(1)]


class MLP(nn.Sequential):
    """Per hidden layer: linear, batch norm, activation, dropout; then, where `output_dim` is given, one linear layer.

    Args:
        input_dim: width of x.
        hidden_units: widths of the hidden layers; none leaves x as it is (or gives one linear layer).
        output_dim: width of the result; None ends with the last hidden layer.
        activation: after each hidden layer.
        dropout: share of a hidden layer's values that are zeroed in training, in [0, 1).
        batch_norm: whether to normalise each hidden layer before its activation.

    Shapes:
        (B, input_dim) -> (B, width). x may come in parts that lie side by side, as of `Linear`.

    Example:
        >>> mlp = MLP(8, (4, 3), output_dim=1)
        >>> mlp.width, [type(layer).__name__ for layer in mlp]
        (1, ['Linear', 'ReLU', 'Linear', 'ReLU', 'Linear'])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        output_dim: int | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        width = input_dim
        for units in hidden_units:
            layers += [Linear(width, units), *([BatchNorm1d(units)] if batch_norm else [])]
            layers.append(build_activation(activation, units))
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
            width = units
        if output_dim is not None:
            layers.append(Linear(width, output_dim))
            width = output_dim
        super().__init__(*layers)
        self.width = width

    def forward(self, *parts: Tensor) -> Tensor:
        if not len(self):
            return torch.cat(parts, 1)
        first, *rest = self
        x: Tensor = first(*parts)
        for layer in rest:
            x = layer(x)
        return x

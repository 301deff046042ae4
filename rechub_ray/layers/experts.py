"""Experts: perceptrons side by side, and the gates that mix what they give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rechub_ray.layers.activation import Activation
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP


class Experts(nn.ModuleList):
    """Multi-layer perceptrons of one input and of equal widths.

    Args:
        input_dim: width of x.
        hidden_units: widths of each expert's layers; none gives x itself.
        count: number of experts, >= 1.
        activation: after each layer.
        dropout: in the layers, in [0, 1).
        batch_norm: whether the layers are batch-normalised.

    Attributes:
        width: of what an expert gives.

    Shapes:
        (B, input_dim) -> (B, count, width)

    Example:
        >>> Experts(5, (4, 3), count=2)(torch.zeros(7, 5)).shape
        torch.Size([7, 2, 3])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        count: int,
        activation: Activation = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        experts = [
            MLP(input_dim, hidden_units, activation=activation, dropout=dropout, batch_norm=batch_norm)
            for _ in range(count)
        ]
        super().__init__(experts)
        self.width = experts[0].width

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([expert(x) for expert in self], 1)


class Gate(nn.Module):
    """The mean of the experts by weights that depend on x: `sum_e softmax(W x)_e experts_e`.

    One matrix without a bias, and no batch norm or dropout: the weights are those of the papers, and a row's do not
    depend on the other rows.

    Args:
        input_dim: width of x.
        count: number of experts.

    Shapes:
        x (B, input_dim), experts (B, count, width) -> (B, width)

    Reference: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (KDD
    2018), eq. 6 and 7.
    """

    def __init__(self, input_dim: int, count: int) -> None:
        super().__init__()
        self.linear = Linear(input_dim, count, bias=False)

    def forward(self, x: Tensor, experts: Tensor) -> Tensor:
        weights = torch.softmax(self.linear(x), 1)
        return (weights.unsqueeze(1) @ experts).squeeze(1)

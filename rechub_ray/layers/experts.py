"""Experts: perceptrons side by side, and the gates that mix what they give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.layers.activation import Activation, build_activation
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.norm import BatchNorm1d


class Experts(nn.Sequential):
    """Multi-layer perceptrons of one input and of equal widths, as `MLP` is one, computed together.

    Per layer: linear, batch norm, activation, dropout. One product with the matrices of all experts costs less than one
    each.

    Args:
        input_dim: width of x.
        hidden_units: widths of each expert's layers; none gives x itself.
        count: number of experts, >= 1.
        activation: after each layer; the slope of a `prelu` is one for all experts.
        dropout: share of a layer's values that are zeroed in training, in [0, 1).
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
        layers: list[nn.Module] = []
        width = input_dim
        for units in hidden_units:
            layers += [_Linears(width, units, count), *([BatchNorm1d(count * units)] if batch_norm else [])]
            layers.append(build_activation(activation, count * units))
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
            width = units
        super().__init__(*layers)
        self.width, self.count = width, count

    def forward(self, x: Tensor) -> Tensor:
        if not len(self):
            return x.unsqueeze(1).expand(-1, self.count, -1)
        for layer in self:  # the experts side by side
            x = layer(x)
        return x.view(x.shape[0], self.count, self.width)


class _Linears(nn.Module):
    """A linear layer an expert, with the initialisation of `Linear`.

    Shapes:
        weight (count, out_features, in_features), bias (count, out_features)
        (B, in_features), or (B, count * in_features) with an input for each -> (B, count * out_features)
    """

    def __init__(self, in_features: int, out_features: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(count, out_features))
        for matrix in self.weight:
            nn.init.xavier_normal_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        count, _, width = self.weight.shape
        if x.shape[1] == width:
            return F.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        each = x.view(x.shape[0], count, width).transpose(0, 1)
        result = torch.baddbmm(self.bias.unsqueeze(1), each, self.weight.transpose(1, 2))
        return result.transpose(0, 1).flatten(1)


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
        # over the first dimension: PyTorch's CPU kernel for a short last one takes seven times as long
        weights = torch.softmax(self.linear(x).t().contiguous(), 0).t()
        # faster on CPUs than a product of small matrices a row
        mean: Tensor = (weights.unsqueeze(2) * experts).sum(1)
        return mean

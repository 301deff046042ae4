"""Activation functions by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from rechub_ray.layers.norm import BatchNorm1d

Activation: TypeAlias = Literal["relu", "leaky_relu", "prelu", "gelu", "silu", "tanh", "sigmoid", "dice"]


class Dice(nn.Module):
    """`p x + (1 - p) alpha x` with `p = sigmoid(BN(x))`: a PReLU that turns at the mean of the rows.

    Args:
        width: of x.

    Shapes:
        (B, width) -> (B, width)

    Reference: Zhou et al., Deep Interest Network, arXiv 1706.06978, eq. 5.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm1d(width, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.norm(x))
        return x * (p + (1 - p) * self.alpha)


def build_activation(name: Activation, width: int = 1) -> nn.Module:
    """Return the activation called `name`.

    ReLU works in place: linear and batch norm layers do not need their results backward, and a batch of activations
    is written once less.

    Args:
        name: one of `Activation`.
        width: of what it is applied to, which `dice` needs.
    """
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU()
        case "prelu":
            return nn.PReLU()
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "dice":
            return Dice(width)

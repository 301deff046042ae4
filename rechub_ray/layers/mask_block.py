"""Masks that depend on the whole input, multiplied into a layer's input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rechub_ray.layers.linear import Linear


class MaskBlock(nn.Module):
    """`relu(LN(W (mask * x)))` with `mask = W_2 relu(W_1 v + b_1) + b_2`.

    Args:
        mask_dim: width of v.
        dim: width of x.
        out_dim: width of the result.
        reduction_ratio: the mask's inner layer has max(1, int(reduction_ratio mask_dim)) units, > 0.

    Shapes:
        v (B, mask_dim), x (B, dim) -> (B, out_dim)

    Reference: Wang et al., MaskNet, arXiv 2102.07619, section 3.
    """

    def __init__(self, mask_dim: int, dim: int, out_dim: int, reduction_ratio: float) -> None:
        super().__init__()
        units = max(1, int(reduction_ratio * mask_dim))
        self.mask = nn.Sequential(Linear(mask_dim, units), nn.ReLU(), Linear(units, dim))
        self.hidden, self.norm = Linear(dim, out_dim, bias=False), nn.LayerNorm(out_dim)

    def forward(self, v: Tensor, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.hidden(self.mask(v) * x)))

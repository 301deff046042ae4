"""Weights of field-aware vectors, by what all of them hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rechub_ray.layers.linear import Linear


class ComposeExcitation(nn.Module):
    """`v_i <- s_i v_i` with `s = relu(W_2 relu(W_1 d) + b)` and `d_i = relu(<u_i, v_i>)`.

    b starts at 1, so that a model starts without weights: s would otherwise start near 0, and its products with it.

    Args:
        count: K, the number of vectors.
        dim: their width.
        reduction_ratio: the layer between has max(1, K // reduction_ratio) units, >= 1.

    Shapes:
        (B, K, dim) -> (B, K, dim)

    Reference: Zhang et al., FAT-DeepFFM, arXiv 1905.06336 (CENet). Deviation: the bias b.
    """

    def __init__(self, count: int, dim: int, reduction_ratio: int) -> None:
        super().__init__()
        self.compose = nn.Parameter(torch.empty(count, dim))
        nn.init.xavier_normal_(self.compose)
        units = max(1, count // reduction_ratio)
        self.down, self.up = Linear(count, units, bias=False), Linear(units, count)
        nn.init.ones_(self.up.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        described = torch.relu((vectors * self.compose).sum(2))
        weights = torch.relu(self.up(torch.relu(self.down(described))))
        weighted: Tensor = vectors * weights.unsqueeze(2)
        return weighted

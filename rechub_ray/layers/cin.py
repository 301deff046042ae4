"""Compressed interactions: products of vectors, by elements, of growing degree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rechub_ray.layers.linear import Linear


class CIN(nn.Module):
    """`x^k_h = sum_{i,j} W^k_{h,i,j} (x^{k-1}_i * x^0_j) + b^k_h`, and the sums of each x^k_h's numbers.

    Args:
        count: K, the number of vectors x^0.
        units: vectors of each layer, >= 1 each; at least one layer.

    Attributes:
        width: of the result, the sum of `units`.

    Shapes:
        (B, K, D) -> (B, width); between, a layer takes B K D times the units of the layer before it.

    Reference: Lian et al., xDeepFM, arXiv 1803.05170, eq. 6, with the identity as activation. Deviation: the
    bias, which the published results have; weights and biases start uniform in +- 1/sqrt(inputs), as theirs do.
    """

    def __init__(self, count: int, units: Sequence[int]) -> None:
        super().__init__()
        layers = [Linear(before * count, own) for before, own in zip((count, *units[:-1]), units, strict=True)]
        for layer in layers:  # with biases: of a bias of zero and small vectors come products without a gradient
            nn.Linear.reset_parameters(layer)
        self.layers = nn.ModuleList(layers)
        self.width = sum(units)

    def forward(self, vectors: Tensor) -> Tensor:
        first = vectors.transpose(1, 2)  # (B, D, K)
        x, sums = first, []
        for layer in self.layers:
            products = (x.unsqueeze(3) * first.unsqueeze(2)).flatten(2)  # (B, D, units before * K)
            x = layer(products.flatten(0, 1)).view(*first.shape[:2], -1)
            sums.append(x.sum(1))
        return torch.cat(sums, 1)

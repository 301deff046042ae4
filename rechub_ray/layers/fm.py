"""Pairwise interactions of a factorisation machine."""

from __future__ import annotations

from torch import Tensor, nn


class FMInteraction(nn.Module):
    """Sum of the dot products of all pairs: `sum_{i<j} <v_i, v_j> = (|sum_i v_i|^2 - sum_i |v_i|^2) / 2`.

    Shapes:
        (B, K, D) -> (B,)

    Example:
        >>> import torch
        >>> FMInteraction()(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).item()
        67.0

    Reference: Rendle, Factorization Machines (ICDM 2010), lemma 3.1.
    """

    def forward(self, vectors: Tensor) -> Tensor:
        return 0.5 * (vectors.sum(1).square().sum(1) - vectors.square().sum((1, 2)))

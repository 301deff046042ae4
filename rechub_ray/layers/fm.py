"""Pairwise interactions of a factorisation machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
        if torch.compiler.is_compiling():
            plain: Tensor = 0.5 * (vectors.sum(1).square().sum(1) - vectors.square().sum((1, 2)))
            return plain
        result: Tensor = _Pairs.apply(vectors)  # type: ignore[no-untyped-call]
        return result


class _Pairs(torch.autograd.Function):
    """`FMInteraction` with half of autograd's passes over memory: the gradient at v_i is g * (sum_j v_j - v_i)."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(1)
        ctx.save_for_backward(vectors, total)
        own = torch.linalg.vector_norm(vectors, dim=(1, 2)).square()
        pairs: Tensor = 0.5 * (total.square().sum(1) - own)
        return pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        result: Tensor = torch.sub(total.unsqueeze(1), vectors).mul_(gradient.view(-1, 1, 1))
        return result

"""Products of pairs of vectors through learned matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rechub_ray.layers.pairs import Pairs

BilinearKind: TypeAlias = Literal["field_all", "field_each", "field_interaction"]


class Bilinear(Pairs):
    """`p_ij = (v_i W) * v_j` for each pair i < j.

    Args:
        count: K, the number of vectors, >= 2.
        dim: their width.
        kind: one W for all pairs (`field_all`), one for each left member (`field_each`), or one for each pair
            (`field_interaction`).

    Shapes:
        (B, K, dim) -> (B, K (K-1) / 2, dim)

    Reference: Huang et al., FiBiNET, arXiv 1905.09433, bilinear-interaction layer.
    """

    def __init__(self, count: int, dim: int, kind: BilinearKind) -> None:
        super().__init__(count)
        self.kind = kind
        matrices = {"field_all": 1, "field_each": count - 1, "field_interaction": self.number}[kind]
        self.weight = nn.Parameter(torch.empty(matrices, dim, dim))
        for matrix in self.weight:
            nn.init.xavier_normal_(matrix)

    def forward(self, vectors: Tensor) -> Tensor:  # type: ignore[override]
        if self.kind == "field_interaction":
            if torch.compiler.is_compiling():
                left, right = super().forward(vectors)
                return torch.bmm(left.transpose(0, 1), self.weight).transpose(0, 1) * right
            result: Tensor = _Products.apply(vectors, self.weight)  # type: ignore[no-untyped-call]
            return result
        if self.kind == "field_all":
            turned = vectors @ self.weight[0]
        else:  # the last vector is no left member
            turned = torch.bmm(vectors[:, :-1].transpose(0, 1), self.weight).transpose(0, 1)
        return turned.index_select(1, self.left) * vectors.index_select(1, self.right)


class _Products(torch.autograd.Function):
    """The products with a matrix for each pair: those of one left member at a time, without copies of the members."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, weight)
        products = vectors.new_empty(vectors.shape[0], *weight.shape[:2])
        for i, place, matrix in _by_left(vectors, weight):
            torch.mul(_turned(vectors, i, matrix), vectors[:, i + 1 :], out=products[:, place])
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        vectors, weight = ctx.saved_tensors
        of_vectors, of_weight = torch.zeros_like(vectors), torch.empty_like(weight)
        for i, place, matrix in _by_left(vectors, weight):
            own = gradient[:, place]
            of_vectors[:, i + 1 :].addcmul_(own, _turned(vectors, i, matrix))
            of_turned = (own * vectors[:, i + 1 :]).flatten(1)
            of_vectors[:, i].addmm_(of_turned, matrix.t())
            of_weight[place] = (vectors[:, i].t() @ of_turned).view(-1, *own.shape[1:]).transpose(0, 1)
        return of_vectors, of_weight


def _by_left(vectors: Tensor, weight: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield each left member i, where its pairs stand, and their matrices side by side, (dim, pairs dim)."""
    begin = 0
    for i in range(vectors.shape[1] - 1):
        place = slice(begin, begin + vectors.shape[1] - 1 - i)
        yield i, place, weight[place].transpose(0, 1).flatten(1)
        begin = place.stop


def _turned(vectors: Tensor, i: int, matrix: Tensor) -> Tensor:
    """Return v_i W of the pairs of v_i, (B, pairs, dim)."""
    return (vectors[:, i] @ matrix).view(vectors.shape[0], -1, vectors.shape[2])

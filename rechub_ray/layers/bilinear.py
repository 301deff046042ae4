"""Products of pairs of vectors through learned matrices."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

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
            left, right = super().forward(vectors)
            return torch.bmm(left.transpose(0, 1), self.weight).transpose(0, 1) * right
        if self.kind == "field_all":
            turned = vectors @ self.weight[0]
        else:  # the last vector is no left member
            turned = torch.bmm(vectors[:, :-1].transpose(0, 1), self.weight).transpose(0, 1)
        return turned.index_select(1, self.left) * vectors.index_select(1, self.right)

"""Sums over all pairs of stacked vectors, weighted by the pair."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from rechub_ray.errors import SchemaError


class Pairs(nn.Module):
    """The members of each pair i < j of stacked things, in the order (0, 1), (0, 2), ..., (K-2, K-1).

    Args:
        count: K, the number of things, >= 2.

    Attributes:
        number: P = K (K - 1) / 2.

    Shapes:
        (B, K, ...) -> two of (B, P, ...)

    Raises:
        SchemaError: K is below 2.
    """

    left: Tensor
    right: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 2:
            raise SchemaError(
                "this model multiplies features with one another", expected="two features or more", got=count
            )
        found = list(combinations(range(count), 2))
        self.number = len(found)
        self.register_buffer("left", torch.tensor([i for i, _ in found], dtype=torch.int64), persistent=False)
        self.register_buffer("right", torch.tensor([j for _, j in found], dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.left), x.index_select(1, self.right)


class DotProducts(Pairs):
    """The dot product of each pair of stacked vectors.

    Shapes:
        (B, K, D) -> (B, P)
    """

    def forward(self, vectors: Tensor) -> Tensor:  # type: ignore[override]
        products = vectors @ vectors.transpose(1, 2)
        return products.flatten(1).index_select(1, self.left * vectors.shape[1] + self.right)


class WeightedPairs(nn.Module):
    """Dot products of all pairs with weights for each pair: `sum_{i<j} v_i^T W_ij v_j`.

    Takes memory for K vectors a row, not for their K^2 products: the weights are one matrix, which is multiplied by
    the vectors of a row first.

    Args:
        count: K, the number of vectors.
        dim: their width.
        weights: of a pair: a `scalar` (W = r I), a `vector` (W = diag(w)), or a `matrix`.

    Shapes:
        (B, K, D) -> (B,)

    Reference: Pan et al., Field-weighted Factorization Machines, arXiv 1806.03514 (scalars); Sun et al., FM^2:
    Field-matrixed Factorization Machines, arXiv 2102.12994 (matrices, vectors).
    """

    places: Tensor

    def __init__(self, count: int, dim: int, *, weights: Literal["scalar", "vector", "matrix"]) -> None:
        super().__init__()
        self.weights, self.count = weights, count
        pairs = list(combinations(range(count), 2))
        shape = {"scalar": (1,), "vector": (dim,), "matrix": (dim, dim)}[weights]
        self.weight = nn.Parameter(torch.empty(len(pairs), *shape))
        if pairs and weights == "matrix":
            for matrix in self.weight:
                nn.init.xavier_normal_(matrix)
        elif pairs:
            nn.init.xavier_normal_(self.weight)
        # where the weight of (i, j) stands; that of no pair is a row of zeros behind all
        place = {pair: at for at, pair in enumerate(pairs)}
        both = [place.get((i, j), len(pairs)) for i in range(count) for j in range(count)]
        self.register_buffer("places", torch.tensor(both, dtype=torch.int64), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        count, dim = self.count, vectors.shape[2]
        padded = torch.cat([self.weight, self.weight.new_zeros(1, *self.weight.shape[1:])])
        upper = padded.index_select(0, self.places)
        if self.weights == "matrix":
            blocks = upper.view(count, count, dim, dim).transpose(1, 2).reshape(count * dim, count * dim)
            flat = vectors.flatten(1)
            return ((flat @ blocks) * flat).sum(1)
        across = vectors.permute(2, 0, 1)  # (D, B, K)
        if self.weights == "vector":
            mixed = torch.bmm(across, upper.view(count, count, dim).permute(2, 0, 1))
        else:
            mixed = across @ upper.view(count, count)
        return (mixed * across).sum((0, 2))

"""Field-aware pairs under a multi-layer perceptron."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.field_aware import FieldAwareInput, FieldAwarePairs, field_aware_bank
from rechub_ray.layers.inputs import choose
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("deepffm")
class DeepFFM(DeepRanker):
    """A perceptron on the products of field-aware pairs: `logit = linear(x) + mlp([v_{i,j} o v_{j,i} for i < j])`.

    `v_{i,j}` is the vector of feature i that meets feature j; `o` is the product by elements, or the dot product.
    Tables are K - 1 times as wide as those of `deepfm`, with K features: see `field_aware_bank`. Numeric features take
    part in the linear term only.

    When to use: as `ffm`, with a perceptron above the pairs: few features, and memory to spare.

    Args:
        schema: the features; at least two that interact, of one width.
        embedding_dim: width of each vector, >= 1.
        product: `hadamard` (by elements) or `inner`.
        wide_features: names of the linear term's features; None takes all.
        fm_features: names of the features that interact; None takes all.
        **common: `hidden_units`, `activation`, `dropout`, `batch_norm`, `init_std`.

    Raises:
        SchemaError: features that differ in width, or fewer than two that interact.

    Reference: Zhang et al., FAT-DeepFFM: Field Attentive Deep Field-aware Factorization Machine, arXiv 1905.06336,
    DeepFFM. Deviations: numeric features have no factors; features that share a table share rows.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 4,
        product: Literal["hadamard", "inner"] = "hadamard",
        wide_features: list[str] | None = None,
        fm_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, embedding_dim=embedding_dim, **common)
        names = choose(schema, fm_features, key="fm_features")
        self.linear = self.first_order(choose(schema, wide_features, key="wide_features"), bias=False)
        self.embedding = field_aware_bank(schema, names, dim=embedding_dim, init_std=self.init_std)
        self.fm_input = FieldAwareInput(self.embedding)
        self.pairs = FieldAwarePairs(self.fm_input.count)
        self.product = product
        self.mlp = self.perceptron(self.pairs.number * (self.fm_input.width if product == "hadamard" else 1))

    def vectors(self, features: Features) -> Tensor:
        """Return all field-aware vectors, (B, K (K-1), D)."""
        found: Tensor = self.fm_input(self.embedding.flat(features))
        return found

    def forward(self, features: Features) -> Outputs:
        left, right = self.pairs(self.vectors(features))
        products = (left * right).flatten(1) if self.product == "hadamard" else torch.sum(left * right, 2)
        return {"logit": self.linear(features) + self.mlp(products).squeeze(1)}

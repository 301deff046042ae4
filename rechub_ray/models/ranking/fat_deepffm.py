"""DeepFFM with attention to the field-aware vectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.layers.compose_excitation import ComposeExcitation
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.deepffm import DeepFFM
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("fat_deepffm")
class FatDeepFFM(DeepFFM):
    """DeepFFM on vectors that are weighted first: `v_{i,j} <- s_{i,j} v_{i,j}`; see `ComposeExcitation` for s.

    When to use: as `deepffm`, where many of the vectors are noise.

    Args:
        schema: the features; at least two that interact, of one width.
        reduction_ratio: by which the layer between has fewer units than there are vectors, >= 1.
        **common: the arguments of `deepffm`.

    Raises:
        SchemaError: features that differ in width, or fewer than two that interact.

    Reference: Zhang et al., FAT-DeepFFM: Field Attentive Deep Field-aware Factorization Machine, arXiv 1905.06336,
    CENet, attention before the interactions, which the paper prefers to attention to the products.
    """

    def __init__(self, schema: Schema, *, reduction_ratio: PositiveInt = 4, **common: Any) -> None:
        super().__init__(schema, **common)
        count = self.fm_input.count
        self.attention = ComposeExcitation(count * (count - 1), self.fm_input.width, reduction_ratio)

    def vectors(self, features: Features) -> Tensor:
        weighted: Tensor = self.attention(super().vectors(features))
        return weighted

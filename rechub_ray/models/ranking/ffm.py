"""Field-aware factorisation machine."""

from __future__ import annotations

from typing import Any

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.field_aware import FieldAwareInput, FieldAwarePairs, field_aware_bank
from rechub_ray.layers.inputs import choose
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import Ranker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("ffm")
class FFM(Ranker):
    """A factorisation machine with a vector for each other feature: `logit = linear(x) + sum_{i<j} <v_{i,j}, v_{j,i}>`.

    `v_{i,j}` is the vector of feature i that meets feature j. Tables are K - 1 times as wide as those of `fm`, with K
    features: see `field_aware_bank`. Numeric features take part in the linear term only.

    When to use: few features, and memory to spare; with many features `fwfm` gives much of the same for a small part of
    the memory.

    Args:
        schema: the features; at least two that interact, of one width.
        embedding_dim: width of each vector, >= 1.
        fm_features: names of the features to use; None takes all.
        **common: `init_std`.

    Raises:
        SchemaError: features that differ in width, or fewer than two that interact.

    Reference: Juan et al., Field-aware Factorization Machines for CTR Prediction (RecSys 2016), eq. 4. Deviations:
    there are a linear term and a bias; numeric features have no factors; features that share a table share rows.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 4,
        fm_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, embedding_dim=embedding_dim, **common)
        names = choose(schema, fm_features, key="fm_features")
        self.linear = self.first_order(names, bias=True)
        self.embedding = field_aware_bank(schema, names, dim=embedding_dim, init_std=self.init_std)
        self.fm_input = FieldAwareInput(self.embedding)
        self.pairs = FieldAwarePairs(self.fm_input.count)

    def forward(self, features: Features) -> Outputs:
        left, right = self.pairs(self.fm_input(self.embedding.flat(features)))
        return {"logit": self.linear(features) + (left * right).sum((1, 2))}

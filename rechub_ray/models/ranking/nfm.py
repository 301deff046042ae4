"""Neural factorisation machine."""

from __future__ import annotations

from typing import Any

from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import VectorInput, choose
from rechub_ray.layers.mlp import Probability
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import Schema


@MODELS.register("nfm")
class NFM(DeepRanker):
    """A perceptron on the sum of all pairs: `logit = linear(x) + mlp(sum_{i<j} e_i * e_j)`.

    The sum is `((sum_i e_i)^2 - sum_i e_i^2) / 2`. Sparse features and pooled sequences interact; numeric features take
    part in the linear term only.

    When to use: many features, where a perceptron should be small: its input is one embedding wide, however many there
    are.

    Args:
        schema: the features; those that interact all have one width (no `embed_dim` of their own).
        interaction_dropout: of the sum of the pairs, in [0, 1).
        fm_features: names of the features to use; None takes all.
        **common: `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width.

    Reference: He and Chua, Neural Factorization Machines for Sparse Predictive Analytics, arXiv 1708.05027, eq. 3, 4
    and 7. Deviations: numeric features have no factors; the sum of the pairs is not batch-normalised.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        interaction_dropout: Probability = 0.0,
        fm_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, fm_features, key="fm_features")
        self.linear = self.first_order(names, bias=False)
        self.embedding = self.embed(names)
        self.fm_input = VectorInput(self.embedding, names)
        self.interaction_dropout = nn.Dropout(interaction_dropout)
        self.mlp = self.perceptron(self.fm_input.width)

    def forward(self, features: Features) -> Outputs:
        vectors = self.fm_input(self.embedding.flat(features))
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1))
        return {"logit": self.linear(features) + self.mlp(self.interaction_dropout(pairs)).squeeze(1)}

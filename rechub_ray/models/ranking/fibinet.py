"""Feature importance and bilinear interactions."""

from __future__ import annotations

from typing import Any

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.bilinear import Bilinear, BilinearKind
from rechub_ray.layers.inputs import Columns, VectorInput, choose
from rechub_ray.layers.squeeze_excitation import SqueezeExcitation
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("fibinet")
class FiBiNET(DeepRanker):
    """A perceptron on bilinear products of the embeddings, plain and weighted by importance.

    `logit = linear(x) + mlp([p(e), p(senet(e)), dense])` with `p(v) = [(v_i W) * v_j for i < j]`. One W serves both.

    When to use: features of very different worth; the perceptron's input grows with the square of their number.

    Args:
        schema: the features; at least two with embeddings, which all have one width (no `embed_dim` of their own).
        bilinear_type: `field_all` (one W), `field_each` (one for each left feature) or `field_interaction` (one for
            each pair).
        reduction_ratio: by which SENet's inner layer has fewer units than there are features, >= 1.
        deep_features: names of the features to use; None takes all.
        **common: `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width, or fewer than two with an embedding.

    Reference: Huang et al., FiBiNET, arXiv 1905.09433, section 3. Deviation: numeric features are not embedded.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        bilinear_type: BilinearKind = "field_interaction",
        reduction_ratio: PositiveInt = 3,
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.linear = self.first_order(names, bias=False)
        self.embedding = self.embed(names)
        self.vectors, self.numbers = VectorInput(self.embedding, names), Columns.of_dense(schema, names)
        count, dim = self.vectors.count, self.vectors.width
        self.senet = SqueezeExcitation(count, reduction_ratio=reduction_ratio)
        self.bilinear = Bilinear(count, dim, bilinear_type)
        self.mlp = self.perceptron(2 * self.bilinear.number * dim + self.numbers.width)

    def forward(self, features: Features) -> Outputs:
        vectors = self.vectors(self.embedding.flat(features))
        parts = [self.bilinear(vectors).flatten(1), self.bilinear(self.senet(vectors)).flatten(1)]
        if self.numbers.width:
            parts.append(self.numbers(features.dense))
        return {"logit": self.linear(features) + self.mlp(*parts).squeeze(1)}

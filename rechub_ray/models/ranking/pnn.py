"""Product-based neural network."""

from __future__ import annotations

from typing import Any, Literal

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import DeepInput, VectorInput, choose
from rechub_ray.layers.pairs import DotProducts
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import Schema


@MODELS.register("pnn")
class PNN(DeepRanker):
    """A perceptron on the embeddings and their products: `logit = mlp([e_1, ..., e_K, dense, p])`.

    p is `<e_i, e_j>` for each pair i < j (`inner`, the paper's IPNN), or the outer product `s s^T` of the sum s of the
    embeddings (`outer`, OPNN), or both. Numeric features take part beside the products.

    When to use: where products should pass through the perceptron rather than beside it; `outer` is the cheaper one
    with many features.

    Args:
        schema: the features; those with embeddings all have one width (no `embed_dim` of their own).
        product: `inner`, `outer` or `both`.
        deep_features: names of the features to use; None takes all.
        **common: `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width.

    Reference: Qu et al., Product-based Neural Networks for User Response Prediction, arXiv 1611.00144, IPNN and
    OPNN (superposition). Deviation: the products' weights are those of the first hidden layer, not factorised.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        product: Literal["inner", "outer", "both"] = "inner",
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.deep_input = DeepInput(schema, self.embedding, names)
        self.vectors = VectorInput(self.embedding, names)
        self.pairs = DotProducts(self.vectors.count) if product != "outer" else None
        self.product = product
        inner = self.pairs.number if self.pairs is not None else 0
        outer = self.vectors.width**2 if product != "inner" else 0
        self.mlp = self.perceptron(self.deep_input.width + inner + outer)

    def forward(self, features: Features) -> Outputs:
        flat = self.embedding.flat(features)
        parts, vectors = self.deep_input.parts(flat, features.dense), self.vectors(flat)
        if self.pairs is not None:
            parts.append(self.pairs(vectors))
        if self.product != "inner":
            total = vectors.sum(1)
            parts.append((total.unsqueeze(2) * total.unsqueeze(1)).flatten(1))
        return {"logit": self.mlp(*parts).squeeze(1)}

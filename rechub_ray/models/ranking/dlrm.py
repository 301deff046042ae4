"""Deep Learning Recommendation Model."""

from __future__ import annotations

from typing import Any, Literal

import torch

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import Columns, VectorInput, choose
from rechub_ray.layers.mlp import MLP, HiddenUnits
from rechub_ray.layers.pairs import DotProducts
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import Schema


@MODELS.register("dlrm")
class DLRM(DeepRanker):
    """A perceptron on dot products of embeddings and of the numeric features' vector.

    `logit = top([z, <z_i, z_j> for i < j])` with `z = bottom(dense)` in front, and `z_1, ...` = z and the embeddings;
    with `interaction: cat`, `top([z, e_1, ..., e_K])`. `hidden_units` are those of the top part.

    When to use: numeric features beside categorical ones, at high throughput: no part but perceptrons and dot products.

    Args:
        schema: the features; those with embeddings all have one width (no `embed_dim` of their own).
        interaction: `dot`, or `cat`, which leaves interactions to the top part.
        bottom_units: widths of the hidden layers before the numeric features' vector, which has the embeddings' width.
            Without numeric features there is no bottom part.
        deep_features: names of the features to use; None takes all.
        **common: `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width, or none with an embedding.

    Reference: Naumov et al., Deep Learning Recommendation Model, arXiv 1906.00091, section 2.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        interaction: Literal["dot", "cat"] = "dot",
        bottom_units: HiddenUnits = (64,),
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.vectors, self.numbers = VectorInput(self.embedding, names), Columns.of_dense(schema, names)
        count, dim = self.vectors.count, self.vectors.width
        self.bottom: MLP | None = None
        if self.numbers.width:
            self.bottom = MLP(self.numbers.width, (*bottom_units, dim), **self.hidden)
            count += 1
        self.pairs = DotProducts(count) if interaction == "dot" else None
        own = 0 if self.bottom is None else dim
        self.mlp = self.perceptron(own + self.pairs.number if self.pairs is not None else count * dim)

    def forward(self, features: Features) -> Outputs:
        vectors, parts = self.vectors(self.embedding.flat(features)), []
        if self.bottom is not None:
            parts = [self.bottom(self.numbers(features.dense))]
            vectors = torch.cat([parts[0].unsqueeze(1), vectors], 1)
        if self.pairs is None:
            parts = [vectors.flatten(1)]
        else:
            parts.append(self.pairs(vectors))
        return {"logit": self.mlp(*parts).squeeze(1)}

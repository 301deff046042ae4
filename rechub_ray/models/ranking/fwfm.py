"""Field-weighted factorisation machine."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import VectorInput, choose
from rechub_ray.layers.pairs import WeightedPairs
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import Ranker
from rechub_ray.schema import Schema


@MODELS.register("fwfm")
class FwFM(Ranker):
    """A factorisation machine with a weight for each pair of features: `logit = linear(x) + sum_{i<j} r_ij <e_i, e_j>`.

    Sparse features and pooled sequences interact; numeric features take part in the linear term only.

    When to use: as `fm`, where some pairs of features matter much more than others; it costs one more number a pair.

    Args:
        schema: the features; those that interact all have one width (no `embed_dim` of their own).
        linear: the linear term of the features that interact: `lw`, a weight for each id; `felv`, `sum_i <e_i, w_i>`
            with a vector w for each id; `filv`, with one for each feature.
        fm_features: names of the features to use; None takes all.
        **common: `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width.

    Reference: Pan et al., Field-weighted Factorization Machines, arXiv 1806.03514, section 3. Deviation:
    numeric features have no factors.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        linear: Literal["lw", "felv", "filv"] = "filv",
        fm_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, fm_features, key="fm_features")
        own = names if linear == "lw" else [f.name for f in schema.dense if f.name in names]
        self.linear = self.first_order(own, bias=True)
        self.embedding = self.embed(names)
        self.fm_input = VectorInput(self.embedding, names)
        self.interaction = WeightedPairs(self.fm_input.count, self.fm_input.width, weights="scalar")
        self.linear_embedding = self.embed(names, name="linear") if linear == "felv" else None
        self.field_weight: nn.Parameter | None = None
        if linear == "filv":
            self.field_weight = nn.Parameter(torch.empty(self.fm_input.count, self.fm_input.width))
            nn.init.xavier_normal_(self.field_weight)

    def forward(self, features: Features) -> Outputs:
        vectors = self.fm_input(self.embedding.flat(features))
        logit = self.linear(features) + self.interaction(vectors)
        if self.linear_embedding is not None:
            logit = logit + (vectors * self.fm_input(self.linear_embedding.flat(features))).sum((1, 2))
        if self.field_weight is not None:
            logit = logit + (vectors * self.field_weight).sum((1, 2))
        return {"logit": logit}

"""Field-matrixed factorisation machine."""

from __future__ import annotations

from typing import Any, Literal

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import VectorInput, choose
from rechub_ray.layers.pairs import WeightedPairs
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import Ranker
from rechub_ray.schema import Schema


@MODELS.register("fmfm")
class FmFM(Ranker):
    """A factorisation machine with a matrix for each pair of features: `logit = linear(x) + sum_{i<j} e_i^T W_ij e_j`.

    Sparse features and pooled sequences interact; numeric features take part in the linear term only.

    When to use: as `fwfm`, with room for the embeddings to mean different things to different features.

    Args:
        schema: the features; those that interact all have one width (no `embed_dim` of their own).
        interaction: what W_ij is: a `matrix`, or a diagonal one (`vector`).
        fm_features: names of the features to use; None takes all.
        **common: `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width.

    Reference: Sun et al., FM^2: Field-matrixed Factorization Machines, arXiv 2102.12994, section 3. Deviations: numeric
    features have no factors; all embeddings have one width.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        interaction: Literal["matrix", "vector"] = "matrix",
        fm_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, fm_features, key="fm_features")
        self.linear = self.first_order(names, bias=True)
        self.embedding = self.embed(names)
        self.fm_input = VectorInput(self.embedding, names)
        self.interaction = WeightedPairs(self.fm_input.count, self.fm_input.width, weights=interaction)

    def forward(self, features: Features) -> Outputs:
        vectors = self.fm_input(self.embedding.flat(features))
        return {"logit": self.linear(features) + self.interaction(vectors)}

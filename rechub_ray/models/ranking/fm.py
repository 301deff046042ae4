"""Factorisation machine."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.first_order import FirstOrder
from rechub_ray.layers.fm import FMInteraction
from rechub_ray.layers.inputs import VectorInput, choose, embedded
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("fm")
class FM(Model):
    """A weight for each feature and a dot product for each pair: `logit = linear(x) + sum_{i<j} <e_i, e_j>`.

    Sparse features and pooled sequences interact; numeric features take part in the linear term only.

    When to use: the second baseline: all pairs of features, in time and memory that grow with their number and not with
    its square.

    Args:
        schema: the features; those that interact all have one width (no `embed_dim` of their own).
        embedding_dim: width of the embeddings, >= 1.
        fm_features: names of the features to use; None takes all.
        init_std: standard deviation of the initial embeddings and weights of ids, >= 0.

    Shapes:
        `logit` (B,)

    Raises:
        SchemaError: features that differ in width.

    Reference: Rendle, Factorization Machines (ICDM 2010), eq. 1. Deviation: numeric features have no factors.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        fm_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        names = choose(schema, fm_features, key="fm_features")
        self.linear = FirstOrder(schema, names, bias=True, init_std=init_std)
        self.embedding = EmbeddingBank(schema, dim=embedding_dim, features=embedded(schema, names), init_std=init_std)
        self.fm_input = VectorInput(self.embedding, names)
        self.interaction = FMInteraction()

    def forward(self, features: Features) -> Outputs:
        vectors = self.fm_input(self.embedding.flat(features))
        return {"logit": self.linear(features) + self.interaction(vectors)}

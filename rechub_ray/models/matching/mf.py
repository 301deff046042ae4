"""Matrix factorisation."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.errors import ConfigError
from rechub_ray.layers.embedding import EmbeddingBank, EmbeddingView
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("mf", "matrix_factorization", "matrix_factorisation")
class MF(Retriever):
    """A vector of each user and of each item: `score = p_u q_i`, or `p_u q_i + b_i` with biases.

    With biases the vectors are `[p_u, 1]` and `[q_i, b_i]`. A bias of the user would add the same to all items, so that
    it changes no ranking, and no loss that compares items.

    When to use: the baseline: users and items that training knows, and nothing else of them.

    Args:
        schema: the features; has items. Only the user's and the item's ids are read.
        embedding_dim: width D of p and q, where the features have no `embed_dim` of their own, >= 1.
        user_feature: the sparse feature that names the user; None takes the only one of the rows beside the item's id.
        biases: whether there is a b, which starts at 0.
        init_std: standard deviation of the initial p and q, >= 0.

    Shapes:
        `user` (B, D), `item` (C, D); one number more with biases

    Raises:
        SchemaError: the schema has no items.
        ConfigError: `user_feature` is no sparse feature of the rows, has another width than the item's id, or is left
            out where several could be meant.

    Reference: Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems (IEEE Computer 2009),
    eq. 1, with biases 4.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 64,
        user_feature: str | None = None,
        biases: bool = False,
        init_std: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        super().__init__(schema)
        names, item = [feature.name for feature in self.user_schema.sparse], self.item_schema.sparse[0].name
        if user_feature is None and len(names) == 1:
            (user_feature,) = names
        if user_feature is None or user_feature not in names:
            raise ConfigError(
                "'model.user_feature': which feature names the user is not clear"
                if user_feature is None
                else f"'model.user_feature' is '{user_feature}'",
                expected=f"a sparse feature: {', '.join(names) or 'the rows have none beside the id of the item'}",
            )
        self.embed([user_feature], [item], dim=embedding_dim, init_std=init_std)
        if self.user_input.width != self.item_input.width:
            raise ConfigError(
                f"'{user_feature}' and '{item}' are multiplied with one another, so they need one width",
                got=f"{self.user_input.width} and {self.item_input.width}",
                hint="Drop `embed_dim` from the schema.",
            )
        self.item_biases: EmbeddingView | None = None
        if biases:
            self.bias_embedding = EmbeddingBank(schema.joined, dim=1, features=[item], init_std=0, name="bias")
            self.item_biases = self.bias_embedding.view(self.item_schema, [item])

    def user_vectors(self, features: Features) -> Tensor:
        vectors = self.user_embedding.flat(features)
        return vectors if self.item_biases is None else torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)

    def item_vectors(self, items: Features) -> Tensor:
        vectors = self.item_embedding.flat(items)
        return vectors if self.item_biases is None else torch.cat([vectors, self.item_biases.flat(items)], 1)

"""Two towers of perceptrons."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.inputs import choose
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.base import Retriever, Similarity
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("dssm")
class DSSM(Retriever):
    """Two perceptrons, of the user's features and of the item's, that end in vectors of one width.

    With the features side by side, `u = mlp_user([e_1, ..., e_K, dense])` and `v = mlp_item([e_1, ..., e_L, dense])`;
    sequences are pooled.

    When to use: features on both sides: it answers new users and new items by what is known of them.

    Args:
        schema: the features; has items.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        vector_dim: width D of the vectors, >= 1.
        user_units: widths of the user tower's hidden layers.
        item_units: widths of the item tower's hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised. In the item tower that is by the items of training
            steps, of which the popular ones are many, while all items are served.
        linear_end: whether the vectors are one more linear layer of the last hidden one; False makes them a hidden
            layer themselves, with its batch norm, activation and dropout.
        user_features: names of the user tower's features; None takes all of the rows but the item's id.
        item_features: names of the item tower's features; None takes the id and all of the item table.
        similarity: `cosine` divides the vectors by their lengths; `dot` leaves them.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.

    Reference: Huang et al., Learning Deep Structured Semantic Models for Web Search using Clickthrough Data (CIKM
    2013), eq. 1 to 4. Deviations: embeddings in place of hashed words, and no activation after the last layer.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        vector_dim: PositiveInt = 64,
        user_units: HiddenUnits = (256, 128),
        item_units: HiddenUnits = (256, 128),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        linear_end: bool = True,
        user_features: list[str] | None = None,
        item_features: list[str] | None = None,
        similarity: Similarity = "cosine",
        init_std: Annotated[float, Ge(0)] = 0.01,
    ) -> None:
        super().__init__(schema, similarity=similarity)
        self.embed(
            choose(self.user_schema, user_features, key="user_features"),
            choose(self.item_schema, item_features, key="item_features"),
            dim=embedding_dim,
            init_std=init_std,
        )
        self.user_mlp, self.item_mlp = (
            MLP(
                width,
                units if linear_end else (*units, vector_dim),
                output_dim=vector_dim if linear_end else None,
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            for width, units in ((self.user_input.width, user_units), (self.item_input.width, item_units))
        )

    def user_vectors(self, features: Features) -> Tensor:
        return self.scaled(self.user_mlp(*self.read_user(features)))

    def item_vectors(self, items: Features) -> Tensor:
        return self.scaled(self.item_mlp(*self.read_items(items)))

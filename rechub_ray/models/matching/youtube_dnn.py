"""A perceptron of the user above one vector an item."""

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


@MODELS.register("youtube_dnn", "youtubednn")
class YoutubeDNN(Retriever):
    """A perceptron of the user's features that ends in the width of the items' embeddings, which are their vectors.

    With the user's features side by side, `u = mlp([e_1, ..., e_K, dense])`, where sequences are pooled; an item's
    vector v is its row in the table of its id, and its other features are not read.

    When to use: users by features and pooled histories, items by their ids alone.

    Args:
        schema: the features; has items.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1; that of the item's id
            is the width D of the vectors.
        hidden_units: widths of the hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        user_features: names of the user tower's features; None takes all of the rows but the item's id.
        similarity: `cosine` divides the vectors by their lengths; `dot` leaves them.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.

    Reference: Covington et al., Deep Neural Networks for YouTube Recommendations (RecSys 2016), section 3. Deviations:
    a history that shares the table of the items' ids reads the same vectors that users are compared with, and there is
    one more layer, without activation, from the last hidden one to the vector.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 64,
        hidden_units: HiddenUnits = (256, 128),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        user_features: list[str] | None = None,
        similarity: Similarity = "dot",
        init_std: Annotated[float, Ge(0)] = 0.01,
    ) -> None:
        super().__init__(schema, similarity=similarity)
        users = choose(self.user_schema, user_features, key="user_features")
        self.embed(users, [self.item_schema.sparse[0].name], dim=embedding_dim, init_std=init_std)
        self.mlp = MLP(
            self.user_input.width,
            hidden_units,
            output_dim=self.item_input.width,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )

    def user_vectors(self, features: Features) -> Tensor:
        return self.scaled(self.mlp(*self.read_user(features)))

    def item_vectors(self, items: Features) -> Tensor:
        return self.scaled(self.item_embedding.flat(items))

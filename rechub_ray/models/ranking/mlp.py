"""Embeddings under a multi-layer perceptron."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import DeepInput, choose, embedded
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("mlp")
class MLPRanker(Model):
    """A multi-layer perceptron on all features side by side: `logit = mlp([e_1, ..., e_K, dense])`.

    When to use: the baseline of the deep models, and the one for data that is mainly numbers and sequences.

    Args:
        schema: the features.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        hidden_units: widths of the hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        deep_features: names of the features to use; None takes all.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        `logit` (B,)

    Reference: Covington et al., Deep Neural Networks for YouTube Recommendations (RecSys 2016), section 4, the ranking
    network with one pooled vector for each sequence.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        hidden_units: HiddenUnits = (256, 128),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        deep_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = EmbeddingBank(schema, dim=embedding_dim, features=embedded(schema, names), init_std=init_std)
        self.deep_input = DeepInput(schema, self.embedding, names)
        self.mlp = MLP(
            self.deep_input.width,
            hidden_units,
            output_dim=1,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )

    def forward(self, features: Features) -> Outputs:
        parts = self.deep_input.parts(self.embedding.flat(features), features.dense)
        return {"logit": self.mlp(*parts).squeeze(1)}

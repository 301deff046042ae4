"""Wide & Deep."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.first_order import FirstOrder
from rechub_ray.layers.inputs import DeepInput, choose, embedded
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("wide_deep")
class WideDeep(Model):
    """A linear model that remembers and a deep one that generalises: `logit = linear(x) + mlp([e_1, ..., e_K, dense])`.

    When to use: where single ids, or crossed columns of the data, say much by themselves, and a perceptron shall add
    the rest.

    Args:
        schema: the features.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        hidden_units: widths of the hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        wide_features: names of the linear part's features; None takes all.
        deep_features: names of the deep part's features; None takes all.
        init_std: standard deviation of the initial embeddings and weights of ids, >= 0.

    Shapes:
        `logit` (B,)

    Reference: Cheng et al., Wide & Deep Learning for Recommender Systems, arXiv 1606.07792, eq. 3. Deviation: crossed
    features are columns of the data, not made by the model.
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
        wide_features: list[str] | None = None,
        deep_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        wide = choose(schema, wide_features, key="wide_features")
        deep = choose(schema, deep_features, key="deep_features")
        self.linear = FirstOrder(schema, wide, bias=False, init_std=init_std)
        self.embedding = EmbeddingBank(schema, dim=embedding_dim, features=embedded(schema, deep), init_std=init_std)
        self.deep_input = DeepInput(schema, self.embedding, deep)
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
        return {"logit": self.linear(features) + self.mlp(*parts).squeeze(1)}

"""DeepFM."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.first_order import FirstOrder
from rechub_ray.layers.fm import FMInteraction
from rechub_ray.layers.inputs import DeepInput, VectorInput, choose, embedded
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("deepfm")
class DeepFM(Model):
    """A factorisation machine and a deep part on the same embeddings.

    `logit = linear(x) + sum_{i<j} <e_i, e_j> + mlp([e_1, ..., e_K, dense])`. Sparse features and pooled sequences
    interact; numeric features take part in the linear term and the deep part.

    When to use: the first deep model to try: pairs and a perceptron on one set of embeddings, and few settings.

    Args:
        schema: the features; those of `fm_features` that interact all have the width `embedding_dim`.
        embedding_dim: width of the embeddings, >= 1; features of the deep part alone may have their own `embed_dim`.
        hidden_units: widths of the hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        fm_features: names of the features of the linear term and the interactions; None takes all.
        deep_features: names of the deep part's features; None takes all.
        init_std: standard deviation of the initial embeddings and weights of ids, >= 0.

    Shapes:
        `logit` (B,)

    Raises:
        SchemaError: interacting features that differ in width.

    Reference: Guo et al., DeepFM, arXiv 1703.04247, eq. 1. Deviation: numeric features are not embedded.
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
        fm_features: list[str] | None = None,
        deep_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        fm = choose(schema, fm_features, key="fm_features")
        deep = choose(schema, deep_features, key="deep_features")
        self.linear = FirstOrder(schema, fm, bias=False, init_std=init_std)
        self.embedding = EmbeddingBank(
            schema, dim=embedding_dim, features=embedded(schema, [*fm, *deep]), init_std=init_std
        )
        self.fm_input = VectorInput(self.embedding, fm)
        self.interaction = FMInteraction()
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
        flat = self.embedding.flat(features)
        # before the deep part: autograd then adds the pairs' gradient to the deep part's in place, one pass less
        pairs = self.interaction(self.fm_input(flat))
        deep = self.mlp(*self.deep_input.parts(flat, features.dense)).squeeze(1)
        return {"logit": self.linear(features) + pairs + deep}

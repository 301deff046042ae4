"""Shared bottom."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import DeepInput, choose, embedded
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.layers.towers import Towers
from rechub_ray.models.base import MODELS, Model
from rechub_ray.outputs import OutputKind
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("shared_bottom")
class SharedBottom(Model):
    """One perceptron for all labels, and a tower for each: `y_t = tower_t(bottom([e_1, ..., e_K, dense]))`.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        bottom_units: widths of the shared layers.
        tower_units: widths of each tower's hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        deep_features: names of the features to use; None takes all.
        heads: by label, the kind of its output; filled in from the losses where it is left out.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        an output a label, (B,), or (B, C) of a multiclass one

    Raises:
        SchemaError: the schema has no label.

    Reference: Caruana, Multitask Learning (Machine Learning 28, 1997), in the form of Ma et al., Modeling Task
    Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (KDD 2018), eq. 1.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        bottom_units: HiddenUnits = (256, 128),
        tower_units: HiddenUnits = (64,),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        deep_features: list[str] | None = None,
        heads: dict[str, OutputKind] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = EmbeddingBank(schema, dim=embedding_dim, features=embedded(schema, names), init_std=init_std)
        self.deep_input = DeepInput(schema, self.embedding, names)
        self.bottom = MLP(
            self.deep_input.width, bottom_units, activation=activation, dropout=dropout, batch_norm=batch_norm
        )
        self.towers = Towers(
            schema,
            self.bottom.width,
            tower_units,
            heads=heads,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.outputs = self.towers.outputs

    def forward(self, features: Features) -> Outputs:
        x = self.bottom(*self.deep_input.parts(self.embedding.flat(features), features.dense))
        outputs: Outputs = self.towers([x] * len(self.outputs))
        return outputs

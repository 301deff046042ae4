"""Multi-gate mixture of experts."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.experts import Experts, Gate
from rechub_ray.layers.inputs import DeepInput, choose, embedded
from rechub_ray.layers.mlp import HiddenUnits, Probability
from rechub_ray.layers.towers import Towers
from rechub_ray.models.base import MODELS, Model
from rechub_ray.outputs import OutputKind
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("mmoe")
class MMoE(Model):
    """Experts that all labels share, mixed for each label by a gate of its own.

    With x = [e_1, ..., e_K, dense]: `y_t = tower_t(sum_i softmax(W_t x)_i expert_i(x))`.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        num_experts: >= 1.
        expert_units: widths of each expert's layers.
        tower_units: widths of each tower's hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers of experts and towers, in [0, 1).
        batch_norm: whether the hidden layers of experts and towers are batch-normalised.
        deep_features: names of the features to use; None takes all.
        heads: by label, the kind of its output; filled in from the losses where it is left out.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        an output a label, (B,), or (B, C) of a multiclass one

    Raises:
        SchemaError: the schema has no label.

    Reference: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (KDD
    2018), eq. 6 and 7.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        num_experts: PositiveInt = 8,
        expert_units: HiddenUnits = (256, 128),
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
        width = self.deep_input.width
        self.experts = Experts(
            width, expert_units, count=num_experts, activation=activation, dropout=dropout, batch_norm=batch_norm
        )
        self.towers = Towers(
            schema,
            self.experts.width,
            tower_units,
            heads=heads,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        for tower in self.towers.each:
            tower["gate"] = Gate(width, num_experts)
        self.outputs = self.towers.outputs

    def forward(self, features: Features) -> Outputs:
        x = self.deep_input(self.embedding.flat(features), features.dense)
        experts = self.experts(x)
        outputs: Outputs = self.towers([tower["gate"](x, experts) for tower in self.towers.each])
        return outputs

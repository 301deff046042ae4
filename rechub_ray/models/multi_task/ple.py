"""Progressive layered extraction."""

from __future__ import annotations

import functools
from typing import Annotated

import torch
from annotated_types import Ge
from torch import nn

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


@MODELS.register("ple")
class PLE(Model):
    """Levels of experts, some of one label and some shared, which gates mix from level to level.

    With h_t = h_s = [e_1, ..., e_K, dense] at first, each level computes its experts E_t(h_t), E_s(h_s), and

        h_t <- the mean of [E_t; E_s] by softmax(W_t h_t)
        h_s <- the mean of [E_1; ...; E_T; E_s] by softmax(W_s h_s), except at the last level

    from the h of the level before; then `y_t = tower_t(h_t)`. One level is the paper's CGC.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        num_layers: levels, >= 1.
        num_experts: experts of one label, a label and level, >= 1.
        num_shared_experts: shared experts a level, >= 1.
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

    Reference: Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
    Personalized Recommendations (RecSys 2020), eq. 1 to 6 and figure 5.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        num_layers: PositiveInt = 2,
        num_experts: PositiveInt = 2,
        num_shared_experts: PositiveInt = 2,
        expert_units: HiddenUnits = (128,),
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
        experts = functools.partial(
            Experts, hidden_units=expert_units, activation=activation, dropout=dropout, batch_norm=batch_norm
        )
        first = self.deep_input.width
        last = (first, *expert_units)[-1]
        self.towers = Towers(
            schema, last, tower_units, heads=heads, activation=activation, dropout=dropout, batch_norm=batch_norm
        )
        self.shared = nn.ModuleDict()
        self.num_layers = num_layers
        for level in range(num_layers):
            width = last if level else first
            self.shared[f"experts_{level}"] = experts(width, count=num_shared_experts)
            for tower in self.towers.each:
                tower[f"experts_{level}"] = experts(width, count=num_experts)
                tower[f"gate_{level}"] = Gate(width, num_experts + num_shared_experts)
            if level < num_layers - 1:
                count = num_experts * len(self.towers) + num_shared_experts
                self.shared[f"gate_{level}"] = Gate(width, count)
        self.outputs = self.towers.outputs

    def forward(self, features: Features) -> Outputs:
        shared = self.deep_input(self.embedding.flat(features), features.dense)
        towers = self.towers.each
        own = [shared] * len(towers)
        for level in range(self.num_layers):
            common = self.shared[f"experts_{level}"](shared)
            experts = [tower[f"experts_{level}"](h) for tower, h in zip(towers, own, strict=True)]
            own = [
                tower[f"gate_{level}"](h, torch.cat([e, common], 1))
                for tower, h, e in zip(towers, own, experts, strict=True)
            ]
            if level < self.num_layers - 1:
                shared = self.shared[f"gate_{level}"](shared, torch.cat([*experts, common], 1))
        outputs: Outputs = self.towers(own)
        return outputs

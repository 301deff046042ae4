"""Progressive layered extraction."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.experts import Experts, Gate
from rechub_ray.layers.mlp import HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.multi_task.base import MultiTaskModel
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("ple")
class PLE(MultiTaskModel):
    """Levels of experts, some of one label and some shared, which gates mix from level to level.

    With h_t = h_s = [e_1, ..., e_K, dense] at first, each level computes its experts E_t(h_t), E_s(h_s), and

        h_t <- the mean of [E_t; E_s] by softmax(W_t h_t)
        h_s <- the mean of [E_1; ...; E_T; E_s] by softmax(W_s h_s), except at the last level

    from the h of the level before; then `y_t = tower_t(h_t)`. One level is the paper's CGC.

    When to use: tasks that gain at each other's cost under `mmoe`: each keeps experts of its own.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        num_layers: levels, >= 1.
        num_experts: experts of one label, a label and level, >= 1.
        num_shared_experts: shared experts a level, >= 1.
        expert_units: widths of each expert's layers.
        common: `embedding_dim`, `tower_units`, `activation`, `dropout`, `batch_norm`, `deep_features`, `heads` and
            `init_std`, as in `MultiTaskModel`.

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
        num_layers: PositiveInt = 2,
        num_experts: PositiveInt = 2,
        num_shared_experts: PositiveInt = 2,
        expert_units: HiddenUnits = (128,),
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        experts = functools.partial(Experts, hidden_units=expert_units, **self.hidden)
        last = (self.width, *expert_units)[-1]
        self.add_towers(last)
        self.shared = nn.ModuleDict()
        self.num_layers = num_layers
        for level in range(num_layers):
            width = last if level else self.width
            self.shared[f"experts_{level}"] = experts(input_dim=width, count=num_shared_experts)
            for tower in self.towers.each:
                tower[f"experts_{level}"] = experts(input_dim=width, count=num_experts)
                tower[f"gate_{level}"] = Gate(width, num_experts + num_shared_experts)
            if level < num_layers - 1:
                count = num_experts * len(self.towers) + num_shared_experts
                self.shared[f"gate_{level}"] = Gate(width, count)

    def forward(self, features: Features) -> Outputs:
        shared = self.read(features)
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

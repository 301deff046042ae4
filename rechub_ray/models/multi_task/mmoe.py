"""Multi-gate mixture of experts."""

from __future__ import annotations

from typing import Any

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.experts import Experts, Gate
from rechub_ray.layers.mlp import HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.multi_task.base import MultiTaskModel
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("mmoe")
class MMoE(MultiTaskModel):
    """Experts that all labels share, mixed for each label by a gate of its own.

    With x = [e_1, ..., e_K, dense]: `y_t = tower_t(sum_i softmax(W_t x)_i expert_i(x))`.

    When to use: tasks that differ; the usual first choice of the models with experts.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        num_experts: >= 1.
        expert_units: widths of each expert's layers.
        common: `embedding_dim`, `tower_units`, `activation`, `dropout`, `batch_norm`, `deep_features`, `heads` and
            `init_std`, as in `MultiTaskModel`.

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
        num_experts: PositiveInt = 8,
        expert_units: HiddenUnits = (256, 128),
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.experts = Experts(self.width, expert_units, count=num_experts, **self.hidden)
        self.add_towers(self.experts.width)
        for tower in self.towers.each:
            tower["gate"] = Gate(self.width, num_experts)

    def forward(self, features: Features) -> Outputs:
        x = self.read(features)
        experts = self.experts(x)
        outputs: Outputs = self.towers([tower["gate"](x, experts) for tower in self.towers.each])
        return outputs

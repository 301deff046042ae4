"""Shared bottom."""

from __future__ import annotations

from typing import Any

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.mlp import MLP, HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.multi_task.base import MultiTaskModel
from rechub_ray.schema import Schema


@MODELS.register("shared_bottom")
class SharedBottom(MultiTaskModel):
    """One perceptron for all labels, and a tower for each: `y_t = tower_t(bottom([e_1, ..., e_K, dense]))`.

    When to use: the baseline of several tasks, and enough where they are much alike.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        bottom_units: widths of the shared layers.
        common: `embedding_dim`, `tower_units`, `activation`, `dropout`, `batch_norm`, `deep_features`, `heads` and
            `init_std`, as in `MultiTaskModel`.

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
        bottom_units: HiddenUnits = (256, 128),
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.bottom = MLP(self.width, bottom_units, **self.hidden)
        self.add_towers(self.bottom.width)

    def forward(self, features: Features) -> Outputs:
        x = self.bottom(*self.deep_input.parts(self.embedding.flat(features), features.dense))
        outputs: Outputs = self.towers([x] * len(self.outputs))
        return outputs

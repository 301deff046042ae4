"""Adaptive information transfer multi-task model."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.multi_task.base import MultiTaskModel
from rechub_ray.outputs import Output
from rechub_ray.schema import Schema


@MODELS.register("aitm")
class AITM(MultiTaskModel):
    """Labels in the order of a conversion: each takes over what the one before has found out, as much as helps it.

    With x = [e_1, ..., e_K, dense] and each label's own layers q_t = bottom_t(x): z_1 = q_1, and for the others

        p_t = info_t(z_{t-1});  z_t = the mean of value(p_t), value(q_t) by softmax(<query(u), key(u)> / sqrt(width))
        y_t = tower_t(z_t)

    A conversion is no likelier than the step before it. What predictions say against that is minimised too, as the
    model's own loss `calibrator`: `calibrator_weight * sum_t mean max(p(t) - p(t-1), 0)` over all rows, of neighbouring
    labels that are both binary. Set `calibrator_weight` to 0 where the labels are no such chain.

    When to use: steps of a conversion, where each step is rarer than the one before and learns from it.

    Args:
        schema: the features, and the labels, in the order of the conversion; they may be of different kinds.
        bottom_units: widths of each label's own layers below the transfer.
        calibrator_weight: factor of the calibrator, >= 0.
        common: `embedding_dim`, `tower_units`, `activation`, `dropout`, `batch_norm`, `deep_features`, `heads` and
            `init_std`, as in `MultiTaskModel`.

    Shapes:
        an output a label, (B,), or (B, C) of a multiclass one; `calibrator` ()

    Raises:
        SchemaError: the schema has no label.

    Reference: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task
    Learning in Targeted Display Advertising, arXiv 2105.08489: its AIT module and its behavioral expectation
    calibrator (alpha = 0.6). info_t is one layer with its activation, and the projections have no bias, as in the
    authors' code.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        bottom_units: HiddenUnits = (256, 128),
        calibrator_weight: Annotated[float, Ge(0)] = 0.6,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        width = (self.width, *bottom_units)[-1]
        self.add_towers(width)
        for i, tower in enumerate(self.towers.each):
            tower["bottom"] = MLP(self.width, bottom_units, **self.hidden)
            if i > 0:
                tower["info"] = MLP(width, (width,), **{**self.hidden, "batch_norm": False})
                tower["transfer"] = _Transfer(width)
        is_binary = [
            label.kind == "binary" and o.kind == "logit" for label, o in zip(schema.labels, self.outputs, strict=True)
        ]
        self._steps = [
            (before.name, after.name)
            for (before, one), (after, other) in pairwise(zip(self.outputs, is_binary, strict=True))
            if one and other
        ]
        self.calibrator_weight = calibrator_weight
        if self._steps and calibrator_weight > 0:
            self.outputs = (*self.outputs, Output("calibrator", "loss"))

    def forward(self, features: Features) -> Outputs:
        x = self.read(features)
        found: list[Tensor] = []
        for tower in self.towers.each:
            own = tower["bottom"](x)
            found.append(tower["transfer"](tower["info"](found[-1]), own) if found else own)
        outputs: Outputs = self.towers(found)
        if self._steps and self.calibrator_weight > 0:
            above = [torch.sigmoid(outputs[after]) - torch.sigmoid(outputs[before]) for before, after in self._steps]
            outputs["calibrator"] = self.calibrator_weight * torch.stack(above).relu().mean(1).sum()
        return outputs


class _Transfer(nn.Module):
    """The mean of the values of p and q, weighted by attention of each to itself.

    Shapes:
        p and q (B, width) -> (B, width)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.query, self.key = (Linear(width, width, bias=False) for _ in range(3))

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        both = torch.stack([p, q], 1)
        scores = (self.query(both) * self.key(both)).sum(2) / math.sqrt(p.shape[1])
        mean: Tensor = (torch.softmax(scores, 1).unsqueeze(2) * self.value(both)).sum(1)
        return mean

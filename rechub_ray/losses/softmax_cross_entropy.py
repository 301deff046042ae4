"""Softmax over the items of a step."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES, Columns, Rows
from rechub_ray.losses.vectors import Block, TowerLoss
from rechub_ray.schema import Schema


@LOSSES.register("softmax_cross_entropy", "softmax_cross_entropy_loss")
class SoftmaxCrossEntropy(TowerLoss):
    """In-batch softmax: `log(sum_j exp(|a| u_i v_j / T)) - |a| u_i v_i / T + r max(0, -u_i v_i)`.

    j runs over the items of all rows of the step. Rows whose label is above 0 count. The result is the mean over them,
    weighted by the sample weights: unlike in most losses, a factor of all weights does not matter. (EasyRec takes rows
    of label 0 as chosen too.)

    Args:
        schema: has the labels and features.
        positive_regularization: r, >= 0: keeps a user from pointing away from the own item; 1 as in EasyRec, where it
            is fixed.
        scale_logits: whether a is learned; it starts at 1. A learned summand, as in EasyRec, would cancel out.
        common: the arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (B, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations, RecSys 2019,
    eq. 4, without the correction for popularity.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        positive_regularization: Annotated[float, Ge(0)] = 1.0,
        scale_logits: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.positive_regularization = positive_regularization
        self.scale = nn.Parameter(torch.ones(())) if scale_logits else None

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        scaled = prediction if self.scale is None else prediction * self.scale.abs()
        own = columns.prediction[columns.first : columns.first + len(prediction)]
        opposed = F.relu(-(prediction * own).sum(1)) * self.counts(rows)
        return super().total_over(scaled, rows, columns) + self.positive_regularization * opposed.sum()

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        return self.cross_entropy(mine, others, block)

    def count_over(self, rows: Rows, columns: Columns) -> Tensor:
        return self.counts(rows).sum()

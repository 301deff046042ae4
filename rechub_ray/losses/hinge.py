"""Hinge loss within a step."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import Block, TowerLoss
from rechub_ray.schema import Schema


@LOSSES.register("hinge", "hinge_loss")
class Hinge(TowerLoss):
    """What the items of other rows lack to be `margin` less similar than the own one.

    `mean_j max(0, margin + (u_i v_j - u_i v_i) / T)`, or the largest of these terms. (`pairwise_hinge` is the same of
    scores: of rows of different labels, in one session.) Rows whose label is above 0 count; the rows' losses, times
    their sample weights, are summed and divided by the number of rows that count and whose weight is not zero. A row
    without negatives loses 0.

    Args:
        schema: has the labels and features.
        margin: see above, >= 0.
        hardest: whether the most similar negative counts alone.
        common: the arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (C, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: Weston and Watkins, Support Vector Machines for Multi-Class Pattern Recognition, ESANN 1999, eq. 5;
    `hardest`: Crammer and Singer, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, JMLR
    2001, eq. 4.
    """

    def __init__(
        self, schema: Schema, *, margin: Annotated[float, Ge(0)] = 1.0, hardest: bool = False, **common: Any
    ) -> None:
        super().__init__(schema, **common)
        self.margin, self.hardest = margin, hardest

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        similarity = self.similarities(mine, others, block)
        if not self.hardest:
            return self.mean_over_negatives(F.relu(self.margin + similarity - block.own(similarity)), block)
        nearest = similarity.masked_fill(~self.negatives(block), -math.inf).amax(1)
        has_any = nearest > -math.inf
        lacking = self.margin + torch.where(has_any, nearest, 0) - block.own(similarity).squeeze(1)
        return torch.where(has_any, F.relu(lacking), 0)

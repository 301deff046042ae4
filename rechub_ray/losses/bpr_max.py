"""Bayesian personalised ranking against the most similar negatives."""

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


@LOSSES.register("bpr_max")
class BPRMax(TowerLoss):
    """BPR of a row's own item and its negatives, by the softmax of these: `-log(sum_j p_j sigmoid(s_i - s_j))`.

    With `s_j = u v_j / T`, `p = softmax_j(s_j)` over the negatives alone, and `score_penalty * sum_j p_j s_j^2` added,
    so that the scores of negatives stay near 0. Where `bpr` takes the mean over negatives, most of which are learned
    soon, this one goes by those that stand nearest to the own item. Rows whose label is above 0 count; the rows'
    losses, times their sample weights, are summed and divided by the number of rows that count and whose weight is not
    zero. A row without negatives loses 0.

    Args:
        schema: has the labels and features.
        score_penalty: see above, >= 0.
        common: the arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (C, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: Hidasi and Karatzoglou, Recurrent Neural Networks with Top-k Gains for Session-based Recommendations,
    arXiv 1706.03847, eq. 10 with the penalty of section 3.3.2.
    """

    def __init__(self, schema: Schema, *, score_penalty: Annotated[float, Ge(0)] = 1.0, **common: Any) -> None:
        super().__init__(schema, **common)
        self.score_penalty = score_penalty

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        similarity = self.similarities(mine, others, block)
        negatives = self.chosen(similarity, block)
        has_any = negatives.any(1)
        # a row without negatives takes all columns, so that no number is infinite, and loses 0
        log_p = similarity.masked_fill(~negatives & has_any.unsqueeze(1), -math.inf).log_softmax(1)
        chance = (log_p + F.logsigmoid(block.own(similarity) - similarity)).logsumexp(1)
        penalty = (log_p.exp() * similarity.square()).sum(1)
        return torch.where(has_any, self.score_penalty * penalty - chance, 0)

"""Bayesian personalised ranking."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import Block, TowerLoss


@LOSSES.register("bpr", "bpr_loss")
class BPR(TowerLoss):
    """Bayesian personalised ranking within a step: `mean_j log(1 + exp((u_i v_j - u_i v_i) / T))`.

    j runs over the negatives: the items of the other rows, or those of the run's `negatives`. (`pair_wise` is the same
    of scores: of rows of label 1 and of label 0, in one session.) Rows whose label is above 0 count; the rows' losses,
    times their sample weights, are summed and divided by the number of rows that count and whose weight is not zero. A
    row without negatives loses 0.

    Args:
        schema: has the labels and features.
        common: the arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (C, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, arXiv 1205.2618, section 4,
    without the penalty of weights.
    """

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        similarity = self.similarities(mine, others, block)
        return self.mean_over_negatives(F.softplus(similarity - block.own(similarity)), block)

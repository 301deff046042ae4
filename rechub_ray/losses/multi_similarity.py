"""Multi-similarity loss."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import Block, MetricLoss
from rechub_ray.schema import Schema


@LOSSES.register("multi_similarity", "multi_similarity_loss")
class MultiSimilarity(MetricLoss):
    """Weighs each pair of rows by its own similarity and by those of the other pairs.

    With cosines `s = max(0, cos)`, a row loses `log(1 + sum_p exp(-alpha (s_p - lamb))) / alpha + log(1 + sum_n
    exp(beta (s_n - lamb))) / beta` over its positives p and negatives n. Rows without pairs lose 0 and count. The
    rows' losses, times their sample weights, are summed and divided by the number of rows whose weight is not zero.
    (EasyRec leaves weights out, and by a slip compares labels along a third axis, so that its values differ.)

    Args:
        schema: has the labels and the group column.
        alpha: weight of the positives, > 0.
        beta: weight of the negatives, > 0.
        lamb: similarity from which on a pair counts much.
        eps: of `mining`, >= 0.
        mining: take only positives less similar than the most similar negative plus `eps`, and negatives more similar
            than the least similar positive minus `eps`; a row without positives, or without negatives, loses 0.
        common: the arguments of `MetricLoss`.

    Shapes:
        vector (B, D), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column, or the model does not have the vector.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning,
    arXiv 1904.06627, eq. 11 to 15.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        alpha: Annotated[float, Gt(0)] = 2.0,
        beta: Annotated[float, Gt(0)] = 50.0,
        lamb: float = 1.0,
        eps: Annotated[float, Ge(0)] = 0.1,
        mining: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.alpha, self.beta, self.lamb, self.eps, self.mining = alpha, beta, lamb, eps, mining

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        similarity, positives = F.relu(mine @ others.T), self.positives(block)
        negatives = block.others() & ~positives
        if self.mining:
            nearest = similarity.detach().masked_fill(~negatives, -math.inf).amax(1, keepdim=True)
            farthest = similarity.detach().masked_fill(~positives, math.inf).amin(1, keepdim=True)
            positives = positives & (similarity < nearest + self.eps)
            negatives = negatives & (similarity > farthest - self.eps)
        near = _log_one_and_sum(-self.alpha * (similarity - self.lamb), positives) / self.alpha
        return near + _log_one_and_sum(self.beta * (similarity - self.lamb), negatives) / self.beta


def _log_one_and_sum(values: Tensor, which: Tensor) -> Tensor:
    """Return `log(1 + sum exp(values))` over those that `which` takes of each row.

    Shapes:
        (R, C) -> (R,)
    """
    return torch.cat([values.new_zeros(len(values), 1), values.masked_fill(~which, -math.inf)], 1).logsumexp(1)

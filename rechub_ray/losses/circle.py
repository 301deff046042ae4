"""Circle loss."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt, Interval
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import Block, MetricLoss
from rechub_ray.schema import Schema

_NOTHING = -1e12
"""Stands for log(0); a sum of two remains finite, so that no gradient is infinity times 0."""


@LOSSES.register("circle", "circle_loss")
class Circle(MetricLoss):
    """Pulls the vectors of one label together and pushes the others away, each the more the farther it is off.

    A row loses `log(1 + sum_n exp(g a_n (s_n - m)) sum_p exp(-g a_p (s_p - 1 + m)))` over its negatives n and positives
    p, with cosines s, `a_n = max(0, s_n + m)` and `a_p = max(0, 1 + m - s_p)`, which are not differentiated. Rows
    without positives, or without negatives, lose 0 and count. The rows' losses, times their sample weights, are summed
    and divided by the number of rows whose weight is not zero; EasyRec leaves weights out.

    Args:
        schema: has the labels and the group column.
        margin: m, in [0, 1].
        gamma: g, > 0.
        common: the arguments of `MetricLoss`.

    Shapes:
        vector (B, D), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column, or the model does not have the vector.

    Reference: Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, arXiv 2002.10857,
    eq. 4 to 6.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        margin: Annotated[float, Interval(ge=0, le=1)] = 0.25,
        gamma: Annotated[float, Gt(0)] = 32.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.margin, self.gamma = margin, gamma

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        similarity, positives = mine @ others.T, self.positives(block)
        negatives = block.others() & ~positives
        fixed, m = similarity.detach(), self.margin
        near = -self.gamma * F.relu(1 + m - fixed) * (similarity - (1 - m))
        far = self.gamma * F.relu(fixed + m) * (similarity - m)
        return F.softplus(
            near.masked_fill(~positives, _NOTHING).logsumexp(1) + far.masked_fill(~negatives, _NOTHING).logsumexp(1)
        )

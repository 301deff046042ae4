"""Softmax with support vectors, against items that are drawn from the step."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rechub_ray.losses.base import LOSSES, Columns, Rows
from rechub_ray.losses.vectors import TowerLoss
from rechub_ray.schema import Schema


@LOSSES.register("softmax_cross_entropy_with_negative_mining", "svg_softmax")
class SoftmaxCrossEntropyWithNegativeMining(TowerLoss):
    """Cross-entropy of a row's own item against items of other rows, more against those that are too close.

    With `p = s_ii - margin`, a negative of similarity n counts as `t n + t - 1` where `n > p`, else as n; a row loses
    `log(exp(g p) + sum_k exp(g n_k)) - g p`. Negative k of row i is the item of row `i - shift_k`, counted around over
    the rows of all workers. The shifts are drawn in each step, from 1 to the number of rows less 1, the same for all
    rows; they may repeat. Rows whose label is above 0 count; the rows' losses, times their sample weights, are summed
    and divided by the number of rows that count and whose weight is not zero. A single row loses 0.

    Args:
        schema: has the labels and features.
        num_negative_samples: number of shifts, >= 1.
        margin: see above.
        gamma: g, > 0.
        coefficient_of_support_vector: t, >= 1.
        similarity: as in `TowerLoss`.
        common: the other arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (B, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: Wang et al., Support Vector Guided Softmax Loss for Face Recognition, arXiv 1812.11317, eq. 5 to 7.
    """

    takes_lists = False

    def __init__(
        self,
        schema: Schema,
        *,
        num_negative_samples: Annotated[int, Ge(1)] = 4,
        margin: float = 0.0,
        gamma: Annotated[float, Gt(0)] = 1.0,
        coefficient_of_support_vector: Annotated[float, Ge(1)] = 1.0,
        similarity: Literal["dot", "cosine"] = "cosine",
        **common: Any,
    ) -> None:
        super().__init__(schema, similarity=similarity, **common)
        self.margin, self.gamma, self.t = margin, gamma, coefficient_of_support_vector
        self.draws = ((torch.arange(num_negative_samples, dtype=torch.float64) + 0.5) / num_negative_samples).tolist()
        """In [0, 1), one a shift; evenly spread until the first step."""

    def draw(self, generator: torch.Generator) -> None:
        self.draws = torch.rand(len(self.draws), generator=generator, dtype=torch.float64).tolist()

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        items, others, user = columns.prediction, columns.rows, prediction / self.temperature
        there = torch.ones_like(others.target, dtype=torch.bool) if others.is_there is None else others.is_there
        circle = there.nonzero().squeeze(1)
        weight = self.counts(rows)
        own = (user * items[columns.first : columns.first + len(user)]).sum(1)
        positive = own - self.margin
        logits = [positive]
        around = there.cumsum(0)[columns.first : columns.first + len(user)] - 1  # the rows' places in the circle
        for drawn in self.draws if len(circle) > 1 else ():
            shift = 1 + int(drawn * (len(circle) - 1))
            theirs = circle[(around - shift) % len(circle)]
            negative = (user * items[theirs]).sum(1)
            negative = torch.where(negative > positive, self.t * negative + self.t - 1, negative)
            if rows.group is not None and others.group is not None:
                negative = negative.masked_fill(rows.group == others.group[theirs], -math.inf)
            logits.append(negative)
        losses = torch.logsumexp(self.gamma * torch.stack(logits, 1), 1) - self.gamma * positive
        return (losses * weight).sum()

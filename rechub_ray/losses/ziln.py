"""Zero-inflated log-normal loss."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch
from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.outputs import ZeroInflatedLogNormal
from rechub_ray.schema import Schema
from rechub_ray.world import World


@LOSSES.register("ziln", "ziln_loss")
class ZILN(Loss):
    """Negative log likelihood of a label that is often 0 and otherwise log-normal, such as what a customer spends.

    The output is three numbers a row: the logit l of a positive label, the mean m of its logarithm, and h, of which
    sigma = softplus(h) is the standard deviation (see `ZeroInflatedLogNormal`); its expectation is served, and read by
    metrics. The loss is `c mean(BCE(l, y > 0)) + r mean(-log N(log y; m, sigma) + log y) + a mean(m^2) + b mean(h^2)`,
    the second mean over the rows with y > 0 alone, the others over all. Labels below 0 count as 0.

    In each of the means, sample weights multiply the sum and rows of weight 0 leave the divisor; EasyRec ignores them.

    Args:
        schema: has the labels.
        max_sigma: largest sigma, > 0.
        class_weight: c, >= 0.
        reg_weight: r, >= 0.
        mu_reg: a, >= 0.
        sigma_reg: b, >= 0.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B, 3), label (B,) -> (2,): the sums over all rows, and over those with y > 0

    Raises:
        ConfigError: the label is not of kind regression.

    Reference: Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value Prediction, arXiv 1912.07753,
    eq. 6; the last two terms are EasyRec's.
    """

    label_kinds = ("regression",)
    heads = ("distribution",)

    def __init__(
        self,
        schema: Schema,
        *,
        max_sigma: Annotated[float, Gt(0)] = 5.0,
        class_weight: Annotated[float, Ge(0)] = 1.0,
        reg_weight: Annotated[float, Ge(0)] = 1.0,
        mu_reg: Annotated[float, Ge(0)] = 0.01,
        sigma_reg: Annotated[float, Ge(0)] = 0.01,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.class_weight, self.reg_weight, self.mu_reg, self.sigma_reg = class_weight, reg_weight, mu_reg, sigma_reg
        self.link = self._distribution = ZeroInflatedLogNormal(max_sigma)

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        logit, mean, sigma = self._distribution.parameters(prediction)
        is_positive = (rows.target > 0).to(prediction.dtype)
        losses = self.class_weight * F.binary_cross_entropy_with_logits(logit, is_positive, reduction="none")
        losses = losses + self.mu_reg * mean.square() + self.sigma_reg * prediction[..., 2].square()
        log_y = torch.where(rows.target > 0, rows.target, 1).to(prediction.dtype).log()
        surprise = ((log_y - mean) / sigma).square() / 2 + sigma.log() + log_y + math.log(2 * math.pi) / 2
        amounts = self.reg_weight * is_positive * surprise
        return torch.stack([weighted_sum(losses, rows.weight), weighted_sum(amounts, rows.weight)])

    def count(self, batch: Batch, world: World | None = None) -> Tensor:
        rows = self.rows(batch)
        counts = torch.ones_like(rows.target) if rows.weight is None else (rows.weight != 0).float()
        return torch.stack([counts.sum(), (counts * (rows.target > 0)).sum()])

"""Uncertainty weighting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rechub_ray.balancing.base import BALANCING, Balancing
from rechub_ray.schema import Label


@BALANCING.register("uwl")
class UncertaintyWeighting(Balancing):
    """Losses weighted by learned uncertainties: `sum_t c_t exp(-a_t) L_t + a_t / 2`, c = 1/2 for regression, else 1.

    a_t = log sigma_t^2 is free and starts at 0. The sum may become negative.

    Args:
        tasks: the labels that have losses.

    Reference: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, arXiv 1705.07115, eq. 7
    and 10, with a = 2 log sigma.
    """

    factors: Tensor

    def __init__(self, tasks: Sequence[Label]) -> None:
        super().__init__(tasks)
        self.log_variance = nn.Parameter(torch.zeros(len(self.tasks)))
        factors = [0.5 if task.kind == "regression" else 1.0 for task in self.tasks]
        self.register_buffer("factors", torch.tensor(factors), persistent=False)

    def combine(self, losses: Tensor, share: Tensor | float) -> Tensor:
        weights = self.factors * torch.exp(-self.log_variance)
        return (weights * losses).sum() + share * self.log_variance.sum() / 2

    @torch.no_grad()
    def weights(self) -> Tensor:
        return self.factors * torch.exp(-self.log_variance)

"""Random loss weighting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rechub_ray.balancing.base import BALANCING, Balancing
from rechub_ray.schema import Label


@BALANCING.register("random", "rlw")
class RandomWeighting(Balancing):
    """Losses weighted by new random numbers in every step: `sum_t w_t L_t`, with `w = softmax(normal numbers)`.

    All parts of a step and all workers have the same numbers, which a resumed run draws again.

    Args:
        tasks: the labels that have losses.

    Reference: Lin et al., Reasonable Effectiveness of Random Weighting, arXiv 2111.10603, with the normal distribution.
    """

    factors: Tensor

    def __init__(self, tasks: Sequence[Label]) -> None:
        super().__init__(tasks)
        self.register_buffer("factors", torch.full((len(self.tasks),), 1 / len(self.tasks)), persistent=False)

    def draw(self, generator: torch.Generator) -> None:
        drawn = torch.randn(len(self.tasks), generator=generator)
        self.factors.copy_(drawn.softmax(0))

    def combine(self, losses: Tensor, share: Tensor | float) -> Tensor:
        return (self.factors * losses).sum()

    @torch.no_grad()
    def weights(self) -> Tensor:
        return self.factors

"""Items that are drawn alike."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.negatives.base import NEGATIVES, Negatives
from rechub_ray.schema import PositiveInt


@NEGATIVES.register("uniform")
class Uniform(Negatives):
    """Items of the whole item table, each as likely as any other; one may be drawn several times.

    Args:
        catalogue: the items.
        number: columns a step, over all workers, which all rows are compared with, >= 1.

    Reference: with `in_batch` beside it, Yang et al., Mixed Negative Sampling for Learning Two-tower Neural Networks in
    Recommendations (WWW 2020).
    """

    def __init__(self, catalogue: Catalogue, *, number: PositiveInt = 100) -> None:
        super().__init__(catalogue)
        self.number = number

    def probabilities(self) -> Tensor:
        count = len(self.catalogue.ids)
        return torch.full((count,), 1 / count, dtype=torch.float64, device=self.catalogue.ids.device)

    def places(self, uniform: Tensor) -> Tensor:
        return (uniform * len(self.catalogue.ids)).long()

"""Items that are drawn by their popularity."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.negatives.base import NEGATIVES, Negatives
from rechub_ray.schema import PositiveInt


@NEGATIVES.register("popularity")
class Popularity(Negatives):
    """Items of the whole item table, drawn with probability `max(n_j, 1)^alpha / sum_k max(n_k, 1)^alpha`.

    n_j is the number of training rows of item j; one may be drawn several times.

    Args:
        catalogue: the items.
        number: columns a step, over all workers, which all rows are compared with, >= 1.
        alpha: >= 0: 0 draws all items alike, 1 as often as they are chosen.

    Reference: Mikolov et al., Distributed Representations of Words and Phrases and their Compositionality, arXiv
    1310.4546, section 2.2, which takes 3/4 for alpha.
    """

    def __init__(
        self, catalogue: Catalogue, *, number: PositiveInt = 100, alpha: Annotated[float, Ge(0)] = 0.75
    ) -> None:
        super().__init__(catalogue)
        self.number = number
        weights = catalogue.count.cpu().clamp(min=1).double() ** alpha  # sums differ between devices in the last bits
        self._probabilities = (weights / weights.sum()).to(catalogue.ids.device)
        bounds = weights.cumsum(0)
        self._bounds = (bounds / bounds[-1]).to(catalogue.ids.device)

    def probabilities(self) -> Tensor:
        return self._probabilities

    def places(self, uniform: Tensor) -> Tensor:
        return torch.searchsorted(self._bounds, uniform, right=True)

"""The items of the other rows."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.negatives.base import NEGATIVES, Negatives


@NEGATIVES.register("in_batch")
class InBatch(Negatives):
    """The items of the step's other rows, on all workers: an item is among them as often as it is in training.

    Its probability is its number of training rows, at least 1, by that of all rows.
    """

    in_batch = True

    def probabilities(self) -> Tensor:
        counts = self.catalogue.count.double()
        return counts.clamp(min=1) / counts.sum().clamp(min=1)

"""Precision at a threshold."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.at_threshold import AtThreshold
from rechub_ray.metrics.base import METRICS


@METRICS.register("precision")
class Precision(AtThreshold):
    """The (weighted) share of clicks among the rows called clicks; NaN where none is called.

    Deviation: scikit-learn gives 0 there.

    Args:
        threshold: a row is called a click where the probability is above it, in (0, 1).
        common: `output`, `label` and `where`, as in `Metric`.
    """

    def among(self, called: Tensor, target: Tensor) -> Tensor:
        return called

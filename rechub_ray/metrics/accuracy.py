"""Accuracy."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.mean import MeanMetric


@METRICS.register("accuracy")
class Accuracy(MeanMetric):
    """Weighted share of rows whose label is 1 exactly where the probability is above 0.5 (logit above 0)."""

    mode = "max"

    def values(self, prediction: Tensor, target: Tensor) -> Tensor:
        right = ((prediction > 0) == (target > 0.5)).to(prediction.dtype)
        return right.masked_fill(prediction.isnan(), float("nan"))

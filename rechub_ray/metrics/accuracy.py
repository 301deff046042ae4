"""Accuracy."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.mean import MeanMetric


@METRICS.register("accuracy")
class Accuracy(MeanMetric):
    """Weighted share of rows whose most probable class is the label's.

    Of a binary label: 1 exactly where the probability is above 0.5 (logit above 0). Of equal classes the first counts.
    """

    mode = "max"
    label_kinds = ("binary", "multiclass")

    def values(self, prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.dim() == 2:
            right = (prediction.argmax(1) == target.long()).to(prediction.dtype)
            return right.masked_fill(prediction.isnan().any(1), float("nan"))
        right = ((prediction > 0) == (target > 0.5)).to(prediction.dtype)
        return right.masked_fill(prediction.isnan(), float("nan"))

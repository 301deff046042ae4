"""Mean absolute error."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.mean import MeanMetric


@METRICS.register("mae")
class MAE(MeanMetric):
    """sum_i w_i |s_i - y_i| / sum_i w_i for a regression label; s is the predicted value."""

    mode = "min"
    label_kinds = ("regression",)

    def values(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs()

"""Root of the mean squared error."""

from __future__ import annotations

import math

from rechub_ray.metrics.base import METRICS, State
from rechub_ray.metrics.mse import MSE


@METRICS.register("rmse")
class RMSE(MSE):
    """The square root of `mse`, in the label's own unit."""

    def compute(self, state: State) -> float:
        return math.sqrt(super().compute(state))

"""Calibration: predicted over observed clicks."""

from __future__ import annotations

import torch

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, Metric, State


@METRICS.register("calibration")
class Calibration(Metric):
    """Predicted clicks / observed clicks.

    C = sum_i w_i sigmoid(s_i) / sum_i w_i y_i. 1 is right, above 1 the model promises too much; NaN without a click.
    This is the inverse of COPC (clicks over predicted clicks). Neither direction is better, so early stopping cannot
    use it: `expected_calibration_error` has a direction.

    Reference: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook (ADKDD 2014), section 3,
    "Calibration".
    """

    merging = {"predicted": "sum", "observed": "sum"}
    mode = None

    def update(self, outputs: Outputs, batch: Batch) -> State:
        probability, target = self.prediction(outputs).double().sigmoid(), self.target(batch).double()
        weight = torch.ones_like(target) if batch.weight is None else batch.weight.double()
        return {"predicted": (probability * weight).sum(), "observed": (target * weight).sum()}

    def compute(self, state: State) -> float:
        observed = float(state["observed"])
        return float(state["predicted"]) / observed if observed else float("nan")

"""Normalised entropy: log loss over that of the click rate."""

from __future__ import annotations

import torch

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, State
from rechub_ray.metrics.log_loss import LogLoss


@METRICS.register("normalized_entropy", "ne")
class NormalizedEntropy(LogLoss):
    """Log loss over the log loss of always predicting the click rate: below 1 the model knows more than that.

    NE = L / -(p log p + (1 - p) log(1 - p)) with L as `log_loss` and p = sum_i w_i y_i / sum_i w_i, the click rate of
    the evaluated rows themselves; NaN where all rows have one label.

    Reference: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook (ADKDD 2014), equation 1.
    """

    merging = {"total": "sum", "weight": "sum", "clicks": "sum"}
    label_kinds = ("binary",)

    def update(self, outputs: Outputs, batch: Batch) -> State:
        target = self.target(batch).double()
        clicks = target if batch.weight is None else target * batch.weight.double()
        return {**super().update(outputs, batch), "clicks": clicks.sum()}

    def compute(self, state: State) -> float:
        rate = state["clicks"] / state["weight"]
        entropy = -(torch.xlogy(rate, rate) + torch.xlogy(1 - rate, 1 - rate))
        return super().compute(state) / float(entropy) if entropy > 0 else float("nan")

"""Expected calibration error."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Le

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, Metric, State
from rechub_ray.schema import Schema


@METRICS.register("expected_calibration_error")
class ExpectedCalibrationError(Metric):
    """Mean distance between click rate and mean probability over equally wide bins of the probability.

    ECE = sum_b (W_b / W) |mean_b(y) - mean_b(p)|, weighted; bin b holds b/bins <= p < (b+1)/bins, the last one
    p = 1 too.

    Args:
        bins: number of bins, 1 to 100,000. With 1 this is |mean(y) - mean(p)|.
        common: `output`, `label` and `where`, as in `Metric`.

    Reference: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3. Deviations: p is the
    probability of a click (theirs is the confidence in the predicted class); bins are closed on the left.
    """

    merging = {"sums": "sum"}
    mode = "min"

    def __init__(self, schema: Schema, *, bins: Annotated[int, Ge(1), Le(100_000)] = 15, **common: Any) -> None:
        super().__init__(schema, **common)
        self.bins = bins

    def update(self, outputs: Outputs, batch: Batch) -> State:
        probability, target = self.prediction(outputs).double().sigmoid(), self.target(batch).double()
        weight = torch.ones_like(target) if batch.weight is None else batch.weight.double()
        # a NaN goes to some bin, whose sum it makes NaN
        index = (probability.nan_to_num() * self.bins).long().clamp(max=self.bins - 1)
        rows = torch.stack([weight, weight * probability, weight * target])
        return {"sums": rows.new_zeros((3, self.bins)).index_add_(1, index, rows)}

    def compute(self, state: State) -> float:
        weight, probability, target = state["sums"]
        return float((target - probability).abs().sum() / weight.sum())  # W_b cancels

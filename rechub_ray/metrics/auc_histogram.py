"""Area under the ROC curve from a histogram: memory does not grow with the rows."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, Metric, State
from rechub_ray.schema import Schema

LIMIT = 16.0  # sigmoid(-16) is 1e-7: click probabilities below it are not told apart


@METRICS.register("auc_histogram")
class AUCHistogram(Metric):
    """AUC where two rows tie when their logits fall into one bin; the state is 16 bytes a bin, summed over workers.

    The bins cut logits from -16 to 16 into equal parts (0.0005 each by default); logits beyond share the end bins.
    With P_b clicks and N_b other rows in bin b (weighted), P and N in all,

    AUC_h = sum_b P_b (sum_{c<b} N_c + N_b / 2) / (P N),    |AUC_h - AUC| <= sum_b P_b N_b / (2 P N)

    because only pairs within a bin may be counted wrongly, each by half at most. `error_bound` gives the right side.

    Args:
        bins: number of bins, 2 to 16,777,216.
        common: `output`, `label` and `where`, as in `Metric`.
    """

    merging = {"histogram": "sum", "nans": "sum"}
    mode = "max"

    def __init__(self, schema: Schema, *, bins: Annotated[int, Ge(2), Le(2**24)] = 65536, **common: Any) -> None:
        super().__init__(schema, **common)
        self.bins = bins

    def update(self, outputs: Outputs, batch: Batch) -> State:
        logit, target = self.prediction(outputs).double(), self.target(batch)
        weight = torch.ones_like(logit) if batch.weight is None else batch.weight.double()
        place = (logit.nan_to_num().clamp(-LIMIT, LIMIT) + LIMIT) * (self.bins / (2 * LIMIT))
        index = place.long().clamp(max=self.bins - 1) + self.bins * (target > 0.5)
        counts = logit.new_zeros(2 * self.bins).index_add_(0, index, weight)
        return {"histogram": counts.view(2, self.bins), "nans": logit.isnan().sum()}

    def compute(self, state: State) -> float:
        negatives, positives = state["histogram"]
        below = negatives.cumsum(0) - negatives
        right = (positives * (below + negatives / 2)).sum()
        return float(right / self._pairs(state))

    def error_bound(self, state: State) -> float:
        """Return how far `compute` may lie from the exact AUC, at most."""
        negatives, positives = state["histogram"]
        return float((positives * negatives).sum() / 2 / self._pairs(state))

    def _pairs(self, state: State) -> Tensor:
        negatives, positives = state["histogram"]
        pairs = positives.sum() * negatives.sum()
        return torch.where(state["nans"] > 0, float("nan"), pairs)

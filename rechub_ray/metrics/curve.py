"""The counts behind precision-recall curves, at every threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import Metric, State
from rechub_ray.metrics.pairs import scored_rows


class CurveMetric(Metric):
    """Keeps every row as `auc` does, for numbers over all thresholds."""

    merging = {"score": "concat", "label": "concat", "weight": "concat"}
    mode = "max"

    def update(self, outputs: Outputs, batch: Batch) -> State:
        return scored_rows(self.prediction(outputs), self.target(batch), batch)

    def counts(self, state: State) -> tuple[Tensor, Tensor] | None:
        """Return what lies at or above each distinct logit, from the highest; None without a click or with a NaN.

        Shapes:
            (T,) float64 the (weighted) number of clicks, (T,) likewise of rows.
        """
        score, order = state["score"].sort(descending=True)
        label, weight = state["label"][order], state["weight"]
        size = weight[order].double() if len(weight) else torch.ones_like(score, dtype=torch.float64)
        clicks = (size * label).cumsum(0)
        if not len(score) or bool(score.isnan().any()) or float(clicks[-1]) == 0:
            return None
        is_last = torch.ones_like(score, dtype=torch.bool)
        torch.ne(score[1:], score[:-1], out=is_last[:-1])
        return clicks[is_last], size.cumsum(0)[is_last]

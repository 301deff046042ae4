"""Area under the ROC curve, exact."""

from __future__ import annotations

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, Metric, State
from rechub_ray.metrics.pairs import count_pairs, scored_rows


@METRICS.register("auc")
class AUC(Metric):
    """The (weighted) share of (clicked, not clicked) pairs whose clicked row has the higher logit; ties count half.

    AUC = sum_ij w_i w_j [y_i = 1, y_j = 0] ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i w_i y_i * sum_j w_j (1 - y_j))

    Keeps every row (5 bytes each, 9 with weights) on its worker's device until `compute`; then rank 0 alone gets all
    rows and sorts them, at a peak of about 80 bytes a row. `auc_histogram` needs the same memory for any number.

    Reference: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143 (1982).
    """

    merging = {"score": "concat", "label": "concat", "weight": "concat"}
    mode = "max"

    def update(self, outputs: Outputs, batch: Batch) -> State:
        return scored_rows(self.prediction(outputs), self.target(batch), batch)

    def compute(self, state: State) -> float:
        score, weight = state["score"], state["weight"]
        if not len(score) or bool(score.isnan().any()):
            return float("nan")
        return float(count_pairs(score, state["label"], weight=weight if len(weight) else None, group=None).auc)

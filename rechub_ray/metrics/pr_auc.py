"""Area under the precision-recall curve."""

from __future__ import annotations

from rechub_ray.metrics.base import METRICS, State
from rechub_ray.metrics.curve import CurveMetric


@METRICS.register("pr_auc", "average_precision")
class PRAUC(CurveMetric):
    """Average precision: the mean over the clicks of the precision at their logit, weighted, exact.

    AP = sum_t (R_t - R_{t-1}) P_t over the distinct logits t from the highest, as scikit-learn's
    `average_precision_score`: nothing is interpolated, rows that tie come in together. A random order gives the click
    rate. NaN without a click. Memory as `auc`.

    Reference: Davis and Goadrich, The Relationship Between Precision-Recall and ROC Curves (ICML 2006), for why linear
    interpolation is too optimistic.
    """

    def compute(self, state: State) -> float:
        counts = self.counts(state)
        if counts is None:
            return float("nan")
        clicks, rows = counts
        new = clicks.diff(prepend=clicks.new_zeros(1))
        precision = (clicks / rows).nan_to_num()  # 0 / 0 where the first rows weigh nothing
        return float((new * precision).sum() / clicks[-1])

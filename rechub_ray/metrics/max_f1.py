"""The best F1 over all thresholds."""

from __future__ import annotations

from rechub_ray.metrics.base import METRICS, State
from rechub_ray.metrics.curve import CurveMetric


@METRICS.register("max_f1")
class MaxF1(CurveMetric):
    """The largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds (every distinct logit), weighted, exact.

    NaN without a click. The threshold is chosen on the evaluated rows themselves, so the number is an upper bound of
    what a threshold fixed beforehand gives. Memory as `auc`.
    """

    def compute(self, state: State) -> float:
        counts = self.counts(state)
        if counts is None:
            return float("nan")
        clicks, rows = counts
        return float((2 * clicks / (rows + clicks[-1])).max())

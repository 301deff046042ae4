"""Recall of the first k items."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.ranks import RankMetric


@METRICS.register("recall_at_k")
class RecallAtK(RankMetric):
    """The share of a query's right answers that are among the first k items; `recall@10` in configurations.

    Where every row is a query of its own it equals `hit@k`.

    Args:
        common: `k`, `exclude` and `per_group`, as in `RankMetric`.
    """

    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        return (rank < self.k).double() / size

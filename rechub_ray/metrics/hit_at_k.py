"""Hits among the first k items."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.ranks import RankMetric


@METRICS.register("hit_at_k")
class HitAtK(RankMetric):
    """The share of queries with a right answer among the first k items; `hit@10` in configurations.

    Args:
        common: `k`, `exclude` and `per_group`, as in `RankMetric`.
    """

    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        return ((rank < self.k) & (place == 0)).double()

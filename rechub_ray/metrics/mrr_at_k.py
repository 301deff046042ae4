"""Mean reciprocal rank, cut at k."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.ranks import RankMetric


@METRICS.register("mrr_at_k")
class MRRAtK(RankMetric):
    """The mean of 1 / (1 + rank) of each query's first right answer, 0 behind the first k items; `mrr@10`.

    Args:
        common: `k`, `exclude` and `per_group`, as in `RankMetric`.
    """

    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        return ((rank < self.k) & (place == 0)).double() / (rank + 1)

"""Mean average precision, cut at k."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.ranks import RankMetric


@METRICS.register("map_at_k")
class MAPAtK(RankMetric):
    """The mean over queries of the precision at each right answer among the first k items; `map@10`.

    `sum_i [r_i < k] i / (1 + r_i) / min(n, k)` over the n right answers of a query, the i-th of which has rank r_i.
    Where every row is a query of its own it equals `mrr@k`.

    Args:
        common: `k`, `exclude` and `per_group`, as in `RankMetric`.
    """

    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        return (rank < self.k).double() * (place + 1) / (rank + 1) / size.clamp(max=self.k)

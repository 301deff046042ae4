"""Normalised discounted cumulative gain, cut at k."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.ranks import RankMetric


@METRICS.register("ndcg_at_k")
class NDCGAtK(RankMetric):
    """The mean over queries of `sum_i [r_i < k] / log2(r_i + 2)` by the largest such sum; `ndcg@10` in configurations.

    The i-th of a query's n right answers has rank r_i; the largest sum is that of the ranks 0 to min(n, k) - 1.

    Args:
        common: `k`, `exclude` and `per_group`, as in `RankMetric`.

    Reference: Järvelin and Kekäläinen, Cumulated Gain-based Evaluation of IR Techniques, ACM TOIS 2002, with gains of 0
    and 1.
    """

    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        discounts = 1 / (torch.arange(self.k, dtype=torch.float64, device=rank.device) + 2).log2()
        largest = discounts.cumsum(0)[size.clamp(max=self.k) - 1]
        return (rank < self.k).double() / (rank.double() + 2).log2() / largest

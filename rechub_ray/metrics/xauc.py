"""AUC for numbers: the share of rightly ordered pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, Metric, State
from rechub_ray.metrics.pairs import count_sorted


@METRICS.register("xauc")
class XAUC(Metric):
    """The (weighted) share of pairs of different labels whose predictions have the labels' order; ties count half.

    XAUC = sum_ij w_i w_j [y_i > y_j] ([s_i > s_j] + [s_i = s_j] / 2) / sum_ij w_i w_j [y_i > y_j]

    so that XAUC of labels 0 and 1 is `auc`, and the whole is (Somers' D of s given y + 1) / 2. NaN where all labels are
    equal. Keeps 8 bytes a row (12 with weights) until `compute`, which takes O(N log N) on rank 0.

    Reference: Zhan et al., Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation,
    arXiv:2206.06003, section 5. Deviations: all pairs, theirs are sampled; they do not say what ties are.
    """

    merging = {"score": "concat", "label": "concat", "weight": "concat"}
    mode = "max"
    label_kinds = ("regression",)

    def update(self, outputs: Outputs, batch: Batch) -> State:
        score = self.prediction(outputs).float().clone()
        weight = score.new_zeros(0) if batch.weight is None else batch.weight.float().clone()
        return {"score": score, "label": self.target(batch).float().clone(), "weight": weight}

    def compute(self, state: State) -> float:
        score, order = state["score"].sort()
        if not len(score) or bool(score.isnan().any()):
            return float("nan")
        weight = state["weight"]
        size = weight[order].double() if len(weight) else torch.ones_like(order)
        rank = torch.unique(state["label"], return_inverse=True)[1][order]
        # Two labels differ first at one bit of their ranks: there they are a pair of 0 and 1 within the group of those
        # with the same higher bits, so each level counts its pairs as GAUC does, and each pair counts once.
        twice_right = total = size.new_zeros(())
        for bit in reversed(range(int(rank.max()).bit_length())):
            group, positive = rank >> (bit + 1), (rank >> bit) & 1
            pairs = count_sorted(score, size * positive, size, group)
            twice_right = twice_right + pairs.twice_right.sum()
            total = total + (pairs.positives * pairs.negatives).sum()
            place = _places(group, positive)
            score, size, rank = (torch.empty_like(x).index_copy_(0, place, x) for x in (score, size, rank))
        return float(twice_right.double() / (2 * total.double()))  # 0 / 0 is NaN in torch


def _places(group: Tensor, positive: Tensor) -> Tensor:
    """Return where each row goes when every group is cut into its zeros and its ones, each in their order.

    Args:
        group: (N,) ascending, from 0.
        positive: (N,) 0 or 1.
    """
    counts = torch.bincount(2 * group + positive, minlength=2 * (int(group[-1]) + 1)).view(-1, 2)
    zeros, ones = counts.unbind(1)
    ones_before = positive.cumsum(0) - positive
    zeros_before = torch.arange(len(group), device=group.device) - ones_before
    return torch.where(
        positive > 0, ones_before + zeros.cumsum(0)[group], zeros_before + (ones.cumsum(0) - ones)[group]
    )

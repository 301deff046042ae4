"""The rank statistic behind AUC: which share of (clicked, not clicked) pairs stands in the right order."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rechub_ray.batch import Batch
from rechub_ray.metrics.base import State


@dataclasses.dataclass(frozen=True, slots=True)
class GroupPairs:
    """Pair counts of each group, in ascending order of the group's id.

    Shapes:
        twice_right: (G,) twice the (weighted) number of pairs in order, a tie counts half; int64 without weights (then
            exact), float64 with.
        positives: (G,) (weighted) number of rows with label 1, of the same type.
        negatives: (G,) likewise with label 0.
    """

    twice_right: Tensor
    positives: Tensor
    negatives: Tensor

    @property
    def auc(self) -> Tensor:
        """(G,) float64; NaN where a class is missing."""
        return self.twice_right.double() / (2 * self.positives.double() * self.negatives.double())


def count_pairs(score: Tensor, label: Tensor, *, weight: Tensor | None, group: Tensor | None) -> GroupPairs:
    """Count the pairs within each group by sorting once: O(N log N), no loop over groups.

    Args:
        score: (N,), compared exactly.
        label: (N,), 0 or 1.
        weight: (N,), >= 0; a pair weighs the product of its rows'.
        group: (N,) int64; None puts all rows into one group.
    """
    score, order = score.sort()
    if group is not None:
        by_group = group[order].argsort(stable=True)
        score, order = score[by_group], order[by_group]
        group = group[order]
    label = label[order]
    kind = torch.int64 if weight is None else torch.float64
    size = torch.ones_like(label, dtype=kind) if weight is None else weight[order].to(kind)
    del order
    return count_sorted(score, size * label, size, group)


def count_sorted(score: Tensor, positive: Tensor, size: Tensor, group: Tensor | None) -> GroupPairs:
    """Count the pairs within each group of rows that stand by group, then by score: O(N).

    Args:
        score: (N,), ascending within a group.
        positive: (N,) int64 or float64, the row's size where its label is 1, 0 elsewhere.
        size: (N,) of the same type: 1, or the row's weight.
        group: (N,) int64, equal ones together; None puts all rows into one group.
    """
    group_starts = _changes(group) if group is not None else torch.zeros_like(score, dtype=torch.bool)
    ties = (_changes(score) | group_starts).cumsum(0)  # rows of one group with one score share a number
    positives = _sum_by(ties, positive)
    negatives = _sum_by(ties, size - positive)

    groups = torch.zeros_like(positives, dtype=torch.int64)
    groups.index_add_(0, ties, group_starts.long())
    groups = groups.cumsum(0)
    group_positives, group_negatives = _sum_by(groups, positives), _sum_by(groups, negatives)
    before_group = group_negatives.cumsum(0) - group_negatives
    below = negatives.cumsum(0) - negatives - before_group[groups]
    return GroupPairs(
        twice_right=_sum_by(groups, positives * (2 * below + negatives)),
        positives=group_positives,
        negatives=group_negatives,
    )


def scored_rows(score: Tensor, target: Tensor, batch: Batch) -> State:
    """Return the `concat` state of rows with scores: 5 bytes a row, 9 with weights (else `weight` has no rows)."""
    # copies: a batch's or a compiled model's buffers may be filled anew before the metric is computed
    return {
        "score": score.float().clone(),
        "label": (target > 0.5).to(torch.int8),
        "weight": score.new_zeros(0) if batch.weight is None else batch.weight.float().clone(),
    }


def _changes(values: Tensor) -> Tensor:
    changes = torch.zeros_like(values, dtype=torch.bool)
    torch.ne(values[1:], values[:-1], out=changes[1:])
    return changes


def _sum_by(index: Tensor, values: Tensor) -> Tensor:
    """Return the sums of `values` by an ascending index without gaps."""
    count = int(index[-1]) + 1 if len(index) else 0
    return values.new_zeros(count).index_add_(0, index, values)

"""Listwise ranking loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.lists import Lists, Listwise
from rechub_ray.schema import Schema


@LOSSES.register("listwise_rank", "listwise_rank_loss")
class ListwiseRank(Listwise):
    """Cross-entropy of each list's labels and its softmax: `-sum_i t_i log_softmax(s)_i`, and the mean over the lists.

    The targets t are the labels as they are, also where they do not sum to 1; so a list without a positive row loses 0
    and counts. Scores s, sample weights and lists are those of `Listwise`. EasyRec's `transform_fn` is an expression of
    the label in the recipe here.

    Args:
        schema: has the labels and the group column.
        label_is_logits: take `t = softmax(y / T)` within the list.
        common: `session_name`, `temperature` and `scale_logits`, as in `Listwise`; `output`, `label`, `weight` and
            `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column.

    Reference: Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach (ICML 2007), eq. 5, with
    `label_is_logits`.
    """

    def __init__(self, schema: Schema, *, label_is_logits: bool = False, **common: Any) -> None:
        super().__init__(schema, **common)
        self.label_is_logits = label_is_logits

    def targets(self, label: Tensor, lists: Lists) -> Tensor:
        if not self.label_is_logits:
            return label
        label = label / self.temperature
        return (label - lists.log_sum_exp(label)).exp()

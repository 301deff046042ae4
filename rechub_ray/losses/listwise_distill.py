"""Listwise distillation loss."""

from __future__ import annotations

import math
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.lists import Lists, Listwise
from rechub_ray.schema import Schema


@LOSSES.register("listwise_distill", "listwise_distill_loss")
class ListwiseDistill(Listwise):
    """Cross-entropy of a teacher's order of each list and its softmax; the mean over the lists.

    The label is the row's place in the teacher's order, from 1: with `r = min(max(y, 1), C)`, the target of a row is
    `log(1 + C) - log(r)`, divided by the sum over its list. Scores, sample weights and lists are those of `Listwise`.

    Args:
        schema: has the labels and the group column.
        label_clip_max_value: C, >= 1; places beyond it count as it.
        common: `session_name`, `temperature` and `scale_logits`, as in `Listwise`; `output`, `label`, `weight` and
            `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column, or the label is not of kind regression.
    """

    label_kinds = ("regression",)

    def __init__(
        self,
        schema: Schema,
        *,
        label_clip_max_value: Annotated[float, Ge(1)] = 512.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.label_clip_max_value = label_clip_max_value

    def targets(self, label: Tensor, lists: Lists) -> Tensor:
        gains = math.log1p(self.label_clip_max_value) - label.clamp(1, self.label_clip_max_value).log()
        sums = lists.sum(gains)
        return gains / sums.where(lists.are_in, 1)

"""Pairwise hinge loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.pairs import Pairwise
from rechub_ray.schema import Schema


@LOSSES.register("pairwise_hinge", "pairwise_hinge_loss")
class PairwiseHinge(Pairwise):
    """Hinge loss of the difference of two logits whose labels differ: `max(0, m - (s_i - s_j))`.

    Here s are the predictions over T, and `m = y_i - y_j`, with labels over T where `label_is_logits`. With
    `use_exponent`, scores and labels go through a sigmoid, and a pair loses `max(0, exp(m - (s_i - s_j)) - 1)`, the
    exponent at most 88. (EasyRec takes the sigmoid of the labels in the place of the scores' there, so that its loss
    does not depend on the model.) Pairs, weights and `ohem_ratio` are those of `Pairwise`.

    Args:
        schema: has the labels and the group column.
        margin: m without `use_label_margin`.
        label_is_logits: whether labels are logits, of another model for instance: they are divided by T too.
        use_label_margin: take the difference of the labels as m.
        use_exponent: see above.
        common: `session_name`, `temperature` and `ohem_ratio`, as in `Pairwise`; `output`, `label`, `weight` and
            `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column.

    Reference: Herbrich, Graepel and Obermayer, Large Margin Rank Boundaries for Ordinal Regression (2000), for m = 1.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        margin: float = 1.0,
        label_is_logits: bool = True,
        use_label_margin: bool = True,
        use_exponent: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.margin, self.label_is_logits = margin, label_is_logits
        self.use_label_margin, self.use_exponent = use_label_margin, use_exponent

    def score(self, prediction: Tensor) -> Tensor:
        score = super().score(prediction)
        return torch.sigmoid(score) if self.use_exponent else score

    def of_pairs(self, difference: Tensor, first: Tensor, second: Tensor) -> Tensor:
        margin = self._label(first) - self._label(second) if self.use_label_margin else self.margin
        lacking = margin - difference
        return torch.relu(torch.expm1(lacking.clamp(-88, 88)) if self.use_exponent else lacking)

    def _label(self, label: Tensor) -> Tensor:
        label = label / self.temperature if self.label_is_logits else label
        return torch.sigmoid(label) if self.use_exponent else label

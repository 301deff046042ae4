"""Pairwise focal loss."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.pairs import Pairwise
from rechub_ray.schema import Schema


@LOSSES.register("pairwise_focal", "pairwise_focal_loss")
class PairwiseFocal(Pairwise):
    """Focal loss of the difference of two logits whose labels differ: `alpha (1 - p)^gamma log(1 + exp(-d))`.

    Here `d = (s_i - s_j) / T` and `p = sigmoid(d)`, in [1e-7, 1 - 1e-7]; the gradient flows through the focal factor.
    Pairs, weights and `ohem_ratio` are those of `Pairwise`.

    Args:
        schema: has the labels and the group column.
        gamma: exponent, >= 0.
        alpha: factor of all pairs, in (0, 1]; None is 1. It balances no classes: the higher label always comes first.
        hinge_margin: pairs with d at or above it do not count; None leaves none out, as EasyRec's code does (its manual
            names 1).
        common: `session_name`, `temperature` and `ohem_ratio`, as in `Pairwise`; `output`, `label`, `weight` and
            `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column.

    Reference: Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, eq. 5, of the label 1.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        gamma: Annotated[float, Ge(0)] = 2.0,
        alpha: Annotated[float, Gt(0), Le(1)] | None = None,
        hinge_margin: float | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.gamma, self.factor = gamma, 1.0 if alpha is None else alpha
        if hinge_margin is not None:
            self.limit, self.scope = hinge_margin, "batch"

    def of_pairs(self, difference: Tensor, first: Tensor, second: Tensor) -> Tensor:
        is_wrong = torch.sigmoid(-difference).clamp(1e-7, 1 - 1e-7)
        return self.factor * is_wrong**self.gamma * F.softplus(-difference)

"""Pairwise logistic loss."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.pairs import Pairwise
from rechub_ray.schema import Schema


@LOSSES.register("pairwise_logistic", "pairwise_logistic_loss")
class PairwiseLogistic(Pairwise):
    """Logistic loss of the difference of two logits whose labels differ: `log(1 + exp(-d))`, `d = (s_i - s_j) / T - m`.

    Pairs, weights and `ohem_ratio` are those of `Pairwise`. As in EasyRec's code, `hinge_margin` is subtracted from the
    difference; its manual says that pairs beyond the margin lose nothing.

    Args:
        schema: has the labels and the group column.
        hinge_margin: m, >= 0.
        use_label_margin: take `m = (y_i - y_j) / T` instead.
        common: `session_name`, `temperature` and `ohem_ratio`, as in `Pairwise`; `output`, `label`, `weight` and
            `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column.

    Reference: Burges et al., Learning to Rank using Gradient Descent (ICML 2005), with sigma = 1 / T.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        hinge_margin: Annotated[float, Ge(0)] = 0.0,
        use_label_margin: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.hinge_margin, self.use_label_margin = hinge_margin, use_label_margin

    def of_pairs(self, difference: Tensor, first: Tensor, second: Tensor) -> Tensor:
        margin = (first - second) / self.temperature if self.use_label_margin else self.hinge_margin
        return F.softplus(margin - difference)

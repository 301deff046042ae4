"""Pairwise loss with a margin."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.pairs import Pairwise
from rechub_ray.schema import Schema


@LOSSES.register("pair_wise", "pair_wise_loss")
class PairWise(Pairwise):
    """Logistic loss of the difference of two logits less a margin: `log(1 + exp(-d))`, `d = (s_i - s_j) / T - margin`.

    Pairs and weights are those of `Pairwise`.

    Args:
        schema: has the labels and the group column.
        margin: added to what the logits are to differ by, after the temperature.
        common: `session_name`, `temperature` and `ohem_ratio`, as in `Pairwise`; `output`, `label`, `weight` and
            `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column.

    Reference: Burges et al., Learning to Rank using Gradient Descent (ICML 2005), eq. 3, with a margin.
    """

    def __init__(self, schema: Schema, *, margin: float = 0.0, **common: Any) -> None:
        super().__init__(schema, **common)
        self.margin = margin

    def of_pairs(self, difference: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return F.softplus(self.margin - difference)

"""Joint ranking and calibration loss."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES, Columns, Rows, weighted_sum
from rechub_ray.losses.lists import Lists
from rechub_ray.losses.pairs import SessionLoss
from rechub_ray.schema import Schema

Strategy = Literal["fixed", "random_uniform", "random_normal", "random_bernoulli", "uncertainty"]


@LOSSES.register("jrc", "jrc_loss")
class JRC(SessionLoss):
    """Calibration and ranking from two logits a row, (s^0, s^1), and a binary label y: `p ce + q ge`.

    `ce` is the cross-entropy of the two classes, the sum of the rows' losses times their sample weights, divided by the
    number of rows whose weight is not zero. `ge` is a mean over all rows j, each in the session g of j:

    - with `same_label_loss`: `-w_j / |g| (sum_{i in g, y_i = 1} log_softmax_g(s^1)_i + sum_{i in g, y_i = 0}
      log_softmax_g(s^0)_i)`;
    - without: `-w_j log(e^(s_j) / (e^(s_j) + sum_{i in g, y_i != y_j} e^(s_i)))`, s being s^1 where y_j = 1, else s^0.

    Rows of weight 0 stand in the sessions of others, and count in the mean. The served probability is
    `sigmoid(s^1 - s^0)`. The model needs a head of kind `classes` for the label; one with an argument `heads` gets it.

    Args:
        schema: has the labels and the group column.
        alpha: of `fixed`: `p = alpha`, `q = 1 - alpha`, in [0, 1].
        same_label_loss: whether rows of one label compete with each other.
        loss_weight_strategy: what p and q are: `fixed`; new in each step and the same on all workers: `random_uniform`
            (p uniform in [0, 1), q = 1 - p), `random_normal` (the softmax of the squares of two normals) or
            `random_bernoulli` (1 and 0, 0 and 1, or twice 1/2 and 1/2, with equal probability); `uncertainty`, learned:
            `e^-a ce + a / 2 + e^-b ge + b / 2`, from a = b = 0.
        common: `session_name`, as in `SessionLoss`; `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B, 2), label (B,) -> (2,): the sums of p ce and of q ge

    Raises:
        ConfigError: `session_name` is not the schema's group column, or the label is not binary.

    Reference: Sheng et al., Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model,
    arXiv 2208.06164, eq. 6 to 8; the strategies are EasyRec's.
    """

    label_kinds = ("binary",)
    heads = ("classes",)
    link = "two_class"

    def __init__(
        self,
        schema: Schema,
        *,
        alpha: Annotated[float, Ge(0), Le(1)] = 0.5,
        same_label_loss: bool = True,
        loss_weight_strategy: Strategy = "fixed",
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.same_label_loss, self.strategy = same_label_loss, loss_weight_strategy
        self.log_variances = nn.Parameter(torch.zeros(2)) if loss_weight_strategy == "uncertainty" else None
        self.shares = (alpha, 1 - alpha) if loss_weight_strategy == "fixed" else (0.5, 0.5)

    def draw(self, generator: torch.Generator) -> None:
        if self.strategy == "random_uniform":
            p = torch.rand((), generator=generator).item()
            self.shares = p, 1 - p
        elif self.strategy == "random_normal":
            p, q = torch.randn(2, generator=generator).square().softmax(0).tolist()
            self.shares = p, q
        elif self.strategy == "random_bernoulli":
            place = int(torch.randint(4, (), generator=generator))
            self.shares = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.5, 0.5))[place]

    def weighted(self, value: Tensor, share: Tensor | float) -> Tensor:
        if self.log_variances is not None:
            value = value + share * self.log_variances.sum() / 2
        return super().weighted(value, share)

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        errors = F.cross_entropy(prediction, rows.target.long(), reduction="none")
        sums = torch.stack([weighted_sum(errors, rows.weight), self._ranking(rows, columns)])
        shares = sums.new_tensor(self.shares) if self.log_variances is None else torch.exp(-self.log_variances)
        return sums * shares

    def count_over(self, rows: Rows, columns: Columns) -> Tensor:
        ones = torch.ones_like(rows.target, dtype=torch.bool)
        weighted = ones if rows.weight is None else rows.weight != 0
        there = ones if rows.is_there is None else rows.is_there
        return torch.stack([weighted.sum(), there.sum()]).float()

    def _ranking(self, rows: Rows, columns: Columns) -> Tensor:
        """Return the sum of `ge` over this rank's rows."""
        others = columns.rows
        lists = Lists(rows, columns, others.is_there, by_group=self.session_name is not None)
        s0, s1 = columns.prediction.unbind(1)
        is_positive = others.target == 1
        score = torch.where(is_positive, s1, s0)
        weight = torch.ones_like(score) if others.weight is None else others.weight
        if self.same_label_loss:  # the weights of the rows j, each with all rows i, are those of i with their mean
            weight = lists.sum(weight) / lists.sum(torch.ones_like(score)).clamp(min=1)
            rivals = torch.where(is_positive, lists.log_sum_exp(s1), lists.log_sum_exp(s0))
        else:
            against = torch.where(is_positive, lists.log_sum_exp(s1, ~is_positive), lists.log_sum_exp(s0, is_positive))
            rivals = torch.logaddexp(score, against)
        return lists.own(-weight * torch.where(lists.are_in, score - rivals, 0))

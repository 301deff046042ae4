"""FTRL-Proximal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.optimizers.base import OPTIMIZERS, DenseOptimizer


@OPTIMIZERS.register("ftrl")
class Ftrl(DenseOptimizer):
    """FTRL-Proximal on dense gradients: Adagrad's steps, and exact zeros where l1 outweighs the gradients.

    Made for wide parts, of many weights that hardly any row needs; `sparse_ftrl` is the same on tables, by rows. With

        n <- n + g^2;  D = (beta + sqrt(n)) / lr + 2 l2

    a weight w > 0 or w < 0 goes to w - g / D. It stops at zero where that crosses it (by less than 2 l1 / D; what is
    over counts on the other side), and stays there until the gradients z that have added up exceed l1: then
    w <- -(z - sign(z) l1) / D.

    That is algorithm 1 of the paper in another form, which gives the same weights at a constant rate. Where a schedule
    changes the rate, the weights that are there stay; in the paper's form they are multiplied by the change. Weights
    that do not start at zero are kept, too.

    Args:
        params: what to update.
        lr: learning rate, >= 0.
        l1: the penalty l1 |w|, >= 0.
        l2: the penalty l2 w^2, >= 0.
        initial_accumulator: n before the first step, >= 0.
        beta: added to sqrt(n), >= 0.

    Reference:
        McMahan et al., Ad Click Prediction: a View from the Trenches, KDD 2013, algorithm 1 (its lambda_2 is 2 l2, its
        n starts at 0 and its beta is 1). The defaults are TensorFlow's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: Annotated[float, Ge(0)] = 1e-2,
        l1: Annotated[float, Ge(0)] = 0.0,
        l2: Annotated[float, Ge(0)] = 0.0,
        initial_accumulator: Annotated[float, Ge(0)] = 0.1,
        beta: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "l1": l1, "l2": l2, "initial_accumulator": initial_accumulator, "beta": beta}
        )

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["sum"] = torch.full_like(parameter, group["initial_accumulator"])
            state["linear"] = torch.zeros_like(parameter)
        state["sum"].addcmul_(gradient, gradient)
        step(parameter, gradient, state["sum"], state["linear"], group)


def step(weights: Tensor, gradient: Tensor, total: Tensor, linear: Tensor, group: dict[str, Any]) -> None:
    """Change weights and z in place by one step, all tensors of one shape.

    Args:
        weights: w.
        gradient: g.
        total: n, with this step's g^2.
        linear: z, of weights that are zero; those of others are not read.
        group: the optimizer's arguments.
    """
    l1, rate = group["l1"], max(group["lr"], _TINY)
    denominator = total.sqrt().add_(group["beta"]).div_(rate).add_(2 * group["l2"]).clamp_(min=_TINY)
    moved = weights.addcdiv(gradient, denominator, value=-1)
    crossing = (denominator * moved).add_(weights.sign(), alpha=l1).neg_()
    linear.copy_(torch.where(weights == 0, linear + gradient, crossing))
    thresholded = torch.nn.functional.softshrink(linear, l1).div_(denominator).neg_()
    weights.copy_(torch.where(weights * moved > 0, moved, thresholded))


_TINY = 1e-30
"""In the place of a rate of zero, and of a sum of no gradients: nothing is divided by zero."""

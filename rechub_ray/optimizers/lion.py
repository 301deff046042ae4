"""Lion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from rechub_ray.optimizers.base import OPTIMIZERS, DenseOptimizer


@OPTIMIZERS.register("lion")
class Lion(DenseOptimizer):
    """The sign of a mean of gradients, on dense gradients: every coordinate moves by lr, and half of Adam's state.

    w <- w - lr * (sign(beta1 m + (1 - beta1) g) + weight_decay * w);  m <- beta2 m + (1 - beta2) g

    Its rate is usually 3 to 10 times lower than Adam's, and its decay as much higher.

    Args:
        params: what to update.
        lr: learning rate, >= 0.
        beta1: share of the momentum in the step's direction, in [0, 1).
        beta2: decay of the momentum, in [0, 1).
        weight_decay: the decay, decoupled as AdamW's, >= 0.

    Reference:
        Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: Annotated[float, Ge(0)] = 1e-4,
        beta1: Annotated[float, Ge(0), Lt(1)] = 0.9,
        beta2: Annotated[float, Ge(0), Lt(1)] = 0.99,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay})

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        direction = state["momentum"].lerp(gradient, 1 - group["beta1"]).sign_()
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
        state["momentum"].lerp_(gradient, 1 - group["beta2"])

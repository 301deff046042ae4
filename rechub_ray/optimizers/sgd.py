"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from rechub_ray.optimizers.base import OPTIMIZERS, can_fuse


@OPTIMIZERS.register("sgd")
class SGD(torch.optim.SGD):
    """Gradient descent with momentum on dense gradients: v <- momentum v + g;  w <- w - lr v.

    Args:
        params: what to update.
        lr: learning rate, >= 0.
        momentum: decay of the velocity, in [0, 1).
        nesterov: looks ahead: w <- w - lr (g + momentum v). Needs momentum > 0.
        weight_decay: adds weight_decay * w to the gradient, >= 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: Annotated[float, Ge(0)] = 1e-2,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.0,
        nesterov: bool = False,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        params = list(params)
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            fused=can_fuse(params),
        )

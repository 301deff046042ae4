"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from rechub_ray.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register("rmsprop")
class RMSprop(torch.optim.RMSprop):
    """RMSprop on dense gradients.

    v <- alpha v + (1 - alpha) g^2;  u <- momentum u + g / (sqrt(v) + eps);  w <- w - lr u

    Args:
        params: what to update.
        lr: learning rate, >= 0.
        alpha: decay of the mean of squares, in [0, 1).
        eps: added to the denominator, > 0.
        momentum: decay of the velocity, in [0, 1).
        centered: divide by the standard deviation of the gradient: v less the square of its decayed mean.
        weight_decay: adds weight_decay * w to the gradient, >= 0.

    Reference:
        Tieleman and Hinton, Lecture 6.5, 2012; centered: Graves, arXiv:1308.0850, equations 38 to 45.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: Annotated[float, Ge(0)] = 1e-3,
        alpha: Annotated[float, Ge(0), Lt(1)] = 0.99,
        eps: Annotated[float, Gt(0)] = 1e-8,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.0,
        centered: bool = False,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(
            list(params),
            lr=lr,
            alpha=alpha,
            eps=eps,
            momentum=momentum,
            centered=centered,
            weight_decay=weight_decay,
        )

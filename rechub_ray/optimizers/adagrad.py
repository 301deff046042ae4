"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rechub_ray.optimizers.base import OPTIMIZERS, can_fuse


@OPTIMIZERS.register("adagrad")
class Adagrad(torch.optim.Adagrad):
    """Adagrad on dense gradients: G <- G + g^2;  w <- w - lr * g / (sqrt(G) + eps).

    Args:
        params: what to update.
        lr: learning rate, >= 0.
        initial_accumulator: G before the first step, >= 0.
        eps: added to the denominator, > 0.
        weight_decay: adds weight_decay * w to the gradient, >= 0.

    Reference:
        Duchi, Hazan and Singer, Adaptive Subgradient Methods, JMLR 12 (2011), figure 1, diagonal form.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: Annotated[float, Ge(0)] = 1e-2,
        initial_accumulator: Annotated[float, Ge(0)] = 0.0,
        eps: Annotated[float, Gt(0)] = 1e-10,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        params = list(params)
        super().__init__(
            params,
            lr=lr,
            initial_accumulator_value=initial_accumulator,
            eps=eps,
            weight_decay=weight_decay,
            fused=can_fuse(params, devices=("cpu",)),
        )

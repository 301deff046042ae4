"""Adam on row gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from rechub_ray.layers.rows import read_rows, write_rows
from rechub_ray.optimizers.base import OPTIMIZERS, SparseOptimizer


@OPTIMIZERS.register("lazy_adam")
class LazyAdam(SparseOptimizer):
    """Adam on the rows in the gradient; the other rows' moments neither decay nor move them.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    w <- w - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    t counts the table's steps, not the row's updates: a rare row's first update late in training is then small (its
    moments start at zero and hardly any correction is left) instead of a full lr in every coordinate. When every row
    is in every gradient this is Adam.

    Args:
        params: tables, (V, D) each.
        lr: learning rate, >= 0.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: adds weight_decay * w to the gradient of the rows in it, >= 0.

    Reference:
        Kingma and Ba, arXiv:1412.6980, algorithm 1, on rows. `torch.optim.SparseAdam` is the same but for eps, which
        it adds before the second moment's correction.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: Annotated[float, Ge(0)] = 1e-3,
        beta1: Annotated[float, Ge(0), Lt(1)] = 0.9,
        beta2: Annotated[float, Ge(0), Lt(1)] = 0.999,
        eps: Annotated[float, Gt(0)] = 1e-8,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay})

    def begin(self, table: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["first"] = torch.zeros_like(table)
            state["second"] = torch.zeros_like(table)
        state["step"] += 1

    def update(
        self, table: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(read_rows(table, rows), alpha=group["weight_decay"])
        step = int(state["step"])  # lives on the CPU: no wait for a device
        beta1, beta2 = group["beta1"], group["beta2"]
        first = read_rows(state["first"], rows).lerp_(gradient, 1 - beta1)
        second = read_rows(state["second"], rows).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        write_rows(state["first"], rows, first)
        write_rows(state["second"], rows, second)
        denominator = second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        weights = read_rows(table, rows)
        write_rows(table, rows, weights.addcdiv_(first, denominator, value=-group["lr"] / (1 - beta1**step)))

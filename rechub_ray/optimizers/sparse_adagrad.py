"""Adagrad on row gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rechub_ray.layers.rows import read_rows, write_rows
from rechub_ray.optimizers.base import OPTIMIZERS, SparseOptimizer


@OPTIMIZERS.register("sparse_adagrad")
class SparseAdagrad(SparseOptimizer):
    """Adagrad on the rows in the gradient: G <- G + g^2;  w <- w - lr * g / (sqrt(G) + eps).

    Without weight decay a row that is not in the gradient would not move in Adagrad either, so this equals
    `adagrad` on the dense gradient.

    Args:
        params: tables, (V, D) each.
        lr: learning rate, >= 0.
        initial_accumulator: G before a row's first update, >= 0.
        eps: added to the denominator, > 0.
        weight_decay: adds weight_decay * w to the gradient of the rows in it, >= 0.

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
        super().__init__(
            params, {"lr": lr, "initial_accumulator": initial_accumulator, "eps": eps, "weight_decay": weight_decay}
        )

    def begin(self, table: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["sum"] = torch.full_like(table, group["initial_accumulator"])

    def update(
        self, table: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(read_rows(table, rows), alpha=group["weight_decay"])
        total = read_rows(state["sum"], rows).addcmul_(gradient, gradient)
        write_rows(state["sum"], rows, total)
        weights = read_rows(table, rows)
        write_rows(table, rows, weights.addcdiv_(gradient, total.sqrt_().add_(group["eps"]), value=-group["lr"]))

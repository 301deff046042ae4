"""Row-wise Adagrad: one accumulator a row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rechub_ray.cpu import takes
from rechub_ray.layers.rows import read_rows, write_rows
from rechub_ray.optimizers.base import OPTIMIZERS, SparseOptimizer


@OPTIMIZERS.register("rowwise_adagrad")
class RowwiseAdagrad(SparseOptimizer):
    """Adagrad whose accumulator is one number a row: 1 / D of Adagrad's state.

    For each row in the gradient: G <- G + mean_d(g_d^2);  w <- w - lr * g / (sqrt(G) + eps).

    Args:
        params: tables, (V, D) each.
        lr: learning rate, >= 0.
        initial_accumulator: G before a row's first update, >= 0.
        eps: added to the denominator, > 0.
        weight_decay: adds weight_decay * w to the gradient of the rows in it, >= 0.

    Reference:
        EXACT_ROWWISE_ADAGRAD of FBGEMM (weight decay as its L2 mode); after Duchi, Hazan and Singer, JMLR 12 (2011).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: Annotated[float, Ge(0)] = 1e-2,
        initial_accumulator: Annotated[float, Ge(0)] = 0.0,
        eps: Annotated[float, Gt(0)] = 1e-8,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "initial_accumulator": initial_accumulator, "eps": eps, "weight_decay": weight_decay}
        )

    def begin(self, table: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["sum"] = torch.full_like(table[:, 0], group["initial_accumulator"])

    def update_all(
        self, table: Tensor, rows: Tensor, values: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not takes("adagrad_kernel", table, values, state["sum"]):
            super().update_all(table, rows, values, state, group)
            return
        from rechub_ray.cpu.kernels import update_rowwise_adagrad

        update_rowwise_adagrad(
            table,
            state["sum"],
            rows,
            values,
            lr=group["lr"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )

    def update(
        self, table: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(read_rows(table, rows), alpha=group["weight_decay"])
        width = table.shape[1]
        mean_square = gradient.square().mv(gradient.new_full((width,), 1 / width))  # faster than mean: few columns
        total = state["sum"].index_select(0, rows).add_(mean_square)
        state["sum"].scatter_(0, rows, total)
        factor = total.sqrt_().add_(group["eps"]).reciprocal_().unsqueeze(1)
        write_rows(table, rows, read_rows(table, rows).addcmul_(gradient, factor, value=-group["lr"]))

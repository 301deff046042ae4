"""FTRL-Proximal on row gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.layers.rows import read_rows, write_rows
from rechub_ray.optimizers.base import OPTIMIZERS, SparseOptimizer
from rechub_ray.optimizers.ftrl import step


@OPTIMIZERS.register("sparse_ftrl")
class SparseFtrl(SparseOptimizer):
    """FTRL-Proximal on the rows in the gradient; a row without a gradient would not move in `ftrl` either.

    Args:
        params: tables, (V, D) each; those of a wide part have D = 1.
        lr: learning rate, >= 0.
        l1: the penalty l1 |w|, >= 0.
        l2: the penalty l2 w^2, >= 0.
        initial_accumulator: n before a row's first update, >= 0.
        beta: added to sqrt(n), >= 0.

    Reference:
        See `Ftrl`.
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

    def begin(self, table: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["sum"] = torch.full_like(table, group["initial_accumulator"])
            state["linear"] = torch.zeros_like(table)

    def update(
        self, table: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        total = read_rows(state["sum"], rows).addcmul_(gradient, gradient)
        weights, linear = read_rows(table, rows), read_rows(state["linear"], rows)
        step(weights, gradient, total, linear, group)
        for tensor, values in ((state["sum"], total), (state["linear"], linear), (table, weights)):
            write_rows(tensor, rows, values)

"""Loops over rows of large tables that are one pass over memory.

For contiguous float32 tensors on the CPU: the caller checks that with `cpu.takes`, and imports this module only then,
since Numba takes half a second to import and to load a kernel, and seconds where it compiles one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from torch import Tensor


def update_rowwise_adagrad(
    table: Tensor, total: Tensor, rows: Tensor, gradient: Tensor, *, lr: float, eps: float, weight_decay: float
) -> None:
    """Do `RowwiseAdagrad`'s step in place.

    Args:
        table: (V, D).
        total: the accumulators, (V,).
        rows: int64 (U,), each once.
        gradient: of these rows, (U, D).
        lr: learning rate, >= 0.
        eps: added to the denominator, > 0.
        weight_decay: adds weight_decay * w to the gradient, >= 0.

    Raises:
        IndexError: a row that the table does not have; the others are updated.
    """
    arrays = (tensor.detach().numpy() for tensor in (table, total, rows.contiguous(), gradient))
    if not _rowwise_adagrad(*arrays, *(np.float32(number) for number in (lr, eps, weight_decay))):
        raise IndexError("a row past the end of its table")


def _compiled(function: Callable[..., Any]) -> Any:
    """Return the function, to be compiled at its first call, and kept on disk where a folder can be written."""
    # sums may be reordered, or they would not use wide instructions
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no such folder
        return numba.njit(**options)(function)


@_compiled
def _rowwise_adagrad(table, total, rows, gradient, lr, eps, decay):  # type: ignore[no-untyped-def]
    width, all_there = table.shape[1], True
    share = np.float32(1 / width)
    for i in range(rows.size):
        row = np.uint64(rows[i])  # unsigned: no check for places counted from the end
        if row >= np.uint64(table.shape[0]):
            all_there = False
            continue
        square = np.float32(0)
        for d in range(width):
            g = gradient[i, d] + decay * table[row, d]
            square += g * g
        total[row] += square * share
        factor = lr / (np.sqrt(total[row]) + eps)
        for d in range(width):
            table[row, d] -= factor * (gradient[i, d] + decay * table[row, d])
    return all_there

"""Loops over rows of large tables that are one pass over memory, compiled by Numba when they are first called.

For contiguous float32 tensors on the CPU; who calls checks that with `rows.fits_kernels`, and imports this module only
then, since Numba takes half a second to import and to load a kernel, a second where it compiles it. A kernel runs on
the thread that calls it: PyTorch's own threads still wait for work on the other cores, and handing half of the rows to
a thread beside them gained nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

_AHEAD = 32  # rows that are on their way from memory while one is worked on


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Kept on disk where a folder can be written, so that only the first run on a machine compiles."""
    # sums may be reordered, or they would not use wide instructions
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
    try:
        compiled: Callable[..., None] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no such folder
        compiled = numba.njit(**options)(function)
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(_: Any, array: Any, row: Any) -> Any:
    """Asks the processor to fetch the begin of a row."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        whole = context.make_array(kind)(context, builder, arguments[0])
        place = [arguments[1], *[context.get_constant(numba.types.intp, 0)] * (kind.ndim - 1)]
        pointer = builder.bitcast(
            cgutils.get_item_pointer(context, builder, kind, whole, place), ir.IntType(8).as_pointer()
        )
        number = ir.IntType(32)
        called = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, called, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return numba.types.void(array, row), generate


def update_rowwise_adagrad(
    table: Tensor, total: Tensor, rows: Tensor, gradient: Tensor, *, lr: float, eps: float, weight_decay: float
) -> None:
    """`RowwiseAdagrad`'s step in place: table (V, D), total (V,), rows (U,) each once, gradient (U, D).

    Raises:
        IndexError: a row that the table has not; the rows before it are updated.
    """
    arrays = (table.detach().numpy(), total.numpy(), rows.contiguous().numpy(), gradient.numpy())
    _rowwise_adagrad(*arrays, np.float32(lr), np.float32(eps), np.float32(weight_decay))


@_compiled
def _rowwise_adagrad(table, total, rows, gradient, lr, eps, decay):  # type: ignore[no-untyped-def]
    width = table.shape[1]
    share = np.float32(1 / width)
    for i in range(rows.size):
        ahead = rows[min(i + _AHEAD, rows.size - 1)]
        _prefetch(table, ahead)
        _prefetch(total, ahead)
        row = np.uint64(rows[i])  # unsigned: no check for places counted from the end
        if row >= np.uint64(table.shape[0]):
            raise IndexError("a row past the end of its table")
        square = np.float32(0)
        for d in range(width):
            g = gradient[i, d] + decay * table[row, d]
            square += g * g
        total[row] += square * share
        factor = lr / (np.sqrt(total[row]) + eps)
        for d in range(width):
            table[row, d] -= factor * (gradient[i, d] + decay * table[row, d])

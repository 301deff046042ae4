"""Loops over rows of large tables that are one pass over memory, on all of PyTorch's threads.

For contiguous float32 tensors on the CPU: the caller checks that with `cpu.takes`, and imports this module only then,
since Numba takes half a second to import and to load its kernels, and seconds where it compiles them. Results
have the same bits with any number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray
from torch import Tensor

from rechub_ray.cpu.parallel import address, compiled, fail, kernel, next_piece, prefetch, run

_AHEAD = 32  # rows that are on their way from memory while one is worked on
_PIECE = 2048  # rows that a thread takes at a time


def update_rowwise_adagrad(
    table: Tensor, total: Tensor, rows: Tensor, gradient: Tensor, *, lr: float, eps: float, weight_decay: float
) -> None:
    """Do `RowwiseAdagrad`'s step in place: table (V, D), total (V,), rows (U,) each once, gradient (U, D).

    Raises:
        IndexError: a row that the table does not have; the others are updated.
    """
    rows, numbers = rows.contiguous(), torch.tensor([lr, eps, weight_decay], dtype=torch.float32)
    run(_rowwise_adagrad, _pieces(rows), rows.numel(), *table.shape, table, total, rows, gradient, numbers)


def _pieces(rows: Tensor) -> int:
    return -(-rows.numel() // _PIECE)


@compiled
def _update(table, total, rows, gradient, numbers, begin, end, words):  # type: ignore[no-untyped-def]
    width, lr, eps, decay = table.shape[1], numbers[0], numbers[1], numbers[2]
    share = np.float32(1 / width)
    for i in range(begin, end):
        ahead = rows[min(i + _AHEAD, rows.size - 1)]
        prefetch(table, ahead)
        prefetch(total, ahead)
        row = np.uint64(rows[i])  # unsigned: no check for places counted from the end
        if row >= np.uint64(table.shape[0]):
            fail(words)
            continue
        square = np.float32(0)
        for d in range(width):
            g = gradient[i, d] + decay * table[row, d]
            square += g * g
        total[row] += square * share
        factor = lr / (np.sqrt(total[row]) + eps)
        for d in range(width):
            table[row, d] -= factor * (gradient[i, d] + decay * table[row, d])


@kernel
def _rowwise_adagrad(words):  # type: ignore[no-untyped-def]
    count, size, width = words[2], words[3], words[4]
    table = carray(address(words[5]), (size, width), np.float32)
    total = carray(address(words[6]), size, np.float32)
    rows = carray(address(words[7]), count, np.int64)
    gradient = carray(address(words[8]), (count, width), np.float32)
    numbers = carray(address(words[9]), 3, np.float32)
    while True:
        begin = next_piece(words) * _PIECE
        if begin >= count:
            break
        _update(table, total, rows, gradient, numbers, begin, min(begin + _PIECE, count), words)

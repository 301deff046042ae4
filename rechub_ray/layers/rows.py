"""Reading, writing and summing rows of large tables, at the speed of memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RowGradient = tuple[Tensor, Tensor]  # rows (U,) int64, ascending, each once; values (U, D)


def read_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Return table[rows]: (V, D) and (N,) give (N, D)."""
    if table.shape[1] == 1:
        return table.view(-1).index_select(0, rows).unsqueeze(1)
    if table.device.type == "cpu" and rows.numel():
        # bags of one row: this kernel fetches rows ahead, which halves the time of index_select on tables beyond cache
        return F.embedding_bag(rows.unsqueeze(1), table, mode="sum")
    return table.index_select(0, rows)


def write_rows(table: Tensor, rows: Tensor, values: Tensor) -> None:
    """Set table[rows] = values in place, for rows that are each there once; (V, D), (U,) and (U, D)."""
    if table.shape[1] == 1:
        table.view(-1).scatter_(0, rows, values.reshape(-1))
    elif table.device.type == "cpu":
        # a row as one element of D * 4 bytes: NumPy copies it whole, three times as fast as index_copy_
        row = f"V{table.shape[1] * table.element_size()}"
        np.put(table.detach().numpy().view(row), rows.numpy(), values.contiguous().numpy().view(row))
    else:
        table.index_copy_(0, rows, values)


def coalesce(gradients: Sequence[RowGradient], sizes: Sequence[int]) -> list[RowGradient]:
    """Sum the values of equal rows, in the order in which they stand, and sorts by row.

    Tables that were looked up at the same rows (a first-order term beside the embedding) share the sorting.

    Args:
        gradients: for each table the rows (N,), in any order, and their values (N, D).
        sizes: for each table its number of rows.
    """
    result: list[RowGradient] = []
    plans: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for (rows, values), size in zip(gradients, sizes, strict=True):
        plan = next((p for p in plans if p[0].shape == rows.shape and torch.equal(p[0], rows)), None)
        if plan is None:
            plan = (rows, *_plan(rows, size))
            plans.append(plan)
        _, unique, order, starts = plan
        if unique.numel() == rows.numel():
            summed = read_rows(values, order)
        else:
            summed = F.embedding_bag(order, values, starts, mode="sum")
        result.append((unique, summed))
    return result


def _plan(rows: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct rows in ascending order, the places of the rows in that order, and each one's first place."""
    ordered, order = torch.sort(rows.int() if size < 2**31 else rows, stable=True)
    unique, counts = torch.unique_consecutive(ordered, return_counts=True)
    return unique.long(), order, counts.cumsum(0) - counts

"""Reading rows of a table so that the table gets row gradients, or dense ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rechub_ray.layers.rows import read_rows


def look_up(weight: Tensor, rows: Tensor, *, by_rows: bool) -> Tensor:
    """Return weight[rows].

    Args:
        weight: the table, (V, D).
        rows: int64 in [0, V), of any shape.
        by_rows: whether the table's gradient is sparse (coordinates of the rows read, not coalesced) or dense.

    Shapes:
        (*rows.shape, D)
    """
    if weight.device.type == "cpu" and not torch.compiler.is_compiling():
        vectors: Tensor = _LookUp.apply(rows, weight, by_rows)  # type: ignore[no-untyped-call]
        return vectors
    return F.embedding(rows, weight, sparse=by_rows)


def look_up_range(weight: Tensor, start: int, stop: int, *, by_rows: bool) -> Tensor:
    """Return weight[start:stop], a view; its gradient reaches the table as `look_up`'s does."""
    if by_rows and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        rows: Tensor = _LookUpRange.apply(weight, start, stop)  # type: ignore[no-untyped-call]
        return rows
    return weight[start:stop]


class _LookUp(torch.autograd.Function):
    """F.embedding on the CPU, with faster kernels forward (`read_rows`) and backward (in the dense case)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, by_rows: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape, ctx.by_rows = weight.shape, by_rows
        return read_rows(weight, rows.reshape(-1)).view(*rows.shape, weight.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (rows,) = ctx.saved_tensors
        return None, _gradient(rows, gradient, ctx.shape, ctx.by_rows), None


class _LookUpRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, start: int, stop: int) -> Tensor:
        ctx.shape, ctx.start, ctx.stop = weight.shape, start, stop
        return weight.detach()[start:stop]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows = torch.arange(ctx.start, ctx.stop, device=gradient.device)
        return _gradient(rows, gradient, ctx.shape, by_rows=True), None, None


def _gradient(rows: Tensor, gradient: Tensor, shape: torch.Size, by_rows: bool) -> Tensor:
    """Return the gradient of a table of which `rows` were read, and got `gradient` back."""
    rows, gradient = rows.reshape(-1), gradient.reshape(-1, shape[1])
    if by_rows:
        return torch.sparse_coo_tensor(rows.unsqueeze(0), gradient, shape, check_invariants=False)
    return gradient.new_zeros(shape).index_add_(0, rows, gradient)

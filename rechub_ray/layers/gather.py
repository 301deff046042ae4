"""Rows of all ranks, with gradients that go back to each row's rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rechub_ray.world import World


class _Gather(torch.autograd.Function):
    """Concatenation over ranks; backward sums the gradients that all ranks have for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        parts = world.gather(tensor.contiguous())
        ctx.world, ctx.start, ctx.rows = world, sum(len(part) for part in parts[: world.rank]), len(tensor)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = ctx.world.sum_(gradient.contiguous().clone())
        return total[ctx.start : ctx.start + ctx.rows], None


def gather_rows(world: World, tensor: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all ranks in rank order, and the place of this rank's first one.

    Every rank calls it equally often and in the same order, and differentiates it equally often. Ranks may hold
    different numbers of rows. The gradient of a tensor is the sum of the gradients of all ranks' results.

    Args:
        world: the ranks.
        tensor: (B, ...), of any type; gradients flow where it takes part in them.

    Shapes:
        (B, ...) -> (sum of B over ranks, ...)
    """
    if world.size == 1:
        return tensor, 0
    rows = torch.tensor([tensor.shape[0]], dtype=torch.int64, device=tensor.device)
    counts = torch.cat(world.gather(rows)).tolist()
    return _Gather.apply(tensor, world), sum(counts[: world.rank])  # type: ignore[no-untyped-call]

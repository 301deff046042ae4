"""Batch normalisation over the rows of all workers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.world import World


class BatchNorm1d(nn.BatchNorm1d):
    """`weight * (x - mean) / sqrt(var + eps) + bias` with the mean and variance of the global batch.

    With one worker, and in evaluation, it is torch.nn.BatchNorm1d to the bit. While several workers train, mean and
    variance are those of all workers' rows, which may differ in number, so that 2 workers of b rows give what 1
    worker of 2b rows gives; the running statistics are the same on every worker. One all_reduce forward, one
    backward: every worker has to run both, in the same order.

    A training batch of one row (one worker) has no variance: it is normalised by the running statistics, which it
    leaves as they are, where PyTorch raises.

    Args:
        num_features: width of x.
        affine: whether there are a weight and a bias.

    Shapes:
        (B, num_features) -> (B, num_features)

    Reference: Ioffe and Szegedy, Batch Normalization, arXiv 1502.03167, algorithm 1.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, *, affine: bool = True) -> None:
        super().__init__(num_features, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        world = World.current()
        if world.size > 1:
            return self._synchronised(x, world)
        if x.shape[0] > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _synchronised(self, x: Tensor, world: World) -> Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            mean, var, count = _moments(x, self.running_mean.dtype, world)
            unbiased = var * (count / (count - 1).clamp(min=1))
            momentum = (self.momentum or 0.0) * (count > 0).to(self.running_mean)
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), momentum)
            self.num_batches_tracked += 1
        result: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, mean, var, count, self.weight, self.bias, self.eps, world
        )
        return result


def _moments(x: Tensor, dtype: torch.dtype, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance and number of all ranks' rows, by one all_reduce.

    Every rank's own moments travel, each in its row of a table: summing squares over the ranks would cancel where the
    mean is large beside the deviation.
    """
    width = x.shape[1]
    table = torch.zeros(world.size, 2 * width + 1, dtype=dtype, device=x.device)
    if x.shape[0] > 0:
        mine = table[world.rank]
        mine[:width] = x.mean(0, dtype=dtype)
        mine[width:-1] = (x - mine[:width]).square_().mean(0)
        mine[-1] = x.shape[0]
    world.sum_(table)
    counts = table[:, -1:]
    count = counts.sum()
    shares = counts / count.clamp(min=1)  # a layer on the ids of lists has none where all lists are empty
    mean = (shares * table[:, :width]).sum(0)
    var = (shares * (table[:, width:-1] + (table[:, :width] - mean).square())).sum(0)
    return mean, var, count


class _Normalise(torch.autograd.Function):
    """Normalisation by given moments, whose gradient knows that the moments come from all ranks' rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        world: World,
    ) -> Tensor:
        ctx.world = world
        ctx.save_for_backward(x, mean, torch.rsqrt(var + eps), count, weight)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, count, weight = ctx.saved_tensors
        grad = gradients[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - mean).mul_(scale)
        # the parameters' gradients stay this rank's own, the loop averages them like any other; those of the moments
        # belong to every rank's rows
        local = torch.cat([grad.sum(0), (grad * normal).sum(0)])
        shared = ctx.world.sum_(local.clone()) / count.clamp(min=1)
        width = x.shape[1]
        factor = scale if weight is None else weight * scale
        grad_x = (grad - shared[:width]).sub_(normal.mul_(shared[width:])).mul_(factor)
        own = (None, None) if weight is None else (local[width:], local[:width])
        return grad_x.to(x.dtype), None, None, None, *own, None, None

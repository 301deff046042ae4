"""GradNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rechub_ray.balancing.base import BALANCING, Balancing
from rechub_ray.schema import Label

_LEAST = 1e-3


@BALANCING.register("gradnorm")
class GradNorm(Balancing):
    """Losses weighted so that tasks that lag behind have larger gradients: `sum_t w_t L_t`, with w from the norms.

    With n_t the norm of L_t's gradient at the last shared layer, `G_t = w_t n_t`, and the relative rate of training
    `r_t = (L_t / L_t(0)) / mean_j (L_j / L_j(0))`, w takes a step of gradient descent on
    `sum_t |G_t - mean(G) r_t^alpha|`, in which the second term is constant; then w is scaled to the sum T. A step uses
    the weights from before it. L(0) are the losses of the first step.

    The last shared layer is the last parameter of the model, tables left out, that several tasks are computed from.
    Deviations from the paper: plain gradient descent of w; w_t stays above 0.001; where a loss is not positive its
    ratio is 1.

    Args:
        tasks: the labels that have losses, at least two.
        alpha: strength of the pull towards equal rates, >= 0.
        lr: rate of w, > 0.

    Reference: Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing, arXiv 1711.02257, algorithm 1.
    """

    watches = True
    fewest_tasks = 2
    task_weights: Tensor
    first_losses: Tensor

    def __init__(
        self, tasks: Sequence[Label], *, alpha: Annotated[float, Ge(0)] = 1.5, lr: Annotated[float, Gt(0)] = 0.025
    ) -> None:
        super().__init__(tasks)
        self.alpha, self.lr = alpha, lr
        self.register_buffer("task_weights", torch.ones(len(self.tasks)))
        self.register_buffer("first_losses", torch.full((len(self.tasks),), -1.0))

    def watched(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if name not in self.tables][-1:]

    def combine(self, losses: Tensor, share: Tensor | float) -> Tensor:
        return (self.task_weights * losses).sum()

    @torch.no_grad()
    def observe(self, products: Tensor, losses: Tensor) -> None:
        if (self.first_losses < 0).all():
            self.first_losses.copy_(losses.clamp(min=0))
        norms = products.diagonal().clamp(min=0).sqrt()
        losses, weights, first = losses.to(norms), self.task_weights.to(norms), self.first_losses.to(norms)
        scaled = weights * norms
        ratios = torch.where((first > 0) & (losses > 0), losses / first.clamp(min=1e-12), 1)
        target = scaled.mean() * (ratios / ratios.mean()) ** self.alpha
        slope = torch.sign(scaled - target) * norms
        moved = (weights - self.lr * slope).clamp(min=_LEAST)
        self.task_weights.copy_(moved * len(moved) / moved.sum())

    @torch.no_grad()
    def weights(self) -> Tensor:
        return self.task_weights

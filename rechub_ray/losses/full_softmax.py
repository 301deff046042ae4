"""Softmax over all items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import TowerLoss
from rechub_ray.world import World

_ROWS, _COLUMNS = 1024, 2048
"""Rows and items that are compared at once: 8 MiB of products in float32."""


@LOSSES.register("full_softmax")
class FullSoftmax(TowerLoss):
    """Cross-entropy of a row's own item among all items of the item table (`negatives: [all]`).

    `log(sum_j exp(u_i v_j / T)) - u_i v_i / T`, where j runs over all items. Products are computed in blocks of rows
    and of items, and again in backward, so memory does not grow with rows times items; time does: above some 100,000
    items take `sampled_softmax`. Rows whose label is above 0 count, and all rows of data without labels; the rows'
    losses, times their sample weights, are summed and divided by the number of rows that count and whose weight is not
    zero. Rows whose item is not in the item table do not count.

    Args:
        schema: has the labels and features.
        common: the arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (N, D) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: the softmax of Covington et al., Deep Neural Networks for YouTube Recommendations (RecSys 2016), section
    3.1, without sampling.
    """

    scope = "rows"
    takes_all = True
    usual_negatives = ("all",)

    def forward(self, outputs: Outputs, batch: Batch, world: World | None = None) -> Tensor:
        if batch.candidates is None or batch.candidates.own is None:
            raise ConfigError(
                f"loss '{self.registered_name}' does not have the vectors of all items",
                expected="a model for retrieval, and negatives: [all]",
            )
        user, item = self.vectors(outputs, batch)
        own = batch.candidates.own
        losses: Tensor = FullCrossEntropy.apply(user / self.temperature, item, own.clamp(min=0))  # type: ignore[no-untyped-call]
        return (losses * self.counts(self.rows(batch))).sum()

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        return (self.counts(self.rows(batch)) != 0).sum().float()


class FullCrossEntropy(torch.autograd.Function):
    """`log(sum_j exp(u_i v_j)) - u_i v_own(i)`; keeps one number a row for backward.

    Shapes:
        users (B, D), items (N, D), own (B,) int64 -> (B,)
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, own: Tensor) -> Tensor:
        total = users.new_empty(len(users))
        for rows in _stretches(len(users), _ROWS):
            mine = users[rows]
            largest = mine.new_full((len(mine), 1), -torch.inf)
            summed = mine.new_zeros((len(mine), 1))
            for columns in _stretches(len(items), _COLUMNS):
                products = mine @ items[columns].T
                before, largest = largest, torch.maximum(largest, products.amax(1, keepdim=True))
                summed = summed * (before - largest).exp() + products.sub_(largest).exp_().sum(1, keepdim=True)
            total[rows] = (largest + summed.log()).squeeze(1)
        ctx.save_for_backward(users, items, own, total)
        return total - (users * items[own]).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        users, items, own, total = ctx.saved_tensors
        of_users = items[own].mul_(-gradient.unsqueeze(1))
        of_items = torch.zeros_like(items).index_add_(0, own, users * -gradient.unsqueeze(1))
        for rows in _stretches(len(users), _ROWS):
            mine, shift, factor = users[rows], total[rows].unsqueeze(1), gradient[rows].unsqueeze(1)
            for columns in _stretches(len(items), _COLUMNS):
                shares = (mine @ items[columns].T).sub_(shift).exp_().mul_(factor)
                of_users[rows].addmm_(shares, items[columns])
                of_items[columns].addmm_(shares.T, mine)
        return of_users, of_items, None


def _stretches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))

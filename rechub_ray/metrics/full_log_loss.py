"""Cross-entropy of rows' items among all items."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, State
from rechub_ray.metrics.ranks import Asked, RankMetric
from rechub_ray.schema import Schema


@METRICS.register("full_log_loss")
class FullLogLoss(RankMetric):
    """The mean of `log(sum_j exp(u_i v_j / T)) - u_i v_i / T` over rows, where j runs over all items of the item table.

    It is what the loss `full_softmax` of the same temperature is on the rows of a split. Rows whose item is not in the
    item table do not count.

    Args:
        schema: has items.
        temperature: T, > 0.
    """

    mode = "min"

    def __init__(self, schema: Schema, *, temperature: Annotated[float, Gt(0)] = 1.0) -> None:
        super().__init__(schema, k=1)
        self.temperature = temperature

    @property
    def asked(self) -> Asked:
        return Asked(temperature=self.temperature)

    @property
    def reads(self) -> str:
        return f"rank/softmax/{self.temperature:g}"

    def key_as(self, name: str) -> str:
        return name

    def update(self, outputs: Outputs, batch: Batch) -> State:
        rank, loss = outputs[self.reads], outputs.get(f"{self.reads}/loss")
        loss = rank.double() if loss is None else loss.double()  # None of no rows
        weight = torch.ones_like(loss) if batch.weight is None else batch.weight.double()
        weight = torch.where(rank < self.items, weight, 0)
        if self.schema.labels:
            weight = torch.where(batch.labels[:, 0] > 0, weight, 0)
        return {"total": torch.where(weight > 0, loss * weight, 0).sum(), "weight": weight.sum()}

    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        raise NotImplementedError

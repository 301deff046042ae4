"""Coverage of the items by the first k."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import METRICS, State
from rechub_ray.metrics.ranks import RankMetric
from rechub_ray.schema import PositiveInt, Schema


@METRICS.register("coverage_at_k")
class CoverageAtK(RankMetric):
    """The share of all items that are among the first k of some row; `coverage@10` in configurations.

    Args:
        schema: has items.
        k: as in `RankMetric`.
        exclude: as in `RankMetric`.
    """

    def __init__(self, schema: Schema, *, k: PositiveInt = 10, exclude: str | None = None) -> None:
        super().__init__(schema, k=k, exclude=exclude)
        self.merging = {"shown": "sum"}

    @property
    def top(self) -> int:
        return self.k

    def update(self, outputs: Outputs, batch: Batch) -> State:
        places = outputs[f"{self.reads}/top"][:, : self.k]
        if batch.weight is not None:
            places = places[batch.weight > 0]
        shown = torch.zeros(self.items, dtype=torch.int64, device=places.device)
        return {"shown": shown.index_fill(0, places.flatten(), 1)}

    def compute(self, state: State) -> float:
        return float((state["shown"] > 0).double().mean())

    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        raise NotImplementedError

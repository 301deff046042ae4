"""Metrics that are a weighted mean of one number a row."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import Metric, State


class MeanMetric(Metric):
    """sum_i w_i v_i / sum_i w_i in float64; a subclass gives v."""

    merging = {"total": "sum", "weight": "sum"}

    @abc.abstractmethod
    def values(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return one number a row, (B,) float64, from (B,) float64 predictions and labels."""

    def update(self, outputs: Outputs, batch: Batch) -> State:
        values = self.values(self.prediction(outputs).double(), self.target(batch).double())
        weight = torch.ones_like(values) if batch.weight is None else batch.weight.double()
        return {"total": (values * weight).sum(), "weight": weight.sum()}

    def compute(self, state: State) -> float:
        return float(state["total"] / state["weight"])  # 0 / 0 is NaN in torch

"""Metrics that count rows which are called clicks: those with a probability above a threshold."""

from __future__ import annotations

import abc
import math
from typing import Annotated, Any

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.metrics.base import Metric, State
from rechub_ray.schema import Schema


class AtThreshold(Metric):
    """The (weighted) share of right calls among the rows that a subclass names.

    Args:
        threshold: a row is called a click where the probability is above it (logit above log(t / (1 - t))), in (0, 1).
        common: `output`, `label` and `where`, as in `Metric`.
    """

    merging = {"right": "sum", "rows": "sum"}
    mode = "max"

    def __init__(self, schema: Schema, *, threshold: Annotated[float, Gt(0), Lt(1)] = 0.5, **common: Any) -> None:
        super().__init__(schema, **common)
        self.threshold = threshold

    @abc.abstractmethod
    def among(self, called: Tensor, target: Tensor) -> Tensor:
        """Return which rows count, (B,) of 0 and 1, from rows called clicks and clicked rows (B,)."""

    def update(self, outputs: Outputs, batch: Batch) -> State:
        logit, target = self.prediction(outputs).double(), self.target(batch).double()
        weight = torch.ones_like(target) if batch.weight is None else batch.weight.double()
        called = (logit > math.log(self.threshold / (1 - self.threshold))).double()
        called = called.masked_fill(logit.isnan(), float("nan"))
        return {"right": (called * target * weight).sum(), "rows": (self.among(called, target) * weight).sum()}

    def compute(self, state: State) -> float:
        return float(state["right"] / state["rows"])  # 0 / 0 is NaN in torch

"""The objectives that trials are compared by: one metric, or several with a front of trials that no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from rechub_ray.config import RunConfig, Section
from rechub_ray.freezing import freeze
from rechub_ray.models import MODELS
from rechub_ray.schema import Schema

SIZES = ("num_parameters", "parameter_bytes")
"""Names of the objectives that are not metrics: the number of the model's trainable weights, and their bytes."""


class Objective(Section):
    """One objective.

    Args:
        metric: a metric of the validation split, or `num_parameters` or `parameter_bytes`.
        mode: `max` or `min`; null takes the metric's own, and `min` for a size.
    """

    metric: str
    mode: Literal["max", "min"] | None = None

    @property
    def report_key(self) -> str:
        """The objective's name in a trial's reports."""
        return self.metric if self.metric in SIZES else f"val/{self.metric}"


def model_size(config: RunConfig, schema: Schema) -> dict[str, int]:
    """Return the size of a run's model by the names in `SIZES`, without memory for its weights."""
    with torch.device("meta"):
        model = MODELS.build(config.model, schema, where="model")
        freeze(model, config.train.freeze)
    weights = [p for p in model.parameters() if p.requires_grad]
    sizes = (sum(p.numel() for p in weights), sum(p.numel() * p.element_size() for p in weights))
    return dict(zip(SIZES, sizes, strict=True))


def values_of(record: Mapping[str, Any], objectives: Sequence[Objective]) -> list[float] | None:
    """Return a trial's value in each objective at its best evaluation by the first one; None without evaluation."""
    if record["score"] is None:
        return None
    return [float(record[o.metric] if o.metric in SIZES else record["metrics"][o.metric]) for o in objectives]

"""Metrics: whole evaluation sets over any number of workers, from logits; one file each, found by `METRICS`."""

from __future__ import annotations

from typing import Any

from rechub_ray.metrics.base import METRICS, Accumulator, Metric
from rechub_ray.metrics.metric_set import MetricSet

__all__ = ["METRICS", "Accumulator", "Metric", "MetricSet"]


def __getattr__(name: str) -> Any:
    return METRICS.attribute(__name__, name)

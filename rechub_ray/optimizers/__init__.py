"""Optimizers, one file each, found by `OPTIMIZERS`; and which parameters each one updates."""

from __future__ import annotations

from typing import Any

from rechub_ray.optimizers.base import OPTIMIZERS, SparseOptimizer, takes_row_gradients
from rechub_ray.optimizers.groups import BuiltOptimizer, build_optimizers, by_task, state_shapes, validate_optimizer

__all__ = [
    "OPTIMIZERS",
    "BuiltOptimizer",
    "SparseOptimizer",
    "build_optimizers",
    "state_shapes",
    "takes_row_gradients",
    "by_task",
    "validate_optimizer",
]


def __getattr__(name: str) -> Any:
    return OPTIMIZERS.attribute(__name__, name)

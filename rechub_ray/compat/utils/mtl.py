"""Helpers of multi-task models under Torch-RecHub's names."""

from __future__ import annotations

from typing import Any

from torch import nn

from rechub_ray import task
from rechub_ray.compat.missing import refuse
from rechub_ray.models.base import Model
from rechub_ray.trainers.metabalance import MetaBalance
from rechub_ray.trainers.unbuilt import Unbuilt, built

__all__ = ["MetaBalance", "shared_task_layers"]


def shared_task_layers(model: Model | Unbuilt) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that several tasks are computed from, and those that one alone is.

    Raises:
        ConfigError: the model's features were given by name, and `fit` has not built it yet.
    """
    return task.shared_task_layers(built(model))


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=("gradnorm",))

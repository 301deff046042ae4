"""Models: one file each, found by `MODELS` when one is first asked for."""

from __future__ import annotations

from typing import Any

from rechub_ray.models.base import MODELS, Model
from rechub_ray.models.foreign import adapted

__all__ = ["MODELS", "Model", "adapted"]


def __getattr__(name: str) -> Any:
    return MODELS.attribute(__name__, name)

"""Models: one file each, found by `MODELS` when one is first asked for."""

from __future__ import annotations

from typing import Any

from rechub_ray.models.base import MODELS, Model

__all__ = ["MODELS", "Model"]


def __getattr__(name: str) -> Any:
    return MODELS.attribute(__name__, name)

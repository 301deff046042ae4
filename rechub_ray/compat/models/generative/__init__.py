"""Generative models with Torch-RecHub's arguments; each function returns a model of rechub_ray."""

from __future__ import annotations

from typing import Any

from rechub_ray.compat.missing import refuse
from rechub_ray.compat.models.generative.hstu import HSTUModel

__all__ = ["HSTUModel"]
_MISSING = ("HLLMModel", "RQVAEModel", "TIGERModel")


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=_MISSING)

"""Where a step's negatives come from: one file each, found by `NEGATIVES` when one is first asked for."""

from __future__ import annotations

from typing import Any

from rechub_ray.negatives.base import NEGATIVES, Negatives

__all__ = ["NEGATIVES", "Negatives"]


def __getattr__(name: str) -> Any:
    return NEGATIVES.attribute(__name__, name)

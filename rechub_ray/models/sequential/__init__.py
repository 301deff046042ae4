"""Models for retrieval that read a user's items in their order."""

from __future__ import annotations

from typing import Any

from rechub_ray.models.base import MODELS


def __getattr__(name: str) -> Any:
    return MODELS.attribute(__name__, name)

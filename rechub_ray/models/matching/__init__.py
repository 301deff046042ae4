"""Models for retrieval: vectors of users and of items, whose product says what a user chooses."""

from __future__ import annotations

from typing import Any

from rechub_ray.models.base import MODELS


def __getattr__(name: str) -> Any:
    return MODELS.attribute(__name__, name)

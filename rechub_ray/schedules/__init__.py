"""Learning-rate schedules: one file each, found by `SCHEDULES`."""

from __future__ import annotations

from typing import Any

from rechub_ray.schedules.base import SCHEDULES, Schedule

__all__ = ["SCHEDULES", "Schedule"]


def __getattr__(name: str) -> Any:
    return SCHEDULES.attribute(__name__, name)

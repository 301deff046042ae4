"""Trackers: where a run's numbers go; one file each, found by `TRACKERS`."""

from __future__ import annotations

from typing import Any

from rechub_ray.tracking.adapter import LoggerAdapter
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker
from rechub_ray.tracking.jsonl import read_history
from rechub_ray.tracking.trackers import Trackers, check_trackers

__all__ = ["TRACKERS", "LoggerAdapter", "RunInfo", "Tracker", "Trackers", "check_trackers", "read_history"]


def __getattr__(name: str) -> Any:
    return TRACKERS.attribute(__name__, name)

"""Sweeps over configurations on Ray Tune."""

from __future__ import annotations

from rechub_ray.sweeps.launch import tune
from rechub_ray.sweeps.results import SweepResult, print_sweep
from rechub_ray.sweeps.tuner import Tuner

__all__ = ["SweepResult", "Tuner", "print_sweep", "tune"]

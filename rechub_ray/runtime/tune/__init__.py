"""Sweeps over configurations on Ray Tune."""

from __future__ import annotations

from rechub_ray.runtime.tune.launch import tune
from rechub_ray.runtime.tune.results import SweepResult, print_sweep
from rechub_ray.runtime.tune.tuner import Tuner

__all__ = ["SweepResult", "Tuner", "print_sweep", "tune"]

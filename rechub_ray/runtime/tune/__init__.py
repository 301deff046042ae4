"""Sweeps over configurations on Ray Tune."""

from __future__ import annotations

from rechub_ray.runtime.tune.launch import SweepResult, tune

__all__ = ["SweepResult", "tune"]

"""A constant rate."""

from __future__ import annotations

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The base rate throughout, after the warmup if there is one; its arguments are those of `Schedule`."""

    def after_warmup(self, step: int) -> float:
        return 1.0

"""A constant rate."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The base rate throughout, after the warmup if there is one.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        warmup_steps: steps of linear warmup, >= 0.
        warmup_lr: rate of the warmup's first step, >= 0.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        warmup_steps: Annotated[int, Ge(0)] = 0,
        warmup_lr: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(total_steps, base_lr, warmup_steps=warmup_steps, warmup_lr=warmup_lr)

    def after_warmup(self, step: int) -> float:
        return 1.0

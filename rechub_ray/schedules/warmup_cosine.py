"""Half a cosine."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("warmup_cosine")
class WarmupCosine(Schedule):
    """Linear warmup, the base rate for a while, then half a cosine down to a floor at the run's last step.

    lr_t = min_lr + (lr - min_lr) * (1 + cos(pi * p)) / 2, with p the part of the steps after warmup and hold.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        warmup_steps: steps of linear warmup, >= 0.
        warmup_lr: rate of the warmup's first step, >= 0.
        hold_steps: steps at the base rate between warmup and cosine, >= 0.
        min_lr: rate at the end, >= 0.

    Example:
        >>> schedule = WarmupCosine(100, 0.1, warmup_steps=10)
        >>> [round(schedule.factor(step), 3) for step in (0, 5, 10, 55, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.0]

    Reference:
        Loshchilov and Hutter, SGDR, arXiv:1608.03983, equation 5, without restarts.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        warmup_steps: Annotated[int, Ge(0)] = 0,
        warmup_lr: Annotated[float, Ge(0)] = 0.0,
        hold_steps: Annotated[int, Ge(0)] = 0,
        min_lr: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(total_steps, base_lr, warmup_steps=warmup_steps, warmup_lr=warmup_lr)
        self._start, self._floor = warmup_steps + hold_steps, self._relative(min_lr)

    def after_warmup(self, step: int) -> float:
        length = max(1, self.total_steps - self._start)
        part = min(max(step - self._start, 0) / length, 1.0)
        return self._floor + (1 - self._floor) * (1 + math.cos(math.pi * part)) / 2

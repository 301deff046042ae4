"""Half a cosine, once or again and again."""

from __future__ import annotations

import math
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("warmup_cosine", "cosine")
class WarmupCosine(Schedule):
    """Linear warmup, the base rate for a while, then half a cosine down to a floor at the run's last step.

    lr_t = min_lr + (lr - min_lr) * (1 + cos(pi * p)) / 2, with p the part of the steps after warmup and hold.

    With `cycle_steps` the cosine ends after that many steps, and another one starts at the top (warm restarts). The
    run's length then has no part in it.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        hold_steps: steps at the base rate between warmup and cosine, >= 0.
        min_lr: rate at the end, >= 0.
        cycle_steps: steps of the first cosine, >= 1; null takes one cosine to the run's end.
        cycle_factor: length of each cosine in that of the one before it, >= 1.
        peak_factor: top of each cosine over the floor, in that of the one before it; in (0, 1].
        common: see `Schedule`.

    Example:
        >>> schedule = WarmupCosine(100, 0.1, warmup_steps=10)
        >>> [round(schedule.factor(step), 3) for step in (0, 5, 10, 55, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.0]

    Reference:
        Loshchilov and Hutter, SGDR, arXiv:1608.03983, equation 5; cycle_steps is its T_0, cycle_factor its T_mult.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        hold_steps: Annotated[int, Ge(0)] = 0,
        min_lr: Annotated[float, Ge(0)] = 0.0,
        cycle_steps: Annotated[int, Ge(1)] | None = None,
        cycle_factor: Annotated[float, Ge(1)] = 1.0,
        peak_factor: Annotated[float, Gt(0), Le(1)] = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(total_steps, base_lr, **common)
        self._start, self._floor = self.warmup_steps + hold_steps, self._relative(min_lr)
        self._cycle, self._cycle_factor, self._peak_factor = cycle_steps, cycle_factor, peak_factor

    def after_warmup(self, step: int) -> float:
        cycle, part = self._place(max(step - self._start, 0))
        return self._floor + (1 - self._floor) * self._peak_factor**cycle * (1 + math.cos(math.pi * part)) / 2

    def _place(self, steps: int) -> tuple[int, float]:
        """Return the number of whole cosines before a step, and the part of the one it is in."""
        if self._cycle is None:
            return 0, min(steps / max(1, self.total_steps - self._start), 1.0)
        if self._cycle_factor == 1:
            return steps // self._cycle, steps % self._cycle / self._cycle
        cycle, left, length = 0, float(steps), float(self._cycle)
        while left >= length:
            cycle, left, length = cycle + 1, left - length, length * self._cycle_factor
        return cycle, left / length

"""Polynomial decay."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("polynomial")
class Polynomial(Schedule):
    """From the base rate to `end_lr` at the run's last step, along a power (1 is a straight line).

    lr_t = end_lr + (lr - end_lr) * (1 - p)^power, with p the part of the steps after the warmup.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        power: the exponent, > 0.
        end_lr: rate at the end, >= 0.
        warmup_steps: steps of linear warmup, >= 0.
        warmup_lr: rate of the warmup's first step, >= 0.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        power: Annotated[float, Gt(0)] = 1.0,
        end_lr: Annotated[float, Ge(0)] = 0.0,
        warmup_steps: Annotated[int, Ge(0)] = 0,
        warmup_lr: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(total_steps, base_lr, warmup_steps=warmup_steps, warmup_lr=warmup_lr)
        self._power, self._end = power, self._relative(end_lr)

    def after_warmup(self, step: int) -> float:
        length = max(1, self.total_steps - self.warmup_steps)
        part = min((step - self.warmup_steps) / length, 1.0)
        return float(self._end + (1 - self._end) * (1 - part) ** self._power)

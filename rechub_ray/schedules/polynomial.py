"""Polynomial decay."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("polynomial", "poly")
class Polynomial(Schedule):
    """From the base rate to `end_lr` at the run's last step, along a power (1 is a straight line).

    lr_t = end_lr + (lr - end_lr) * (1 - p)^power, with p the part of the steps after the warmup.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        power: the exponent, > 0.
        end_lr: rate at the end, >= 0.
        common: see `Schedule`.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        power: Annotated[float, Gt(0)] = 1.0,
        end_lr: Annotated[float, Ge(0)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(total_steps, base_lr, **common)
        self._power, self._end = power, self._relative(end_lr)

    def after_warmup(self, step: int) -> float:
        part = min((step - self.warmup_steps) / self.length, 1.0)
        return float(self._end + (1 - self._end) * (1 - part) ** self._power)

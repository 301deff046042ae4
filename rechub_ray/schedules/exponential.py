"""Exponential decay."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("exponential")
class Exponential(Schedule):
    """The rate times `decay` every `decay_steps` steps, never below a floor (the warmup neither).

    lr_t = max(min_lr, lr * decay^((t - warmup_steps) / decay_steps))

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        decay: what the rate is multiplied by, in (0, 1].
        decay_steps: steps between two such multiplications, >= 1.
        staircase: whether the rate falls at once every `decay_steps` steps (the exponent is rounded down).
        min_lr: the floor, >= 0.
        common: see `Schedule`.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        decay: Annotated[float, Gt(0), Le(1)],
        decay_steps: Annotated[int, Ge(1)],
        staircase: bool = False,
        min_lr: Annotated[float, Ge(0)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(total_steps, base_lr, **common)
        self._decay, self._decay_steps, self._staircase = decay, decay_steps, staircase
        self._floor = self._relative(min_lr)

    def factor(self, step: int) -> float:
        return max(self._floor, super().factor(step))

    def after_warmup(self, step: int) -> float:
        times = (step - self.warmup_steps) / self._decay_steps
        return self._decay ** (int(times) if self._staircase else times)
